"""Adds our kernels to the loaded llama.cpp, before a model is loaded.

llama.cpp keeps the weights for a processor feature in a buffer type of that feature, and asks each of these types about
every operation. Ours joins their list, ahead of llama.cpp's own; `product_choice` measures which types of weights it should
leave to them. A model that is loaded without extra buffers, as in the lower execution modes, does not use it.
`kernels/README.md` explains the hook.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from edgeembed.common import trace
from edgeembed.engine.kernels import library_file
from edgeembed.engine.llama import ggml
from edgeembed.engine.llama.library import LLAMA_CPP_PYTHON

log = logging.getLogger(__name__)

LEVELS = {1: "AVX2", 2: "AVX-VNNI", 3: "AVX-512 VNNI"}
"""Names of the values of `Level` in `kernels/kernels.cpp`."""
AVX2 = 1

BUFFER_TYPE = b"CPU_EDGEEMBED"
"""The name of our buffer type."""

PASS_PARTS = (
    "find runs of nodes",
    "quantise",
    "products",
    "normalise",
    "attention",
    "other steps",
    "wait for threads",
    "llama.cpp's operations",
)
"""What a forward pass does, by the values of `Part` in `kernels/times.h`. The rest of it, llama.cpp builds the graph."""

_MAPS = Path("/proc/self/maps")


class _Functions:
    """The functions of our library that this process calls: all are found at once, so that none is missing later."""

    def __init__(self, file: Path) -> None:
        """Load the library. Raises OSError; AttributeError when it lacks a function."""
        library = ctypes.CDLL(str(file))
        self.written_for = library.edgeembed_kernels_written_for
        self.written_for.restype = ctypes.c_char_p
        self.level = library.edgeembed_kernels_level
        self.install = library.edgeembed_kernels_install
        self.install.restype = ctypes.c_char_p
        self.leave = library.edgeembed_kernels_leave
        self.measure_parts = library.edgeembed_kernels_measure_parts
        self.parts = library.edgeembed_kernels_parts
        self.parts.restype = ctypes.POINTER(ctypes.c_int64 * len(PASS_PARTS))
        self.drop_results = library.edgeembed_kernels_drop_results
        self.be_bulk = library.edgeembed_kernels_be_bulk
        # These return at once: to release Python's global lock for them would let bulk threads take it from a query.
        quick = ctypes.PyDLL(str(file))
        self.expect = quick.edgeembed_kernels_expect
        self.threads = quick.edgeembed_kernels_threads
        self.queries = quick.edgeembed_kernels_queries


class Kernels:
    """Which kernels are in use. words: their description for people."""

    def __init__(self, words: str, functions: _Functions | None = None, level: int = 0) -> None:
        self.words = words
        self.vnni = level > AVX2
        """Whether products use the instructions for dot products of bytes."""
        self._functions = functions

    @property
    def ours(self) -> bool:
        return self._functions is not None

    def leave(self, types: Iterable[int]) -> None:
        """Leave weights of these types to llama.cpp's own kernels, and only these, in models that are loaded from now on."""
        if self._functions is not None:
            self._functions.leave(ctypes.c_uint64(sum(1 << type_ for type_ in types)))

    def part_times(self) -> Callable[[], Iterable[int]]:
        """Measure the parts of passes from now on, and return a function: those of the calling thread's latest pass.

        In nanoseconds, in the order of PASS_PARTS.
        """
        assert self._functions is not None
        self._functions.measure_parts()
        parts = self._functions.parts
        return lambda: parts().contents

    def expect_query(self) -> None:
        """Let the threads that compute queries look for work without sleeping, for a short time."""
        if self._functions is not None:
            self._functions.expect()

    def threads_setter(self) -> Callable[[int], object]:
        """Return a function that sets how many threads compute the calling thread's next pass."""
        return self._functions.threads if self._functions is not None else lambda _threads: None

    def drop_results(self) -> None:
        """Return the memory for the results of the calling thread's latest pass, which have been read, to the system."""
        if self._functions is not None:
            self._functions.drop_results()

    def be_bulk(self) -> None:
        """Make the forward passes of the calling thread wait while any thread is between `begin_query` and `end_query`."""
        if self._functions is not None:
            self._functions.be_bulk()

    def begin_query(self) -> None:
        """Begin to compute an interactive query: bulk threads stop after their current piece of work, in about 0.1 ms."""
        if self._functions is not None:
            self._functions.queries(1)

    def end_query(self) -> None:
        """Let bulk threads go on, unless there is another query."""
        if self._functions is not None:
            self._functions.queries(-1)


PLAIN_KERNELS = Kernels("llama.cpp's own kernels")


@cache
def install_kernels(level: int | None = None) -> Kernels:
    """Add our kernels to llama.cpp's, once in a process, and return those that compute from now on.

    level: of `LEVELS`; by default the best one that this processor supports.
    """
    try:
        return _install(level)
    except (OSError, AttributeError) as error:
        log.debug("cannot add edgeembed's kernels to llama.cpp: %s", error)
        return _plain(str(error))


def installed_kernels() -> Kernels:
    """Return what computes in this process now, and install nothing."""
    return install_kernels() if install_kernels.cache_info().currsize else PLAIN_KERNELS


def measured(forward: Callable[[Any, Any], int]) -> Callable[[Any, Any], int]:
    """Return a function that also records the parts of a pass; the same one without a trace, or without our kernels."""
    kernels = installed_kernels()
    if trace.recorder is None or not kernels.ours:
        return forward
    times, part = kernels.part_times(), trace.recorder.part

    def compute(context: Any, batch: Any) -> int:
        code = forward(context, batch)
        for name, nanoseconds in zip(PASS_PARTS, times(), strict=True):
            if nanoseconds > 0:
                part(trace.PARTS + name, nanoseconds)
        return code

    return compute


def _install(level: int | None) -> Kernels:
    file = library_file()
    if file is None:
        return _plain("edgeembed's were not compiled")
    if LLAMA_CPP_PYTHON != ggml.LLAMA_CPP_PYTHON:
        return _plain(f"edgeembed's are for llama-cpp-python {ggml.LLAMA_CPP_PYTHON}")
    # LLAMA_CPP_LIB_PATH may name a llama.cpp of another version.
    found = ggml.function("ggml_version")().decode().partition("-")[0]
    if found != ggml.GGML:
        return _plain(f"edgeembed's are for ggml {ggml.GGML}, this is {found}")
    try:
        own = _Functions(file)
    except AttributeError:
        return _plain("edgeembed's were compiled for another edgeembed: install it again")
    if own.written_for().decode() != ggml.LLAMA_CPP_PYTHON:
        return _plain("edgeembed's were compiled for another llama.cpp: install edgeembed again")
    level = level or int(own.level())
    if level not in LEVELS:
        return _plain("edgeembed's need an x86 processor with AVX2, and GCC to compile them")
    functions = (ctypes.c_void_p * len(ggml.KERNEL_FUNCTIONS))(*map(_address, ggml.KERNEL_FUNCTIONS))
    problem = own.install(functions, level)
    if problem is not None:
        return _plain(problem.decode())
    return Kernels(f"edgeembed's kernels ({LEVELS[level]})", own, level)


def _plain(why: str) -> Kernels:
    return Kernels(f"{PLAIN_KERNELS.words} ({why})")


def _address(name: str) -> int | None:
    """Return the address of a function. Raises AttributeError when llama.cpp has none of this name."""
    try:
        found = ggml.find_symbol(name)
    except (AttributeError, OSError):
        found = _cpu_module()[name]
    return ctypes.cast(found, ctypes.c_void_p).value


def _cpu_module() -> ctypes.CDLL:
    """Return the CPU module that llama.cpp has loaded at run time. Raises AttributeError when there is none."""
    if _MAPS.exists():
        for line in _MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
            path = line.partition("/")[2]
            if "ggml-cpu" in path.rpartition("/")[2]:
                return ctypes.CDLL(f"/{path}")
    raise AttributeError("ggml's CPU module is not loaded")
