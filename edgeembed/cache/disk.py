"""The disk tier: rows in a diskcache folder, bounded in bytes; what is asked for again stays longest.

Segmented LRU (Karedla, Love and Wherry 1994), kept in columns that diskcache has: `access_count` is 0 for rows on probation
and 1 for protected ones, which were asked for again; `access_time` orders both. Rows leave from the old end of the probation
segment, so that a scan, however long and whether or not the daemon is restarted in it, washes out rows on probation only.
`tag` is the row's model.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import diskcache
import msgspec

from edgeembed.cache.counters import COUNTS, Counts
from edgeembed.cache.database import DATABASE, FAULTS, Database
from edgeembed.cache.memory import Wanted
from edgeembed.cache.rows import decode_row

__all__ = ["DATABASE", "FAULTS", "DiskItem", "DiskTier", "ModelOnDisk"]

_TRIM_BYTES = 4 * 2**20
"""The most that one write removes, unless it is larger itself: a lowered limit is reached in steps, nobody waits long."""
_PROTECTED = 0.8
"""Of all rows."""
_LOW_SECONDS = 7 * 86400.0
"""A row of a bulk load leaves as early as a query that is older by this."""
_RECOUNT_TRIMS = 200
_CHUNK = 500

_TABLES = (
    "CREATE INDEX IF NOT EXISTS EdgeembedOrder ON Cache(access_count, access_time)",
    "CREATE TABLE IF NOT EXISTS EdgeembedCounts(model TEXT PRIMARY KEY, since REAL, "
    + ", ".join(f"{name} NOT NULL DEFAULT 0" for name in COUNTS)
    + ")",
)


class DiskItem(NamedTuple):
    """A row to store: its key, its bytes, whose it is, and how much it is wanted."""

    key: bytes
    value: bytes
    model: str = ""
    wanted: Wanted = "normal"


class ModelOnDisk(msgspec.Struct, frozen=True, kw_only=True):
    """What is on disk of one model. Times are in Unix seconds."""

    model: str
    entries: int
    bytes: int
    """Of rows and keys; the database's own overhead is not in it."""
    oldest: float
    newest: float


class DiskTier:
    """Bytes under keys on disk. Every method blocks; the cache calls them from its own thread.

    Raises one of FAULTS when the database is out of order.
    """

    def __init__(self, folder: Path, capacity: int) -> None:
        """Open or begin the database; a corrupt one is set aside and begun anew. Raises one of FAULTS."""
        self._capacity = capacity
        self._protected: tuple[int, int] | None = None
        """Number of protected rows, and of trims since they were counted."""
        self._renewed = 0
        self._database = Database(folder, capacity, _TABLES)

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

        return self._database.run(get)

    def put_many(self, items: Iterable[DiskItem | tuple[bytes, bytes]]) -> None:
        """Store values in one transaction, then remove beyond the limit what is wanted least."""
        new = [DiskItem(*item) for item in items]

        def put(cache: diskcache.Cache) -> None:
            with cache.transact():
                for key, value, model, wanted in new:
                    cache.set(key, value, tag=model)
                    if wanted == "keep":
                        self._promote(cache, key)
                    elif wanted == "low":
                        cache._sql(
                            "UPDATE Cache SET access_time = access_time - ? WHERE key = ? AND raw = 1", (_LOW_SECONDS, key)
                        )
            self._trim(cache, max(_TRIM_BYTES, 2 * sum(len(item.value) for item in new)))

        self._database.run(put)

    def touch_many(self, keys: Iterable[bytes]) -> list[bytes]:
        """Protect rows that were asked for again; gives the keys that have no row any more."""
        asked = tuple(keys)

        def touch(cache: diskcache.Cache) -> list[bytes]:
            with cache.transact():
                return [key for key in asked if not self._promote(cache, key)]

        return self._database.run(touch)

    def __len__(self) -> int:
        return self._database.run(len)

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return int(self._database.run(lambda cache: cache.volume()))

    def models(self) -> list[ModelOnDisk]:
        """Tell what there is of each model. All rows of a model have one size, so that nobody has to read them all."""

        def tell(cache: diskcache.Cache) -> list[ModelOnDisk]:
            groups = cache._sql(
                "SELECT COALESCE(tag, ''), COUNT(*), MIN(rowid), MAX(rowid) FROM Cache GROUP BY tag ORDER BY 2 DESC"
            ).fetchall()
            found = []
            for model, entries, first, last in groups:
                ends = cache._sql(
                    "SELECT LENGTH(value) + LENGTH(key), store_time FROM Cache WHERE rowid IN (?, ?)", (first, last)
                ).fetchall()
                times = [stored for _, stored in ends]
                size = max(size or 0 for size, _ in ends)
                found.append(
                    ModelOnDisk(model=model, entries=entries, bytes=entries * size, oldest=min(times), newest=max(times))
                )
            return found

        return self._database.run(tell)

    def rows(self, model: str | None = None) -> Iterator[tuple[DiskItem, bool]]:
        """Give every sound row of a model, or of all, and whether it is protected, in the order in which they leave."""
        place, seen = (-1, float("-inf"), -1), 0
        while True:

            def read(cache: diskcache.Cache, place: tuple[int, float, int] = place) -> list[tuple[object, ...]]:
                found: list[tuple[object, ...]] = cache._sql(
                    "SELECT access_count, access_time, rowid, key, value, tag FROM Cache "
                    "WHERE (access_count, access_time, rowid) > (?, ?, ?) AND raw = 1 AND (? IS NULL OR tag = ?) "
                    "ORDER BY access_count, access_time, rowid LIMIT ?",
                    (*place, model, model, _CHUNK),
                ).fetchall()
                return found

            chunk = self._database.run(read)
            for count, at, rowid, key, value, tag in chunk:
                place = (count, at, rowid)  # type: ignore[assignment]
                if isinstance(key, bytes) and isinstance(value, bytes) and decode_row(key, value) is not None:
                    seen += 1
                    yield DiskItem(key, value, str(tag or "")), bool(count)
            if len(chunk) < _CHUNK:
                return

    def clear(self, models: Iterable[str] | None = None) -> int:
        """Remove everything, or all of some models; gives the number of entries that were there."""
        tags = None if models is None else tuple(models)
        where = "1" if tags is None else f"tag IN ({', '.join('?' * len(tags))})"

        def remove(cache: diskcache.Cache) -> int:
            with cache.transact():
                found = cache._sql(
                    f"SELECT rowid, filename FROM Cache WHERE {where} LIMIT ?", (*(tags or ()), _CHUNK)
                ).fetchall()
                self._delete(cache, found)
            return len(found)

        removed = 0
        while chunk := self._database.run(remove):
            removed += chunk
        self._protected = None
        self._database.run(lambda cache: cache._sql(f"PRAGMA user_version = {self.clears + 1}"))
        return removed

    @property
    def clears(self) -> int:
        """How often somebody cleared the cache: a daemon that sees it grow forgets what it has in memory."""

        def read(cache: diskcache.Cache) -> int:
            ((number,),) = cache._sql("PRAGMA user_version").fetchall()
            return int(number)

        return self._database.run(read)

    @property
    def version(self) -> tuple[int, int]:
        """Something that changes when another process or connection has changed the database, and not when this one does."""

        def read(cache: diskcache.Cache) -> tuple[int, int]:
            ((number,),) = cache._sql("PRAGMA data_version").fetchall()
            return self._database.renewed, int(number)

        return self._database.run(read)

    def keys(self, behind: bytes = b"", most: int = 10_000) -> list[bytes]:
        """Give the keys that come next behind one, in order, at most so many."""

        def read(cache: diskcache.Cache) -> list[bytes]:
            found = cache._sql(
                "SELECT key FROM Cache WHERE key > ? AND raw = 1 ORDER BY key LIMIT ?", (behind, most)
            ).fetchall()
            return [bytes(key) for (key,) in found if isinstance(key, bytes)]

        return self._database.run(read)

    def add_counts(self, counts: Mapping[str, Counts]) -> None:
        """Add to what the database remembers of each model's hits and misses."""

        def add(cache: diskcache.Cache) -> None:
            with cache.transact():
                for model, more in counts.items():
                    cache._sql("INSERT OR IGNORE INTO EdgeembedCounts(model, since) VALUES (?, ?)", (model, time.time()))
                    cache._sql(
                        f"UPDATE EdgeembedCounts SET {', '.join(f'{name} = {name} + ?' for name in COUNTS)} WHERE model = ?",
                        (*(getattr(more, name) for name in COUNTS), model),
                    )

        self._database.run(add)

    def counts(self) -> dict[str, tuple[float, Counts]]:
        """Give the hits and misses of each model, and the Unix second since when they were counted."""

        def read(cache: diskcache.Cache) -> dict[str, tuple[float, Counts]]:
            rows = cache._sql(f"SELECT model, since, {', '.join(COUNTS)} FROM EdgeembedCounts").fetchall()
            return {model: (since, Counts(*numbers)) for model, since, *numbers in rows}

        return self._database.run(read)

    def close(self) -> None:
        """Close this thread's connection."""
        self._database.close()

    def _promote(self, cache: diskcache.Cache, key: bytes) -> bool:
        """Protect one row; says whether it was there."""
        now = time.time()
        where = "WHERE key = ? AND raw = 1 AND access_count"
        if cache._sql(f"UPDATE Cache SET access_count = 1, access_time = ? {where} = 0", (now, key)).rowcount:
            if self._protected is not None:
                self._protected = (self._protected[0] + 1, self._protected[1])
            return True
        return bool(cache._sql(f"UPDATE Cache SET access_time = ? {where} > 0", (now, key)).rowcount)

    def _trim(self, cache: diskcache.Cache, most_bytes: int) -> None:
        """Remove rows beyond the limit, at most about so many bytes."""
        volume = first = cache.volume()
        while (excess := volume - self._capacity) > 0 and first - volume < most_bytes and (entries := len(cache)):
            leaving = -(-min(excess, most_bytes) * entries // volume)
            with cache.transact():
                self._demote(cache, entries - leaving, 4 * leaving)
                self._delete(
                    cache,
                    cache._sql(
                        "SELECT rowid, filename FROM Cache ORDER BY access_count, access_time LIMIT ?", (leaving,)
                    ).fetchall(),
                )
            volume = cache.volume()

    def _demote(self, cache: diskcache.Cache, staying: int, most: int) -> None:
        """Put the protected rows not asked for longest back on probation, old as they are: new rows must have a place."""
        number, trims = self._protected or (0, _RECOUNT_TRIMS)
        if trims >= _RECOUNT_TRIMS or self._renewed != self._database.renewed:
            self._renewed, trims = self._database.renewed, 0
            ((number,),) = cache._sql("SELECT COUNT(*) FROM Cache WHERE access_count > 0").fetchall()
        if (too_many := number - int(_PROTECTED * staying)) > 0:
            number -= cache._sql(
                "UPDATE Cache SET access_count = 0 WHERE rowid IN "
                "(SELECT rowid FROM Cache WHERE access_count > 0 ORDER BY access_count, access_time LIMIT ?)",
                (min(too_many, most),),
            ).rowcount
        self._protected = (max(0, number), trims + 1)

    def _delete(self, cache: diskcache.Cache, found: list[tuple[int, str | None]]) -> None:
        cache._sql(f"DELETE FROM Cache WHERE rowid IN ({','.join(str(rowid) for rowid, _ in found)})")
        for _, filename in found:
            if filename is not None:  # a foreign entry's
                cache.disk.remove(filename)
