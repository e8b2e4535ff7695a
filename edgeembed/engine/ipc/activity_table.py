"""What each thread of a worker reads or computes just now, in memory that the daemon shares.

It can be read when the worker is dead: then these texts are the suspects.

A message for each batch would say the same, but it would wake the daemon's process at the very moment in which the threads
of a forward pass need all processors.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from edgeembed.engine.context_plan import MOST_BULK_LANES

NESTED = 1
"""Entry of the queries that the wide lane computes between two pieces of a long text; its own is the first."""
READING = {"reader": 2, "tokenize-bulk": 3, "tokenize-long": 4}
"""Entries of the threads that tokenise, by their names."""
FIRST_BULK = 5
"""Entry of the first bulk lane."""
ENTRIES = FIRST_BULK + MOST_BULK_LANES
_MEMORY = "/dev/shm"
"""Where Linux keeps files in memory: one on a disk is written out now and then, and whoever writes to its map waits."""
MOST_TEXTS = 64
"""Of one batch; ids beyond that are left out."""
_head = struct.Struct("<dq")
_entry = struct.Struct(f"<dq{MOST_TEXTS}q")  # Unix second of the start, number of texts, their ids


class ActivityTable:
    """One entry for each thread: since when it works on which texts. Each entry has one writer."""

    def __init__(self, path: Path | None) -> None:
        """Map a file that `create` made; without one, memory that nobody shares. Raises OSError."""
        self.path = path
        if path is None:
            self._memory = mmap.mmap(-1, ENTRIES * _entry.size)
            return
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), ENTRIES * _entry.size)

    @classmethod
    def create(cls) -> ActivityTable:
        """Make one in a new file, which `unlink` or `close` removes. Raises OSError when there is no place for it."""
        in_memory = sys.platform == "linux" and os.access(_MEMORY, os.W_OK | os.X_OK)
        handle, name = tempfile.mkstemp(prefix="edgeembed-", suffix=".activity_table", dir=_MEMORY if in_memory else None)
        try:
            os.write(handle, bytes(ENTRIES * _entry.size))  # not a hole: a full disk must say so now
        finally:
            os.close(handle)
        return cls(Path(name))

    def unlink(self) -> None:
        """Remove the file when everybody who wants it has it, so that nothing is left behind by a killed daemon.

        A system that does not remove files in use leaves that to `close`.
        """
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def begin(self, entry: int, ids: Sequence[int]) -> None:
        """Note what a thread begins."""
        at = entry * _entry.size
        kept = ids[:MOST_TEXTS]
        struct.pack_into(f"<{len(kept)}q", self._memory, at + _head.size, *kept)
        _head.pack_into(self._memory, at, time.time(), len(kept))  # last: what it counts is there

    def end(self, entry: int) -> None:
        """Note that a thread works on nothing."""
        _head.pack_into(self._memory, entry * _entry.size, 0.0, 0)

    @property
    def running(self) -> tuple[int, ...]:
        """Ids of all texts that are worked on."""
        return tuple(id_ for _, ids in self.entries.values() for id_ in ids)

    @property
    def busy_since(self) -> float | None:
        """Unix second at which the work began that has gone on for longest; None when there is none."""
        return min((began for began, _ in self.entries.values()), default=None)

    def close(self, *, remove: bool = False) -> None:
        """Let go of the memory, and remove the file."""
        self._memory.close()
        if remove:
            self.unlink()

    @property
    def entries(self) -> dict[int, tuple[float, tuple[int, ...]]]:
        """Of each thread that works, by its entry: the Unix second of the start, and the ids of its texts."""
        found = {}
        for number in range(ENTRIES):
            at = number * _entry.size
            began, count = _head.unpack_from(self._memory, at)
            if 0 < count <= MOST_TEXTS:
                found[number] = began, struct.unpack_from(f"<{count}q", self._memory, at + _head.size)
        return found
