"""Puts our kernels into the loaded llama.cpp, before a model is.

llama.cpp keeps the weights of a processor feature in a buffer type of that feature, and asks each of them about every
operation. Ours joins their list, behind those that llama.cpp has: with AMX, it gets no weights. A model loaded without
extra buffers, as on the lower rungs of the ladder, has none of it.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from importlib.metadata import version
from pathlib import Path

from edgeembed.engine.kernels import library_file
from edgeembed.engine.llama_library import function

log = logging.getLogger(__name__)

LLAMA_CPP_PYTHON = "0.3.36"
"""The release whose structures `kernels/ggml.h` describes; they are no published interface."""

LEVELS = {1: "AVX2", 2: "AVX-VNNI", 3: "AVX-512 VNNI"}
"""What processors have, by the number that `kernels/kernels.cpp` gives it."""

PLAIN_KERNELS = "llama.cpp's own kernels"

_FUNCTIONS = (
    "_Z39ggml_backend_cpu_get_extra_buffer_typesv",
    "ggml_backend_cpu_buffer_type",
    "ggml_backend_buft_alloc_buffer",
    "ggml_barrier",
    "ggml_op_name",
    "ggml_unary_op_name",
    "ggml_tensor_overhead",
)
"""In the order of `Ggml` in `kernels/ggml.h`."""
_MAPS = Path("/proc/self/maps")


@cache
def install_kernels() -> str:
    """Add our kernels to llama.cpp's, once in a process, and say what became of it, in a few words."""
    try:
        return _install()
    except (OSError, AttributeError) as error:
        log.debug("our kernels cannot be added to llama.cpp's: %s", error)
        return f"{PLAIN_KERNELS} ({error})"


def _install() -> str:
    file = library_file()
    if file is None:
        return f"{PLAIN_KERNELS} (ours were not compiled)"
    if version("llama-cpp-python") != LLAMA_CPP_PYTHON:
        return f"{PLAIN_KERNELS} (ours are for llama-cpp-python {LLAMA_CPP_PYTHON})"
    library = ctypes.CDLL(str(file))
    level = int(library.edgeembed_kernels_level())
    if level not in LEVELS:
        return f"{PLAIN_KERNELS} (ours are for x86 with AVX2, and compiled by GCC)"
    functions = (ctypes.c_void_p * len(_FUNCTIONS))(*map(_address, _FUNCTIONS))
    library.edgeembed_kernels_install.restype = ctypes.c_char_p
    problem = library.edgeembed_kernels_install(functions, level)
    if problem is not None:
        return f"{PLAIN_KERNELS} ({problem.decode()})"
    return f"edgeembed's kernels ({LEVELS[level]})"


def _address(name: str) -> int | None:
    """Give the address of a function. Raises AttributeError when llama.cpp has none of this name."""
    try:
        found = function(name, None)
    except (AttributeError, OSError):
        found = _cpu_module()[name]
    return ctypes.cast(found, ctypes.c_void_p).value


def _cpu_module() -> ctypes.CDLL:
    """Give the module for processors that llama.cpp has loaded at run time. Raises AttributeError when there is none."""
    if _MAPS.exists():
        for line in _MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
            path = line.partition("/")[2]
            if "ggml-cpu" in path.rpartition("/")[2]:
                return ctypes.CDLL(f"/{path}")
    raise AttributeError("ggml's module for processors is not to be found")
