"""The disk tier: rows in a diskcache folder, bounded in bytes, least recently stored ones leave first."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import diskcache

log = logging.getLogger(__name__)

FAULTS = (sqlite3.Error, OSError, diskcache.Timeout, ValueError)
"""What a damaged, locked, full or vanished database raises. All of it makes a miss, none of it an error for a client."""

_MODE_RAW = 1  # diskcache's mark for a value stored as it is
_BUSY_SECONDS = 2.0


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
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        try:
            self._cache = self._open(capacity)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # locked, read-only or out of space: the rows may be good
            aside = folder.with_name(f"{folder.name}.corrupt-{int(time.time())}")
            log.warning("the cache in %s is corrupt (%s); it is set aside as %s and begun anew", folder, error, aside.name)
            folder.rename(aside)
            folder.mkdir(mode=0o700)
            self._cache = self._open(capacity)

    def _open(self, capacity: int) -> diskcache.Cache:
        # disk_min_file_size is irrelevant: BytesDisk never writes files. Statistics would turn each get into a write.
        return diskcache.Cache(
            str(self.folder), timeout=_BUSY_SECONDS, disk=BytesDisk, size_limit=capacity, statistics=False
        )

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Give the values that are there; a foreign entry counts as absent."""
        found = {}
        for key in keys:
            try:
                value = self._cache.get(key)
            except ValueError:
                continue
            if value is not None:
                found[key] = value
        return found

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Store values in one transaction."""
        with self._cache.transact():
            for key, value in items:
                self._cache.set(key, value)

    def delete(self, key: bytes) -> None:
        """Remove an entry, if it is there."""
        self._cache.delete(key)

    def __len__(self) -> int:
        return len(self._cache)

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return int(self._cache.volume())

    def clear(self) -> int:
        """Remove everything; gives the number of entries that were there."""
        return int(self._cache.clear())

    def close(self) -> None:
        """Close this thread's connection."""
        self._cache.close()
