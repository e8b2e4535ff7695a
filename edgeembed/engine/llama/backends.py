"""Backends that llama.cpp loads at run time: a build for many processors (GGML_BACKEND_DL) has a module for each generation.

Such a build computes nothing before a module is loaded. Modules for graphics cards are loaded only where one is wanted:
their driver may be broken. Modules lie beside the library, and are loaded through its own handle: a second copy of ggml
would have a registry that llama.cpp never reads. llama.cpp's own search is never used: without a folder, it would also load
modules from the working directory.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from edgeembed.engine.gpu import vulkan
from edgeembed.engine.gpu.inventory import GPU_BACKENDS, LIBRARY_VARIABLE, backend_of, gpu_libraries
from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.llama.ggml import DEVICE_CPU, SCORE_FUNCTION, function
from edgeembed.engine.llama.library import ModelLoadError

FOLDER = Path(os.environ.get(LIBRARY_VARIABLE) or Path(lib.__file__).parent / "lib")


@cache
def load_backends(*, oldest: bool, gpu: bool = False) -> None:
    """Load the best module for this processor, or the one with the oldest kernels; nothing where the build needs none.

    gpu: load the modules for graphics cards too; one that cannot be loaded is skipped. Raises ModelLoadError when no module
    suits this processor.
    """
    if gpu:
        if has_vulkan():
            vulkan.show_software()
        for file in gpu_modules():
            _load(file)
    modules = processor_modules()
    if not modules:
        return
    usable = {file: score for file in modules if (score := _score(file)) > 0}
    if usable:
        # The baseline of an architecture can have the same score as another module; then the first by name is the oldest.
        order = sorted(usable, key=lambda file: (usable[file], file.name))
        _load(order[0] if oldest else max(order, key=lambda file: usable[file]))
    if not function("ggml_backend_dev_by_type")(DEVICE_CPU):
        raise ModelLoadError(f"no module in {FOLDER} suits this processor", fatal=True)


def processor_modules() -> list[Path]:
    """Return the modules for processors; none where the kernels are in the library itself."""
    return sorted(file for file in FOLDER.glob("*ggml-cpu-*") if file.suffix in (".so", ".dll"))


def gpu_modules() -> list[Path]:
    """Return the modules for graphics cards; none where the build has none, or has them in the library itself."""
    names = {name for backend in GPU_BACKENDS for name in (f"libggml-{backend}.so", f"ggml-{backend}.dll")}
    return sorted(file for file in FOLDER.glob("*ggml-*") if file.name in names and not _is_linked(file))


def has_vulkan() -> bool:
    """Return whether the build has Vulkan, as a module or in the library itself. Vulkan's drivers are loaded only then."""
    return any(backend_of(file) == "vulkan" for file in gpu_libraries(FOLDER))


def device_handles(names: Sequence[str]) -> Any:
    """Return what `llama_model_params.devices` takes: these devices of ggml and no others; none for an empty list.

    Keep it until the model is loaded. Raises ModelLoadError for a name that no backend has.
    """
    find = function("ggml_backend_dev_by_name")
    handles = (ctypes.c_void_p * (len(names) + 1))()
    for number, name in enumerate(names):
        handles[number] = find(name.encode())
        if not handles[number]:
            raise ModelLoadError(f"llama.cpp finds no device {name}", fatal=False, cause="no_device")
    return handles


def _is_linked(file: Path) -> bool:
    """Return whether llama.cpp is linked with this library: it is loaded and registered then without our help."""
    return any(file.parent.glob(f"{file.name}.*"))  # a linked library has versioned names beside it, a module has not


def _load(file: Path) -> None:
    function("ggml_backend_load")(os.fsencode(file))


def _score(file: Path) -> int:
    """Return a module's own score of how well it suits this processor; 0 when it cannot run here."""
    try:
        module = ctypes.CDLL(str(file))
    except OSError:
        return 0
    try:
        score = module[SCORE_FUNCTION]
        score.restype = ctypes.c_int
        score.argtypes = ()
        return int(score())
    except AttributeError:
        return 0
    finally:
        _unload(module)


def _unload(module: ctypes.CDLL) -> None:
    """Unload a library, so that the modules that are not used take no memory."""
    import _ctypes

    close = getattr(_ctypes, "FreeLibrary", None) or getattr(_ctypes, "dlclose")  # noqa: B009  Windows has no dlclose
    close(module._handle)
