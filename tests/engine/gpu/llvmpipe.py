"""A build of llama.cpp with Vulkan, and Mesa's driver that computes on the processor: a graphics card for tests."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import platformdirs
import pytest

from edgeembed.engine.gpu.inventory import LIBRARY_VARIABLE, library_folder
from edgeembed.engine.llama.ggml import LLAMA_CPP_PYTHON
from tests.engine.contract import unavailable
from tests.sharing import once

MODULE = "libggml-vulkan.so"
KEPT = platformdirs.user_cache_path("edgeembed-tests") / f"vulkan-{LLAMA_CPP_PYTHON}"
"""Where the module is looked for, and where compiled shaders stay for the next run; `.ci/run` builds the module into it."""
DRIVERS = tuple(Path(folder) / "vulkan" / "icd.d" for folder in ("/usr/share", "/usr/local/share", "/etc"))


def driver() -> Path:
    """Return the file with which Vulkan's loader finds llvmpipe; skip the test where there is none, in CI fail it."""
    if sys.platform != "linux":
        pytest.skip("Mesa's software driver is tested on Linux, not on macOS or Windows")
    found = next((file for folder in DRIVERS for file in sorted(folder.glob("lvp_icd*.json"))), None)
    return found or unavailable("Mesa's software driver for Vulkan is missing (apt install mesa-vulkan-drivers)")


def vulkan_build(shared: Path) -> Path:
    """Return a copy of the installed libraries with the module; skip the test where there is none, in CI fail it."""
    if not (KEPT / MODULE).exists():
        unavailable(f"{KEPT / MODULE} is missing (installers/vulkan/build.sh {KEPT})")

    def make(target: Path) -> None:
        installed = library_folder({})
        assert installed is not None
        shutil.copytree(installed, target)
        shutil.copy(KEPT / MODULE, target)

    return once(shared / "vulkan-libraries", make)


def use(monkeypatch: pytest.MonkeyPatch, libraries: Path, icd: Path) -> None:
    """Make processes that are started from now on use these libraries and this driver, and no other."""
    for name in list(os.environ):
        if name.startswith(("VK_", "GGML_VK_", "MESA_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv(LIBRARY_VARIABLE, str(libraries))
    monkeypatch.setenv("VK_ICD_FILENAMES", str(icd))  # of all loaders; newer ones call it VK_DRIVER_FILES
    monkeypatch.setenv("MESA_SHADER_CACHE_DIR", str(KEPT))
