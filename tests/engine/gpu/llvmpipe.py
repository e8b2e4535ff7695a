"""A build of llama.cpp with Vulkan, and Mesa's driver that computes on the processor: a graphics card for tests."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import platformdirs
import pytest

from edgeembed.engine.execution_modes import CPU_BEST, GPU_FULL, ExecutionMode
from edgeembed.engine.gpu.inventory import LIBRARY_VARIABLE, library_folder
from edgeembed.engine.gpu.placement import Gpus, for_card
from edgeembed.engine.interface import BULK, Float32Row
from edgeembed.engine.llama.ggml import LLAMA_CPP_PYTHON
from edgeembed.engine.supervisor.process import WORKER_COMMAND
from edgeembed.engine.supervisor.worker_engine import WorkerEngine
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.hub.gguf.weights import read_weights
from tests.engine.contract import unavailable
from tests.engine.supervisor.real_workers import TEXTS, engine, options, rows_are_right, until
from tests.sharing import once

MODULE = "libggml-vulkan.so"
KEPT = platformdirs.user_cache_path("edgeembed-tests") / f"vulkan-{LLAMA_CPP_PYTHON}"
"""Where the module is looked for, and where compiled shaders stay for the next run; `.ci/run` builds the module into it."""
DRIVERS = tuple(Path(folder) / "vulkan" / "icd.d" for folder in ("/usr/share", "/usr/local/share", "/etc"))
DEVICE = "vulkan:0"
LEAST_COSINE = 0.999
COMPILING = 600.0
"""Seconds for what needs new shaders: the driver takes up to 20 s of processor time for one, beside other tests."""


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


async def rows_of_processor(file: Path) -> dict[str, Float32Row]:
    async with engine(lambda mode: options(mode, file=file), modes=(CPU_BEST,)) as made:
        await made.start()
        rows = await asyncio.gather(*made.submit(TEXTS, BULK))
        return {text: row.vector for text, row in zip(TEXTS, rows, strict=True)}


@asynccontextmanager
async def on_card(
    file: Path,
    *,
    layers: str = "auto",
    command: tuple[str, ...] = WORKER_COMMAND,
    batch: int = 64,
    modes: tuple[ExecutionMode, ...] = (),
    hang_seconds: float = COMPILING,
) -> AsyncIterator[WorkerEngine]:
    """Run a model as the daemon does where the settings name the device.

    batch: tokens of a forward pass. modes: the engine's; without any, those that the sizes of the model allow.
    """
    gpus = Gpus(DEVICE, layers)
    sizes = read_weights(file)

    def place(mode: ExecutionMode) -> WorkerOptions:
        plain = options(mode, file=file)
        return plain if mode.gpu == "none" else gpus.place(mode, "model", sizes, for_card(plain, batch))

    allowed = modes or (*gpus.modes(sizes, for_card(options(GPU_FULL, file=file), batch)), CPU_BEST)
    async with engine(place, command, modes=allowed, load_timeout=COMPILING, hang_seconds=hang_seconds) as made:
        await made.start()
        yield made


async def is_demoted_and_promoted(
    made: WorkerEngine, expected: dict[str, Float32Row], cause: str, cure: Callable[[], object]
) -> str:
    """Assert that the model is demoted with the cause, that no row is lost, and that the device is used again when cured.

    Return the reason of the demotion.
    """
    await rows_are_right(made, expected, LEAST_COSINE)
    (demotion,) = made.status.demotions
    assert (made.status.mode, demotion.mode, demotion.cause) == ("cpu", "gpu-full", cause), demotion.reason
    cure()
    await until(lambda: made.status.mode == "gpu-full" and made.status.state == "ready", COMPILING)
    await rows_are_right(made, expected, LEAST_COSINE)
    assert made.status.demotions == []
    return demotion.reason
