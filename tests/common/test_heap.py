"""Free memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from edgeembed.common import heap
from edgeembed.common.heap import IdleTrim

LEAVES_HOLES = """
import ctypes, os, threading
from edgeembed.common.heap import configure_heap, trim_heap

configure_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

def leave_holes():
    blocks = [libc.malloc(50_000) for _ in range(2000)]
    for block in blocks:
        ctypes.memset(block, 1, 50_000)
    for number, block in enumerate(blocks):
        if number % 20:
            libc.free(block)

for _ in range(3):
    thread = threading.Thread(target=leave_holes)
    thread.start()
    thread.join()
full = resident()
trim_heap()
print(full - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has glibc")
def test_trimming_frees_the_holes_of_a_heap() -> None:
    freed = subprocess.run([sys.executable, "-c", LEAVES_HOLES], capture_output=True, text=True, check=True, timeout=60)
    assert float(freed.stdout) > 50, "of 285 MiB; how much depends on the environment"


def test_the_heap_is_trimmed_once_when_work_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_glibc", object)
    monkeypatch.setattr(heap, "QUIET_SECONDS", 0.01)
    trimmed = threading.Semaphore(0)
    idle = IdleTrim(trimmed.release)
    for _ in range(2):
        for _ in range(100):
            idle.note_work()
        assert trimmed.acquire(timeout=20)


def test_nothing_happens_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    before = threading.active_count()
    idle = IdleTrim()
    idle.note_work()
    heap.configure_heap()
    heap.trim_heap()
    assert threading.active_count() == before
