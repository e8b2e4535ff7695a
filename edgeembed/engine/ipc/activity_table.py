"""The activity table: which texts each thread of a worker is tokenising or computing, in memory shared with the daemon.

It can still be read when the worker is dead: these texts may have caused the crash.

A message per batch would carry the same, but would wake the daemon's process just when the threads of a forward pass need
all processors.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from edgeembed.engine.context_plan import MOST_BULK_LANES

log = logging.getLogger(__name__)

NESTED = 1
"""Entry of the queries that the wide lane computes between two pieces of a long text. The wide lane's own entry is 0."""
READING = {"reader": 2, "tokenize-bulk": 3, "tokenize-long": 4, "tokenize-count": 5}
"""Entries of the threads that tokenise, by name."""
FIRST_BULK = 6
"""Entry of the first bulk lane."""
ENTRIES = FIRST_BULK + MOST_BULK_LANES
_MEMORY = "/dev/shm"
"""Where Linux keeps files in memory. While one on a disk is written back, a thread that writes to its map waits."""
MOST_TEXTS = 64
"""Of one batch; further ids are left out."""
_head = struct.Struct("<dq")
_entry = struct.Struct(f"<dq{MOST_TEXTS}q")  # Unix second of the start, number of texts, their ids


def _folders() -> list[str]:
    """Return where a table may be, the best place first. Raises OSError where no folder takes temporary files."""
    memory = [_MEMORY] if sys.platform == "linux" and os.access(_MEMORY, os.W_OK | os.X_OK) else []
    try:
        return [*memory, tempfile.gettempdir()]
    except FileNotFoundError:
        if memory:
            return memory
        raise


class ActivityTable:
    """One entry per thread: when it began which texts. Each entry has one writer."""

    def __init__(self, path: Path | None) -> None:
        """Map a file made by `create`; None: memory of this process alone. Raises OSError."""
        self.path = path
        if path is None:
            self._memory = mmap.mmap(-1, ENTRIES * _entry.size)
            return
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), ENTRIES * _entry.size)

    @classmethod
    def create(cls) -> ActivityTable:
        """Create a table in a new file, which `unlink` or `close` removes.

        It is in memory where Linux has room for it, else in the folder for temporary files. Raises OSError that names both.
        """
        number, failures = errno.ENOENT, list[str]()
        for folder in _folders():
            try:
                table = cls._create_in(folder)
            except OSError as error:
                number = error.errno or number
                failures.append(f"{folder} ({error.strerror or error})")
                continue
            if failures:
                log.warning("cannot share memory with a worker in %s; %s may be slower", failures[0], folder)
            return table
        size = f"{ENTRIES * _entry.size:,} bytes"
        raise OSError(
            number,
            f"cannot create {size} of shared memory for a worker in {' or '.join(failures)}. Free some space in one of "
            "these folders, or set TMPDIR to a folder that this user may write to",
        )

    @classmethod
    def _create_in(cls, folder: str) -> ActivityTable:
        handle, name = tempfile.mkstemp(prefix="edgeembed-", suffix=".activity_table", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(bytes(ENTRIES * _entry.size))  # not a sparse file: a full disk must be noticed now
            return cls(Path(name))
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise

    def unlink(self) -> None:
        """Remove the file once both processes have it open, so that a killed daemon leaves nothing behind.

        Where files in use cannot be removed, `close` removes it.
        """
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def begin(self, entry: int, ids: Sequence[int]) -> None:
        """Note the texts that a thread begins."""
        at = entry * _entry.size
        kept = ids[:MOST_TEXTS]
        struct.pack_into(f"<{len(kept)}q", self._memory, at + _head.size, *kept)
        _head.pack_into(self._memory, at, time.time(), len(kept))  # last, when the ids it counts are in place

    def end(self, entry: int) -> None:
        """Note that a thread is idle."""
        _head.pack_into(self._memory, entry * _entry.size, 0.0, 0)

    @property
    def running(self) -> tuple[int, ...]:
        """Ids of all texts being tokenised or computed."""
        return tuple(id_ for _, ids in self.entries.values() for id_ in ids)

    @property
    def busy_since(self) -> float | None:
        """Unix seconds at which the longest running work began; None when idle."""
        return min((began for began, _ in self.entries.values()), default=None)

    def close(self, *, remove: bool = False) -> None:
        """Unmap the memory. remove: remove the file too."""
        self._memory.close()
        if remove:
            self.unlink()

    @property
    def entries(self) -> dict[int, tuple[float, tuple[int, ...]]]:
        """For each busy thread, by its entry: when its work began, in Unix seconds, and the ids of its texts."""
        found = {}
        for number in range(ENTRIES):
            at = number * _entry.size
            began, count = _head.unpack_from(self._memory, at)
            if 0 < count <= MOST_TEXTS:
                found[number] = began, struct.unpack_from(f"<{count}q", self._memory, at + _head.size)
        return found
