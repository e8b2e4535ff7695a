"""The disk tier: rows in a database, bounded in bytes; rows that are asked for again stay longest.

Segmented LRU (Karedla, Love and Wherry 1994): rows are on probation, or protected when they were asked for again. Rows leave
from the old end of the probation segment, so that a scan, however long and whether or not the daemon is restarted meanwhile,
removes only rows on probation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgeembed.cache.counters import Counts
from edgeembed.cache.database import FAULTS, Database
from edgeembed.cache.diskcache_store import DATABASE, DiskcacheStore, NewRow, RowPosition
from edgeembed.cache.memory import Wanted
from edgeembed.cache.rows import decode_row

__all__ = ["DATABASE", "FAULTS", "DiskItem", "DiskTier", "ModelOnDisk"]

_TRIM_BYTES = 4 * 2**20
"""A write removes at most this much, or twice its own size: a lowered limit is reached in short steps."""
_PROTECTED = 0.8
"""Share of the rows that may be protected."""
_LOW_SECONDS = 7 * 86400.0
"""A row of a bulk load leaves as early as a query that is older by this."""
_RECOUNT_TRIMS = 200
_CHUNK = 500


class DiskItem(NamedTuple):
    """A row to store: its key, its bytes, the label of its model, and how much it is wanted."""

    key: bytes
    value: bytes
    model: str = ""
    wanted: Wanted = "normal"


class ModelOnDisk(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one model on disk. Times are Unix seconds."""

    model: str
    entries: int
    bytes: int
    """Of rows and keys, without the database's own overhead."""
    oldest: float
    newest: float


class DiskTier:
    """Bytes by key on disk. Every method blocks; the cache calls them from a separate thread.

    Raises one of FAULTS when the database is damaged, locked, full or gone.
    """

    def __init__(self, folder: Path, capacity: int) -> None:
        """Open or create the database; a corrupt one is moved aside and replaced. Raises one of FAULTS."""
        self._capacity = capacity
        self._protected: tuple[int, int] | None = None
        """Number of protected rows, and of trims since they were counted."""
        self._counted_in = 0
        """`times_opened` of the database in which they were counted."""
        self._database = Database(folder, capacity)

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the values found; a foreign entry counts as absent."""
        wanted = tuple(keys)

        def get(store: DiskcacheStore) -> dict[bytes, bytes]:
            found = {}
            for key in wanted:
                try:
                    value = store.get(key)
                except ValueError:
                    continue
                if value is not None:
                    found[key] = value
            return found

        return self._database.run(get)

    def put_many(self, items: Iterable[DiskItem | tuple[bytes, bytes]]) -> None:
        """Store values in one transaction, then remove the least wanted ones beyond the limit."""
        new = [DiskItem(*item) for item in items]
        rows = [
            NewRow(key, value, model, wanted == "keep", _LOW_SECONDS if wanted == "low" else 0.0)
            for key, value, model, wanted in new
        ]

        def put(store: DiskcacheStore) -> None:
            with store.transaction():
                store.set_many(rows)
            if self._protected is not None:
                kept = sum(row.protected for row in rows)
                self._protected = (self._protected[0] + kept, self._protected[1])
            self._trim(store, max(_TRIM_BYTES, 2 * sum(len(item.value) for item in new)))

        self._database.run(put)

    def touch_many(self, keys: Iterable[bytes]) -> list[bytes]:
        """Protect rows that were asked for again; return the keys that have no row any more."""
        touched = tuple(keys)

        def touch(store: DiskcacheStore) -> list[bytes]:
            with store.transaction():
                return [key for key in touched if not self._protect(store, key)]

        return self._database.run(touch)

    def __len__(self) -> int:
        return self._database.run(len)

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return self._database.run(DiskcacheStore.volume)

    def models(self) -> list[ModelOnDisk]:
        """Return what there is of each model. All rows of a model have one size, so that not all have to be read."""
        return [
            ModelOnDisk(model=tag, entries=entries, bytes=size, oldest=oldest, newest=newest)
            for tag, entries, size, oldest, newest in self._database.run(DiskcacheStore.tag_sizes)
        ]

    def rows(self, model: str | None = None) -> Iterator[tuple[DiskItem, bool]]:
        """Yield every sound row of a model, or of all, and whether it is protected, in the order in which rows leave."""
        position = RowPosition()
        while chunk := self._database.run(lambda store, after=position: store.rows_after(after, model, _CHUNK)):  # type: ignore[misc]
            for row in chunk:
                if (
                    isinstance(row.key, bytes)
                    and isinstance(row.value, bytes)
                    and decode_row(row.key, row.value) is not None
                ):
                    yield DiskItem(row.key, row.value, str(row.tag or "")), row.protected
            position = chunk[-1].position
            if len(chunk) < _CHUNK:
                return

    def clear(self, models: Iterable[str] | None = None) -> int:
        """Remove all rows, or those of some models; return how many there were."""
        tags = None if models is None else tuple(models)
        removed = self._database.run(lambda store: store.clear() if tags is None else sum(map(store.evict, tags)))
        self._protected = None
        self._database.run(_count_clear)
        return removed

    @property
    def clears(self) -> int:
        """How often the cache was cleared: a daemon that sees it grow clears its memory too."""
        return self._database.run(lambda store: store.clears)

    @property
    def version(self) -> tuple[int, int]:
        """Changes when another process or connection has changed the database, and not when this one does."""
        return self._database.run(lambda store: (self._database.times_opened, store.data_version))

    def keys(self, after: bytes = b"", most: int = 10_000) -> list[bytes]:
        """Return the next keys after one, in order, at most so many."""
        return self._database.run(lambda store: store.keys_after(after, most))

    def add_counts(self, counts: Mapping[str, Counts]) -> None:
        """Add to each model's hits and misses in the database."""

        def add(store: DiskcacheStore) -> None:
            with store.transaction():
                store.add_counts(counts)

        self._database.run(add)

    def counts(self) -> dict[str, tuple[float, Counts]]:
        """Return the hits and misses of each model, and the Unix second at which counting began."""
        return self._database.run(DiskcacheStore.counts)

    def close(self) -> None:
        """Close this thread's connection."""
        self._database.close()

    def _protect(self, store: DiskcacheStore, key: bytes) -> bool:
        """Protect one row; return whether it exists."""
        outcome = store.protect(key)
        if outcome == "promoted" and self._protected is not None:
            self._protected = (self._protected[0] + 1, self._protected[1])
        return outcome != "absent"

    def _trim(self, store: DiskcacheStore, most_bytes: int) -> None:
        """Remove rows beyond the limit, at most about so many bytes."""
        volume = first = store.volume()
        while (excess := volume - self._capacity) > 0 and first - volume < most_bytes and (entries := len(store)):
            leaving = -(-min(excess, most_bytes) * entries // volume)
            with store.transaction():
                self._unprotect(store, entries - leaving, 4 * leaving)
                store.delete_next(leaving)
            volume = store.volume()

    def _unprotect(self, store: DiskcacheStore, staying: int, most: int) -> None:
        """Put the oldest protected rows back on probation where there are too many: new rows need room."""
        number, trims = self._protected or (0, _RECOUNT_TRIMS)
        if trims >= _RECOUNT_TRIMS or self._counted_in != self._database.times_opened:
            self._counted_in, trims = self._database.times_opened, 0
            number = store.count_protected()
        if (too_many := number - int(_PROTECTED * staying)) > 0:
            number -= store.unprotect_oldest(min(too_many, most))
        self._protected = (max(0, number), trims + 1)


def _count_clear(store: DiskcacheStore) -> None:
    store.clears += 1
