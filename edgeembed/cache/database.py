"""The database of the disk tier: opened when it is needed, watched, and replaced when it is corrupt."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from edgeembed.cache.diskcache_store import DATABASE, DiskcacheStore, StoreTimeout, primary_code
from edgeembed.common.files import make_private_folder

log = logging.getLogger(__name__)

T = TypeVar("T")

FAULTS = (sqlite3.Error, OSError, StoreTimeout, ValueError)
"""Raised for a damaged, locked, full or vanished database. Each makes a miss, none an error for a client."""

_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_STALE = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
"""Faults that a connection may keep although their cause is gone."""
_UNWRITABLE = (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_TRUNCATE)
"""Faults after which a connection still reads, which a new one might not: opening writes."""


class Database:
    """A folder with a database. Every method blocks; all are called from one thread, and raise one of FAULTS."""

    def __init__(self, folder: Path, capacity: int) -> None:
        """Open or create the database; a corrupt one is moved aside and replaced."""
        self.folder = folder
        self.times_opened = 0
        """How often the database was opened or created; what is remembered of its content is not valid for a new one."""
        self._capacity = capacity
        self._store: DiskcacheStore | None = None
        self._file: tuple[int, int] | None = None
        """Device and inode of the open database file."""
        make_private_folder(self.folder)
        self.run(DiskcacheStore.volume)

    def run(self, work: Callable[[DiskcacheStore], T]) -> T:
        """Return what `work` returns; when the database turns out to be corrupt, replace it and call `work` again."""
        try:
            return self._work(work)
        except sqlite3.DatabaseError as error:
            if not _is_corrupt(error):
                raise
            reason = str(error)
        # After the except clause, whose traceback would keep the connection open: Windows moves no open file.
        self._move_aside(reason)
        return self._work(work)

    def close(self) -> None:
        """Close this thread's connection."""
        if self._store is not None:
            self._store.close()

    def _work(self, work: Callable[[DiskcacheStore], T]) -> T:
        try:
            store = self._opened()
            try:
                return work(store)
            except StoreTimeout:
                store.raise_real_reason()
                raise
            finally:
                store.roll_back()
        except sqlite3.Error as error:
            if primary_code(error) in _STALE and error.sqlite_errorcode not in _UNWRITABLE:
                self.close()
                self._store = None
            raise

    def _opened(self) -> DiskcacheStore:
        if self._store is not None and self._file_now() != self._file:
            # Somebody cleared the folder: rows written to the deleted file would be lost without a warning.
            log.warning("the cache in %s was removed or replaced; it is opened again", self.folder)
            self.close()
            self._store = None
            make_private_folder(self.folder)
        if self._store is None:
            self._store = DiskcacheStore(self.folder, self._capacity)
            self._file = self._file_now()
            self.times_opened += 1
        return self._store

    def _file_now(self) -> tuple[int, int] | None:
        try:
            found = (self.folder / DATABASE).stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _move_aside(self, reason: str) -> None:
        """Move the folder out of the way; one moved earlier is removed, so that they do not fill the disk."""
        self.close()
        self._store = None
        for old in self.folder.parent.glob(f"{self.folder.name}.corrupt-*"):
            shutil.rmtree(old, ignore_errors=True)
        aside = self.folder.with_name(f"{self.folder.name}.corrupt-{time.time_ns()}")
        log.warning("the cache in %s is corrupt (%s); it is moved to %s and replaced", self.folder, reason, aside.name)
        self.folder.rename(aside)
        make_private_folder(self.folder)


def describe_fault(error: BaseException) -> str:
    """Return what is wrong, for people: diskcache's Timeout has no message, or only a number."""
    return "another process keeps it locked" if isinstance(error, StoreTimeout) else str(error)


def _is_corrupt(error: sqlite3.DatabaseError) -> bool:
    """Return whether the database is beyond use; one that is locked, read-only or out of space may hold good rows."""
    if primary_code(error) in _CORRUPT:
        return True
    words = str(error) if isinstance(error, sqlite3.OperationalError) else ""
    return words.startswith(("no such table", "no such column")) or "has no column named" in words
