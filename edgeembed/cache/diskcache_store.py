"""The rows' table in a diskcache folder: the only module that touches diskcache.

Written for diskcache 5.6.3. Reading, writing, clearing, transactions and sizes go through its public API. Its private `_sql`
and `_con`, the columns of its table `Cache` and the methods of its `Disk` are used where it has nothing public; a contract
test (tests/cache/test_diskcache_store.py) fails when one of them changes.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import diskcache

from edgeembed.cache.counters import COUNTS, Counts

WRITTEN_FOR = "5.6.3"
DATABASE: str = diskcache.core.DBNAME
StoreTimeout = diskcache.Timeout
"""A transaction could not begin. diskcache raises it for a locked database, and for a full or read-only one too."""
BUSY_SECONDS = 2.0
_MODE_RAW = 1
"""diskcache's mark of a value that is stored as it is."""

_WRITTEN = ("store_time", "access_time", "access_count", "tag", "size", "mode", "value")
"""Columns of a row that change when it is stored again."""
_ROWS_OF_A_STATEMENT = 64
"""SQLite took 999 parameters at most before 3.32."""

_TABLES = (
    "CREATE INDEX IF NOT EXISTS EdgeembedOrder ON Cache(access_count, access_time)",
    "CREATE TABLE IF NOT EXISTS EdgeembedCounts(model TEXT PRIMARY KEY, since REAL, "
    + ", ".join(f"{name} NOT NULL DEFAULT 0" for name in COUNTS)
    + ")",
)


PAGES_CACHED = 512
"""Pages of 4 KiB that SQLite keeps in the memory of the process."""


class BytesDisk(diskcache.Disk):  # type: ignore[misc]
    """Stores bytes under bytes and nothing else.

    diskcache's own `Disk` pickles what it does not know and unpickles whatever the database says is a pickle, which lets
    anybody who can write the folder run code (CVE-2025-69872). This one never unpickles: an entry of any other kind raises
    ValueError, which callers treat as a miss.
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


class NewRow(NamedTuple):
    """A row to store. seconds_older: it leaves as early as one that is older by this."""

    key: bytes
    value: bytes
    tag: str
    protected: bool = False
    seconds_older: float = 0.0


class RowPosition(NamedTuple):
    """A row's place in the order in which rows leave."""

    access_count: int = -1
    access_time: float = float("-inf")
    rowid: int = -1


class StoredRow(NamedTuple):
    """A row of the table as it is, foreign ones included."""

    position: RowPosition
    key: object
    value: object
    tag: object

    @property
    def protected(self) -> bool:
        return bool(self.position.access_count)


class TagSize(NamedTuple):
    """What is stored under one tag. bytes: keys and values, if all have the size of the largest end. Times: Unix seconds."""

    tag: str
    entries: int
    bytes: int
    oldest: float
    newest: float


class DiskcacheStore:
    """An open diskcache folder. Every method blocks; all are called from one thread.

    Rows are on probation (access_count 0) or protected (1); access_time orders both.
    """

    def __init__(self, folder: Path, size_limit: int) -> None:
        """Open the folder. Raises sqlite3.Error, OSError, or ValueError for a database of another program."""
        # diskcache retries each statement of its opening for a minute; a locked database is to be noticed at once.
        with closing(sqlite3.connect(folder / DATABASE, timeout=BUSY_SECONDS)) as probe:
            probe.isolation_level = None
            probe.execute("BEGIN IMMEDIATE")
            probe.execute("ROLLBACK")
        try:
            self._cache = diskcache.Cache(
                str(folder),
                timeout=BUSY_SECONDS,
                disk=BytesDisk,
                size_limit=size_limit,
                # The disk tier decides what leaves: diskcache's policies turn each get into a write, or remove ten rows for
                # each row of a batch that exceeds the limit.
                eviction_policy="none",
                cull_limit=0,
                statistics=False,
                tag_index=True,
                # diskcache's own sizes, 32 MiB and 64 MiB, save no time that can be measured: the system caches the file.
                # And in a mapped file, a page that cannot be read ends the process instead of raising an error.
                sqlite_cache_size=PAGES_CACHED,
                sqlite_mmap_size=0,
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"its database has settings of another program ({error})") from error
        for table in _TABLES:
            self._sql(table)
        columns = {name for _, name, *_ in self._sql("PRAGMA table_info(EdgeembedCounts)")}
        for name in COUNTS:  # earlier versions counted less
            if name not in columns:
                self._sql(f"ALTER TABLE EdgeembedCounts ADD COLUMN {name} NOT NULL DEFAULT 0")

    # --- diskcache's public API ---------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """Return a value; None when there is none. Raises ValueError for a foreign entry."""
        found: bytes | None = self._cache.get(key)
        return found

    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """Return a context manager for a transaction. Raises StoreTimeout when it cannot begin."""
        transaction: contextlib.AbstractContextManager[None] = self._cache.transact()
        return transaction

    def evict(self, tag: str) -> int:
        """Delete the rows with a tag, in several transactions; return how many there were."""
        return int(self._cache.evict(tag))

    def clear(self) -> int:
        """Delete all rows, in several transactions; return how many there were."""
        return int(self._cache.clear())

    def __len__(self) -> int:
        return len(self._cache)

    def volume(self) -> int:
        """Return the bytes on disk."""
        return int(self._cache.volume())

    def close(self) -> None:
        """Close this thread's connection."""
        self._cache.close()

    # --- rows ---------------------------------------------------------------------------------------------------------

    def set_many(self, rows: Sequence[NewRow]) -> None:
        """Store rows, in the place of older ones with their keys.

        Not one by one, as diskcache would: each statement takes Python's global lock from the event loop and gives it back.
        """
        if not all(isinstance(row.key, bytes) and isinstance(row.value, bytes) for row in rows):
            raise TypeError("keys and values are bytes")
        now = time.time()
        for first in range(0, len(rows), _ROWS_OF_A_STATEMENT):
            some = rows[first : first + _ROWS_OF_A_STATEMENT]
            values = [(key, now, now - older, int(protected), tag, value) for key, value, tag, protected, older in some]
            self._sql(_upsert(len(some)), chain.from_iterable(values))

    def protect(self, key: bytes) -> Literal["promoted", "refreshed", "absent"]:
        """Protect a row and give it the current time; "refreshed" when it was protected before."""
        now, where = time.time(), "WHERE key = ? AND raw = 1 AND access_count"
        if self._sql(f"UPDATE Cache SET access_count = 1, access_time = ? {where} = 0", (now, key)).rowcount:
            return "promoted"
        again = self._sql(f"UPDATE Cache SET access_time = ? {where} > 0", (now, key)).rowcount
        return "refreshed" if again else "absent"

    def count_protected(self) -> int:
        """Return the number of protected rows."""
        ((number,),) = self._sql("SELECT COUNT(*) FROM Cache WHERE access_count > 0").fetchall()
        return int(number)

    def unprotect_oldest(self, number: int) -> int:
        """Put the oldest protected rows back on probation, with their time; return how many there were."""
        return self._sql(
            "UPDATE Cache SET access_count = 0 WHERE rowid IN "
            "(SELECT rowid FROM Cache WHERE access_count > 0 ORDER BY access_count, access_time LIMIT ?)",
            (number,),
        ).rowcount

    def delete_next(self, number: int) -> None:
        """Delete the rows that leave next."""
        found = self._sql(
            "SELECT rowid, filename FROM Cache ORDER BY access_count, access_time LIMIT ?", (number,)
        ).fetchall()
        self._sql(f"DELETE FROM Cache WHERE rowid IN ({','.join(str(rowid) for rowid, _ in found)})")
        for _, filename in found:
            if filename is not None:  # of a foreign entry
                self._cache.disk.remove(filename)

    def rows_after(self, position: RowPosition, tag: str | None, most: int) -> list[StoredRow]:
        """Return the next rows with a tag, or any rows for None, in the order in which they leave."""
        found = self._sql(
            "SELECT access_count, access_time, rowid, key, value, tag FROM Cache "
            "WHERE (access_count, access_time, rowid) > (?, ?, ?) AND raw = 1 AND (? IS NULL OR tag = ?) "
            "ORDER BY access_count, access_time, rowid LIMIT ?",
            (*position, tag, tag, most),
        ).fetchall()
        return [StoredRow(RowPosition(count, at, rowid), key, value, tag) for count, at, rowid, key, value, tag in found]

    def keys_after(self, key: bytes, most: int) -> list[bytes]:
        """Return the next keys, in order."""
        found = self._sql("SELECT key FROM Cache WHERE key > ? AND raw = 1 ORDER BY key LIMIT ?", (key, most)).fetchall()
        return [bytes(each) for (each,) in found if isinstance(each, bytes)]

    def tag_sizes(self) -> list[TagSize]:
        """Return what is stored under each tag, most rows first; only the first and the last row of each are read."""
        groups = self._sql(
            "SELECT COALESCE(tag, ''), COUNT(*), MIN(rowid), MAX(rowid) FROM Cache GROUP BY tag ORDER BY 2 DESC"
        ).fetchall()
        found = []
        for tag, entries, first, last in groups:
            ends = self._sql(
                "SELECT LENGTH(value) + LENGTH(key), store_time FROM Cache WHERE rowid IN (?, ?)", (first, last)
            ).fetchall()
            times = [stored for _, stored in ends]
            found.append(TagSize(tag, entries, entries * max(size or 0 for size, _ in ends), min(times), max(times)))
        return found

    # --- counts and versions ------------------------------------------------------------------------------------------

    def add_counts(self, counts: Mapping[str, Counts]) -> None:
        """Add to the counts of models."""
        sums = ", ".join(f"{name} = {name} + ?" for name in COUNTS)
        for model, more in counts.items():
            self._sql("INSERT OR IGNORE INTO EdgeembedCounts(model, since) VALUES (?, ?)", (model, time.time()))
            values = (getattr(more, name) for name in COUNTS)
            self._sql(f"UPDATE EdgeembedCounts SET {sums} WHERE model = ?", (*values, model))

    def counts(self) -> dict[str, tuple[float, Counts]]:
        """Return the counts of each model, and the Unix second at which counting began."""
        rows = self._sql(f"SELECT model, since, {', '.join(COUNTS)} FROM EdgeembedCounts").fetchall()
        return {model: (since, Counts(*numbers)) for model, since, *numbers in rows}

    @property
    def clears(self) -> int:
        """How often the cache was cleared; kept in the database."""
        return self._pragma("user_version")

    @clears.setter
    def clears(self, number: int) -> None:
        self._sql(f"PRAGMA user_version = {number}")

    @property
    def data_version(self) -> int:
        """Changes when another connection has changed the database, and not when this one does."""
        return self._pragma("data_version")

    def _pragma(self, name: str) -> int:
        ((value,),) = self._sql(f"PRAGMA {name}").fetchall()
        return int(value)

    # --- the connection -----------------------------------------------------------------------------------------------

    def roll_back(self) -> None:
        """End a transaction that a failed COMMIT has left open."""
        if self._cache._con.in_transaction:
            self._cache._con.rollback()

    def raise_real_reason(self) -> None:
        """Raise what keeps a transaction from beginning, unless another process holds a lock."""
        self._sql("PRAGMA busy_timeout = 0")
        try:
            self._sql("BEGIN IMMEDIATE")
            self._sql("ROLLBACK")
        except sqlite3.Error as error:
            if primary_code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
        finally:
            self._sql(f"PRAGMA busy_timeout = {round(1000 * BUSY_SECONDS)}")

    def _sql(self, statement: str, parameters: Iterable[object] = ()) -> sqlite3.Cursor:
        cursor: sqlite3.Cursor = self._cache._sql(statement, tuple(parameters))
        return cursor


@cache
def _upsert(rows: int) -> str:
    """Return the statement that stores so many rows, with the columns that diskcache writes."""
    return (
        "INSERT INTO Cache(key, raw, store_time, access_time, access_count, tag, size, mode, value) VALUES "
        + ", ".join([f"(?, 1, ?, ?, ?, ?, 0, {_MODE_RAW}, ?)"] * rows)
        + " ON CONFLICT(key, raw) DO UPDATE SET expire_time = NULL, filename = NULL, "
        + ", ".join(f"{name} = excluded.{name}" for name in _WRITTEN)
    )


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; 0 where there is none."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
