"""Memory that is returned to the system: of the C library's heap, which only glibc keeps (see mallopt(3)), and of blocks
whose content nobody needs.

On other systems, the functions do nothing.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable

QUIET_SECONDS = 5.0
"""The heap is trimmed after this time without work, as other threads cannot allocate while it is trimmed."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Parameters of `mallopt`, from glibc's malloc.h."""
_ARENAS = 2
"""Without a limit, each thread has its own, and what one has freed is not used by the others."""
_LARGE_BYTES = 2**20
"""A larger block goes back as soon as it is freed. By default this limit grows to 32 MiB with what was freed before."""
_KEPT_BYTES = 8 * 2**20
"""Free memory that is kept at the end of the heap."""


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    names = getattr(os, "confstr_names", {})
    if "CS_GNU_LIBC_VERSION" not in names or not os.confstr("CS_GNU_LIBC_VERSION"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def configure_heap() -> None:
    """Let the heap keep less free memory, unless the environment has settings for it; call this before threads start."""
    library = _glibc()
    if library is None or any(name.startswith("MALLOC_") for name in os.environ):
        return
    for parameter, value in ((_ARENA_MAX, _ARENAS), (_MMAP_THRESHOLD, _LARGE_BYTES), (_TRIM_THRESHOLD, _KEPT_BYTES)):
        library.mallopt(parameter, value)


def trim_heap() -> None:
    """Return the free memory of the heap to the system. May take tens of milliseconds."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


def drop_pages(address: int, size: int) -> None:
    """Return the whole pages within a block of anonymous memory to the system; they are zeros when they are next used.

    Linux only: elsewhere the same call may leave the content, or fail.
    """
    start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if sys.platform == "linux" and start < end:
        _libc().madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


class IdleTrim:
    """Trims the heap when there was no work for `QUIET_SECONDS`, on a thread of its own that starts with the first work."""

    def __init__(self, trim: Callable[[], None] = trim_heap) -> None:
        self._trim = trim
        self._work = threading.Event()
        self._last = 0.0
        self._started = _glibc() is None

    def note_work(self) -> None:
        """Record that there is work. Cheap enough for every message: it wakes the thread only after a trim."""
        self._last = time.monotonic()
        if not self._work.is_set():
            self._work.set()
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="trim", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._work.wait()
            while (left := self._last + QUIET_SECONDS - time.monotonic()) > 0:
                time.sleep(left)
            self._work.clear()
            self._trim()
