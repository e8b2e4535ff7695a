"""Kernels that llama.cpp loads at run time: a build for many processors (GGML_BACKEND_DL) has a module for each generation.

Such a build computes nothing before a module is loaded, and its modules for graphics cards are loaded where one is asked
for alone: their driver may be broken. They lie beside the library, and are loaded through its own handle: a second copy of
ggml would have a registry that llama.cpp never reads. llama.cpp's own search, without a folder, would take modules from the
working directory; it is never used.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from edgeembed.engine.gpu.inventory import GPU_BACKENDS, LIBRARY_VARIABLE
from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.llama.library import ModelLoadError, function

FOLDER = Path(os.environ.get(LIBRARY_VARIABLE) or Path(lib.__file__).parent / "lib")


@cache
def load_backends(*, oldest: bool, gpu: bool = False) -> None:
    """Load the best module for this processor, or the one with the oldest kernels; nothing where the build needs none.

    gpu: load the modules for graphics cards too; one that cannot be loaded is passed over. Raises ModelLoadError when no
    module suits this processor.
    """
    if gpu:
        for file in gpu_modules():
            _load(file)
    modules = processor_modules()
    if not modules:
        return
    usable = {file: score for file in modules if (score := _score(file)) > 0}
    if usable:
        # The baseline of the architecture scores like the plainest of the others: its name decides then.
        order = sorted(usable, key=lambda file: (usable[file], file.name))
        _load(order[0] if oldest else max(order, key=lambda file: usable[file]))
    if not function("ggml_backend_dev_by_type", ctypes.c_void_p, ctypes.c_int)(0):
        raise ModelLoadError(f"no module in {FOLDER} suits this processor", fatal=True)


def processor_modules() -> list[Path]:
    """Give the modules for processors; none where the kernels are in the library itself."""
    return sorted(file for file in FOLDER.glob("*ggml-cpu-*") if file.suffix in (".so", ".dll"))


def gpu_modules() -> list[Path]:
    """Give the modules for graphics cards; none where the build has none, or has them in the library itself."""
    names = {name for backend in GPU_BACKENDS for name in (f"libggml-{backend}.so", f"ggml-{backend}.dll")}
    return sorted(file for file in FOLDER.glob("*ggml-*") if file.name in names and not _is_linked(file))


def device_handles(names: Sequence[str]) -> Any:
    """Give what `llama_model_params.devices` takes: these devices of ggml alone, none for an empty list.

    Keep it until the model is loaded. Raises ModelLoadError for a name that no backend has.
    """
    find = function("ggml_backend_dev_by_name", ctypes.c_void_p, ctypes.c_char_p)
    handles = (ctypes.c_void_p * (len(names) + 1))()
    for number, name in enumerate(names):
        handles[number] = find(name.encode())
        if not handles[number]:
            raise ModelLoadError(f"llama.cpp finds no device {name}", fatal=False, cause="no_device")
    return handles


def _is_linked(file: Path) -> bool:
    """Say whether llama.cpp needs this library anyway: it is loaded then, and registered by itself."""
    return any(file.parent.glob(f"{file.name}.*"))  # versions are for those that are linked; a module has none


def _load(file: Path) -> None:
    function("ggml_backend_load", ctypes.c_void_p, ctypes.c_char_p)(os.fsencode(file))


def _score(file: Path) -> int:
    """Ask a module how well it suits this processor; 0 when it cannot run here."""
    try:
        module = ctypes.CDLL(str(file))
    except OSError:
        return 0
    try:
        score = module.ggml_backend_score
        score.restype = ctypes.c_int
        score.argtypes = ()
        return int(score())
    except AttributeError:
        return 0
    finally:
        _let_go(module)


def _let_go(module: ctypes.CDLL) -> None:
    """Close a library: each of the others would take memory for nothing."""
    import _ctypes

    close = getattr(_ctypes, "FreeLibrary", None) or getattr(_ctypes, "dlclose")  # noqa: B009  Windows has no dlclose
    close(module._handle)
