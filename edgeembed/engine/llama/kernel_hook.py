"""Puts our kernels into the loaded llama.cpp, before a model is.

llama.cpp keeps the weights of a processor feature in a buffer type of that feature, and asks each of them about every
operation. Ours joins their list, behind those that llama.cpp has: with AMX, it gets no weights. A model loaded without
extra buffers, as on the lower modes of the ladder, has none of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

from edgeembed.engine.kernels import library_file
from edgeembed.engine.llama.library import function

log = logging.getLogger(__name__)

LLAMA_CPP_PYTHON = "0.3.36"
"""The release whose structures `kernels/ggml.h` describes; they are no published interface."""

LEVELS = {1: "AVX2", 2: "AVX-VNNI", 3: "AVX-512 VNNI"}
"""What processors have, by the number that `kernels/kernels.cpp` gives it."""

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


class Kernels:
    """Whose kernels compute. words: for people."""

    def __init__(self, words: str, library: ctypes.CDLL | None = None) -> None:
        self.words = words
        self._library = library

    @property
    def ours(self) -> bool:
        return self._library is not None

    def be_bulk(self) -> None:
        """Let the calling thread wait, in its forward passes, whenever somebody is inside `query`."""
        if self._library is not None:
            self._library.edgeembed_kernels_be_bulk()

    @contextlib.contextmanager
    def query(self) -> Iterator[None]:
        """Compute what somebody waits for: bulk threads stop between two pieces of their work, after some 0.1 ms."""
        if self._library is None:
            yield
            return
        self._library.edgeembed_kernels_queries(1)
        try:
            yield
        finally:
            self._library.edgeembed_kernels_queries(-1)


PLAIN_KERNELS = Kernels("llama.cpp's own kernels")


@cache
def install_kernels() -> Kernels:
    """Add our kernels to llama.cpp's, once in a process, and say what became of it."""
    try:
        return _install()
    except (OSError, AttributeError) as error:
        log.debug("our kernels cannot be added to llama.cpp's: %s", error)
        return _without(str(error))


def _install() -> Kernels:
    file = library_file()
    if file is None:
        return _without("ours were not compiled")
    if version("llama-cpp-python") != LLAMA_CPP_PYTHON:
        return _without(f"ours are for llama-cpp-python {LLAMA_CPP_PYTHON}")
    library = ctypes.CDLL(str(file))
    level = int(library.edgeembed_kernels_level())
    if level not in LEVELS:
        return _without("ours are for x86 with AVX2, and compiled by GCC")
    functions = (ctypes.c_void_p * len(_FUNCTIONS))(*map(_address, _FUNCTIONS))
    library.edgeembed_kernels_install.restype = ctypes.c_char_p
    problem = library.edgeembed_kernels_install(functions, level)
    if problem is not None:
        return _without(problem.decode())
    return Kernels(f"edgeembed's kernels ({LEVELS[level]})", library)


def _without(why: str) -> Kernels:
    return Kernels(f"{PLAIN_KERNELS.words} ({why})")


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
