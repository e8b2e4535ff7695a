"""The database of the disk tier: a diskcache folder that is opened, watched, and mended when it is out of order."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import diskcache

log = logging.getLogger(__name__)

T = TypeVar("T")

FAULTS = (sqlite3.Error, OSError, diskcache.Timeout, ValueError)
"""What a damaged, locked, full or vanished database raises. All of it makes a miss, none of it an error for a client."""

DATABASE = diskcache.core.DBNAME
_MODE_RAW = 1  # diskcache's mark for a value stored as it is
_BUSY_SECONDS = 2.0
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_STALE = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
"""Faults that a connection may keep although their cause is gone."""
_UNWRITABLE = (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_TRUNCATE)
"""Faults after which a connection still reads, which a new one might not: opening writes."""


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


class Database:
    """A diskcache folder with tables of our own. Every method blocks and is called from one thread.

    Raises one of FAULTS when the database is out of order.
    """

    def __init__(self, folder: Path, capacity: int, tables: tuple[str, ...]) -> None:
        """Open or begin the database; a corrupt one is set aside and begun anew. Raises one of FAULTS.

        tables: SQL that makes what diskcache does not have, if it is not there yet.
        """
        self.folder = folder
        self.renewed = 0
        """How often the database was opened or begun anew; what is remembered of its content does not hold then."""
        self._capacity = capacity
        self._tables = tables
        self._cache: diskcache.Cache | None = None
        self._file: tuple[int, int] | None = None
        """Which database file is open."""
        self._make_folder()
        self.run(lambda cache: cache.volume())

    def run(self, work: Callable[[diskcache.Cache], T]) -> T:
        """Work with the database; when it turns out to be corrupt, set it aside and work with a new one."""
        try:
            return self._work(work)
        except sqlite3.DatabaseError as error:
            if not _is_corrupt(error):
                raise
            reason = str(error)
        # Behind the except clause, whose traceback would hold a failed opening's connection: Windows moves no open file.
        self._set_aside(reason)
        return self._work(work)

    def close(self) -> None:
        """Close this thread's connection."""
        if self._cache is not None:
            self._cache.close()

    def _work(self, work: Callable[[diskcache.Cache], T]) -> T:
        try:
            cache = self._opened()
            try:
                return work(cache)
            except diskcache.Timeout:
                _raise_real_reason(cache)
                raise
            finally:
                if cache._con.in_transaction:  # a COMMIT that failed leaves it open
                    cache._con.rollback()
        except sqlite3.Error as error:
            if _code(error) in _STALE and error.sqlite_errorcode not in _UNWRITABLE:
                self.close()
                self._cache = None
            raise

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.name == "posix" and self.folder.stat().st_mode & 0o077:
            self.folder.chmod(0o700)

    def _opened(self) -> diskcache.Cache:
        if self._cache is not None and self._file_now() != self._file:
            # Somebody cleared the folder: rows written to the file that is gone would be lost without a word.
            log.warning("the cache in %s was removed or replaced; it is opened anew", self.folder)
            self.close()
            self._cache = None
            self._make_folder()
        if self._cache is None:
            # diskcache waits a minute for each statement of its opening; who holds the lock that long is told at once.
            with closing(sqlite3.connect(self.folder / DATABASE, timeout=_BUSY_SECONDS)) as probe:
                probe.isolation_level = None
                probe.execute("BEGIN IMMEDIATE")
                probe.execute("ROLLBACK")
            try:
                cache = diskcache.Cache(
                    str(self.folder),
                    timeout=_BUSY_SECONDS,
                    disk=BytesDisk,
                    size_limit=self._capacity,
                    # What leaves is decided by the disk tier; diskcache's policies turn each get into a write, or remove
                    # ten rows for each of a batch that passes the limit.
                    eviction_policy="none",
                    cull_limit=0,
                    statistics=False,
                    tag_index=True,
                )
            except (TypeError, KeyError, AttributeError) as error:
                raise ValueError(f"its database has settings of another program ({error})") from error
            for table in self._tables:
                cache._sql(table)
            self._cache = cache
            self._file = self._file_now()
            self.renewed += 1
        return self._cache

    def _file_now(self) -> tuple[int, int] | None:
        try:
            found = (self.folder / DATABASE).stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _set_aside(self, reason: str) -> None:
        """Move the folder out of the way; the one moved before is removed, so that they do not fill the disk."""
        self.close()
        self._cache = None
        for old in self.folder.parent.glob(f"{self.folder.name}.corrupt-*"):
            shutil.rmtree(old, ignore_errors=True)
        aside = self.folder.with_name(f"{self.folder.name}.corrupt-{time.time_ns()}")
        log.warning("the cache in %s is corrupt (%s); it is set aside as %s and begun anew", self.folder, reason, aside.name)
        self.folder.rename(aside)
        self._make_folder()


def _code(error: sqlite3.Error) -> int:
    """Give SQLite's primary result code; 0 where there is none."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def _is_corrupt(error: sqlite3.DatabaseError) -> bool:
    """Say whether the database is beyond use; one that is locked, read-only or out of space may hold good rows."""
    if _code(error) in _CORRUPT:
        return True
    return isinstance(error, sqlite3.OperationalError) and str(error).startswith(("no such table", "no such column"))


def _raise_real_reason(cache: diskcache.Cache) -> None:
    """Raise what keeps a transaction from beginning: diskcache calls everything a timeout, a full or read-only disk too."""
    sql = cache._sql
    sql("PRAGMA busy_timeout = 0")
    try:
        sql("BEGIN IMMEDIATE")
        sql("ROLLBACK")
    except sqlite3.Error as error:
        if _code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise
    finally:
        sql(f"PRAGMA busy_timeout = {round(1000 * _BUSY_SECONDS)}")
