"""The disk tier: rows in a diskcache folder, bounded in bytes, least recently stored ones leave first."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import diskcache

log = logging.getLogger(__name__)

T = TypeVar("T")

FAULTS = (sqlite3.Error, OSError, diskcache.Timeout, ValueError)
"""What a damaged, locked, full or vanished database raises. All of it makes a miss, none of it an error for a client."""

_MODE_RAW = 1  # diskcache's mark for a value stored as it is
_BUSY_SECONDS = 2.0
_TRIM_BYTES = 4 * 2**20
"""The most that one write removes, unless it is larger itself: a lowered limit is reached in steps, nobody waits long."""


class BytesDisk(diskcache.Disk):  # type: ignore[misc]
    """Stores bytes under bytes and nothing else.

    diskcache's own `Disk` pickles what it does not know and unpickles whatever the database says is a pickle, which lets
    anybody who can write the folder run code (CVE-2025-69872). This one never imports pickle's loader: an entry of any other
    kind raises ValueError, which callers treat as a miss.
    """

    def put(self, key: Any) -> tuple[sqlite3.Binary, bool]:
        if not isinstance(key, bytes):
            raise TypeError("keys are bytes")
        return sqlite3.Binary(key), True

    def get(self, key: Any, raw: bool) -> bytes:
        if not raw or not isinstance(key, bytes):
            raise ValueError("a foreign key")
        return key

    def store(self, value: Any, read: bool, key: Any = None) -> tuple[int, int, str | None, Any]:
        if not isinstance(value, bytes) or read:
            raise TypeError("values are bytes")
        # Always inside the database: a row of 4,096 dimensions has 16 KiB.
        return 0, _MODE_RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> bytes:
        if mode != _MODE_RAW or filename is not None or not isinstance(value, bytes):
            raise ValueError("a foreign value")
        return value


class DiskTier:
    """Bytes under keys on disk. Every method blocks; the cache calls them from its own thread.

    Raises one of FAULTS when the database is out of order.
    """

    def __init__(self, folder: Path, capacity: int) -> None:
        """Open or begin the database; a corrupt one is set aside and begun anew. Raises one of FAULTS."""
        self.folder = folder
        self._capacity = capacity
        self._cache: diskcache.Cache | None = None
        self._file: tuple[int, int] | None = None
        """Which database file is open."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        self._mended(lambda cache: cache.volume())

    def _opened(self) -> diskcache.Cache:
        if self._cache is not None and self._file_now() != self._file:
            # Somebody cleared the folder: rows written to the file that is gone would be lost without a word.
            log.warning("the cache in %s was removed or replaced; it is opened anew", self.folder)
            self.close()
            self._cache = None
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._cache is None:
            # diskcache waits a minute for each statement of its opening; who holds the lock that long is told at once.
            with closing(sqlite3.connect(self.folder / diskcache.core.DBNAME, timeout=_BUSY_SECONDS)) as probe:
                probe.isolation_level = None
                probe.execute("BEGIN IMMEDIATE")
                probe.execute("ROLLBACK")
            try:
                self._cache = diskcache.Cache(
                    str(self.folder),
                    timeout=_BUSY_SECONDS,
                    disk=BytesDisk,
                    size_limit=self._capacity,
                    # Any other policy, and statistics, would turn each get into a write.
                    eviction_policy="least-recently-stored",
                    statistics=False,
                    # A set that culls looks at the file's size, which does not shrink before the transaction ends: a batch
                    # that passes the limit would remove ten rows for each of its own. `put_many` trims
                    # afterwards.
                    cull_limit=0,
                )
            except (TypeError, KeyError) as error:
                raise ValueError(f"its database has settings of another program ({error})") from error
            self._file = self._file_now()
        return self._cache

    def _file_now(self) -> tuple[int, int] | None:
        try:
            found = (self.folder / diskcache.core.DBNAME).stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _mended(self, work: Callable[[diskcache.Cache], T]) -> T:
        """Work with the database; when it turns out to be corrupt, set it aside and work with a new one."""
        try:
            return work(self._opened())
        except sqlite3.DatabaseError as error:
            # Its subclasses mean locked, read-only or out of space: the rows may be good.
            if type(error) is not sqlite3.DatabaseError:
                raise
            reason = str(error)
        # Behind the except clause, whose traceback would hold a failed opening's connection: Windows moves no open file.
        self._set_aside(reason)
        return work(self._opened())

    def _set_aside(self, reason: str) -> None:
        """Move the folder out of the way; the one moved before is removed, so that they do not fill the disk."""
        self.close()
        self._cache = None
        for old in self.folder.parent.glob(f"{self.folder.name}.corrupt-*"):
            shutil.rmtree(old, ignore_errors=True)
        aside = self.folder.with_name(f"{self.folder.name}.corrupt-{time.time_ns()}")
        log.warning("the cache in %s is corrupt (%s); it is set aside as %s and begun anew", self.folder, reason, aside.name)
        self.folder.rename(aside)
        self.folder.mkdir(mode=0o700)

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Give the values that are there; a foreign entry counts as absent."""
        wanted = tuple(keys)

        def get(cache: diskcache.Cache) -> dict[bytes, bytes]:
            found = {}
            for key in wanted:
                try:
                    value = cache.get(key)
                except ValueError:
                    continue
                if value is not None:
                    found[key] = value
            return found

        return self._mended(get)

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Store values in one transaction, then remove the oldest ones beyond the limit."""
        new = tuple(items)

        def put(cache: diskcache.Cache) -> None:
            with cache.transact():
                for key, value in new:
                    cache.set(key, value)
            slice_ = max(_TRIM_BYTES, 2 * sum(len(value) for _, value in new))
            cache.size_limit = max(self._capacity, cache.volume() - slice_)
            cache.cull()

        self._mended(put)

    def __len__(self) -> int:
        return self._mended(len)

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return int(self._mended(lambda cache: cache.volume()))

    def clear(self) -> int:
        """Remove everything; gives the number of entries that were there."""
        return int(self._mended(lambda cache: cache.clear()))

    def close(self) -> None:
        """Close this thread's connection."""
        if self._cache is not None:
            self._cache.close()
