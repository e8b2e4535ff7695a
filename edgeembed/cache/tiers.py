"""The cache of all tiers: memory, then the disk, then a server that several daemons share, the last two by choice.

Rows go to memory at once, and to the others in the background. A fault of a tier causes misses, is logged once, and never
reaches a client.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from edgeembed.cache.background_disk import BackgroundDisk
from edgeembed.cache.counters import Counts
from edgeembed.cache.disk import DiskItem
from edgeembed.cache.memory import MemoryTier, Wanted
from edgeembed.cache.redis_client import ServerFault
from edgeembed.cache.report import ModelReport, stands_for
from edgeembed.cache.responses import StoredResponses
from edgeembed.cache.rows import CachedRow, decode_row, encode_row, is_vector
from edgeembed.cache.shared import SharedTier, row_bytes
from edgeembed.common.status import CacheStats
from edgeembed.common.trace import traced
from edgeembed.engine.interface import Row
from edgeembed.errors import EdgeEmbedError, ModelNotFoundError

log = logging.getLogger(__name__)

MIB = 1024 * 1024
_RESPONSES = 0.25
"""Share of the memory that is for stored responses."""


class FoundRows(dict[bytes, CachedRow]):
    """Cached rows by key. missing: keys without a row. from_lower: number of rows that memory did not have."""

    __slots__ = ("from_lower", "missing")

    def __init__(self) -> None:
        super().__init__()
        self.missing: list[bytes] = []
        self.from_lower = 0


class VectorCache:
    """Rows by key. All coroutines run on one event loop."""

    def __init__(
        self,
        folder: Path | None,
        *,
        memory_mib: int,
        disk_mib: int,
        ttl: float | None = None,
        shared: SharedTier | None = None,
    ) -> None:
        """Nothing is opened before `open`. Without folder or disk_mib: no disk. Without memory_mib: no memory.

        ttl: seconds after which a row counts as missing; None for never, as the vectors of a model file do not change.
        """
        self._memory_bytes = memory_mib * MIB
        self._disk_bytes = disk_mib * MIB
        self._ttl = ttl
        self._memory = MemoryTier(int(self._memory_bytes * (1 - _RESPONSES)))
        self.responses = StoredResponses(int(self._memory_bytes * _RESPONSES))
        """Responses whose rows came from memory."""
        self._counts: dict[str, Counts] = {}
        folder = folder if disk_mib else None
        self._disk = BackgroundDisk(folder, self._disk_bytes, self._memory, self._counts, self._cleared_by_another)
        self._shared = shared
        self._damaged = 0

    @property
    def stats(self) -> CacheStats:
        total = Counts()
        for counts in self._counts.values():
            total = total.plus(counts)
        folder = self._disk.folder
        return CacheStats(
            memory_hits=total.memory_hits,
            disk_hits=total.disk_hits,
            shared_hits=total.shared_hits,
            misses=total.misses,
            saved_seconds=round(total.saved_seconds, 6),
            damaged=self._damaged,
            memory_entries=len(self._memory),
            memory_bytes=self._memory.used_bytes,
            answer_bytes=self.responses.used_bytes,
            memory_limit_bytes=self._memory_bytes,
            disk_limit_bytes=self._disk_bytes if folder else 0,
            rows_to_write=self._disk.rows_to_write,
            folder=str(folder) if folder else None,
            disk_problem=self._disk.problem,
            shared=self._shared.stats if self._shared else None,
            models={model: counts.plus(Counts()) for model, counts in self._counts.items()},
        )

    async def disk_bytes(self) -> int | None:
        """Return what the disk tier takes; None while it is not used."""
        return await self._disk.size_bytes()

    async def open(self) -> None:
        """Open the disk and connect to the shared tier; what fails is logged, and tried again later."""
        await self._disk.open()
        if self._shared is not None:
            await self._shared.open()

    def get_hot(self, keys: Sequence[bytes], model: str = "") -> list[CachedRow] | None:
        """Return the rows if all of them are in memory, without waiting; only then hits are counted."""
        memory = self._memory
        if len(keys) > 1 and not all(key in memory for key in keys):
            return None
        rows: list[CachedRow] = []
        for key in keys:
            row = memory.hit(key)
            if row is None or (self._ttl is not None and self._is_old(row)):
                return None
            rows.append(row)
        counts = self._counts_of(model)
        for row in rows:
            counts.memory_hits += 1
            counts.saved_seconds += row.seconds
        self._disk.flush_soon()
        return rows

    def not_in_memory(self, keys: Iterable[bytes]) -> set[bytes]:
        """Return the keys that memory does not have; nothing is counted."""
        return {key for key in keys if key not in self._memory}

    async def get_many(
        self, keys: Iterable[bytes], model: str = "", *, low: bool = False, dimensions: Collection[int] = ()
    ) -> FoundRows:
        """Return the cached rows; missing, damaged, foreign and expired ones are left out.

        low: for a bulk load, which does not suggest that a row will be asked for again. dimensions: see `add_from_lower`.
        """
        found = self.get_from_memory(keys, model, low=low)
        await self.add_from_lower(found, model, low=low, dimensions=dimensions)
        return found

    @traced(within="look up")
    def get_from_memory(self, keys: Iterable[bytes], model: str = "", *, low: bool = False) -> FoundRows:
        """Return the rows in memory, without waiting: the first half of `get_many`."""
        found = FoundRows()
        lookup = self._memory.peek if low else self._memory.get
        for key in keys:
            row = lookup(key)
            if row is None or self._is_old(row):
                found.missing.append(key)
            else:
                found[key] = row
        counts = self._counts_of(model)
        counts.memory_hits += len(found)
        for row in found.values():
            counts.saved_seconds += row.seconds
        self._disk.flush_soon()
        return found

    def may_be_lower(self, found: FoundRows) -> bool:
        """Return whether a lower tier may have any of the missing rows; if not, `add_from_lower` need not be waited for."""
        if not found.missing:
            return False
        return bool((self._shared is not None and self._shared.may_have) or self._disk.may_have(found.missing))

    def count_missing(self, found: FoundRows, model: str = "") -> None:
        """Count the missing rows: what is left of `add_from_lower` when no lower tier has any."""
        self._counts_of(model).misses += len(found.missing)

    async def add_from_lower(
        self,
        found: FoundRows,
        model: str = "",
        *,
        low: bool = False,
        dimensions: Collection[int] = (),
        store: bool = True,
    ) -> None:
        """Add the missing rows that the disk or the shared tier has: the second half of `get_many`, to be called once.

        dimensions: that the model's rows may have; another one is damaged. Memory holds only rows that passed this or `put`.
        store: whether a row of the shared tier is stored here, as if it had been computed here.
        """
        counts = self._counts_of(model)
        wanted: Wanted = "low" if low else "normal"
        if maybe := self._disk.may_have(found.missing):
            for key, row in self._sound(await self._disk.get_many(maybe), model, dimensions).items():
                self._add(found, key, row, counts)
                self._memory.put(key, row, wanted)
                counts.disk_hits += 1
                if not low:
                    self._disk.touch(key)
            found.missing = [key for key in found.missing if key not in found]
        if found.missing and self._shared is not None and self._shared.may_have:
            values = await self._shared.get_many(found.missing, model, row_bytes(dimensions))
            for key, row in self._sound(values, model, dimensions).items():
                self._add(found, key, row, counts)
                counts.shared_hits += 1
                if store:
                    self._memory.put(key, row, wanted)
                    if self._disk.takes_rows:
                        self._disk.put(DiskItem(key, values[key], model, wanted))
            found.missing = [key for key in found.missing if key not in found]
        self.count_missing(found, model)

    @traced(within="store")
    def put(
        self,
        key: bytes,
        row: Row,
        model: str = "",
        *,
        seconds: float = 0.0,
        wanted: Wanted = "normal",
        dimensions: Collection[int] = (),
    ) -> None:
        """Store a row, at once in memory and soon in the lower tiers, if it is a vector.

        seconds: that computing it took. dimensions: that the model's rows may have.
        """
        if not is_vector(row.vector, dimensions):
            return
        # A copy: an engine's row may be a view of a whole batch.
        kept = CachedRow(np.array(row.vector, dtype=np.float32), row.tokens, seconds, int(time.time()), model, row.full)
        self._memory.put(key, kept, wanted)
        on_disk = self._disk.takes_rows
        if on_disk or self._shared is not None:
            value = encode_row(key, kept)
            if on_disk:
                self._disk.put(DiskItem(key, value, model, wanted))
            if self._shared is not None:
                self._shared.put(key, value, model, low=wanted == "low")

    def keep(self, keys: Iterable[bytes]) -> None:
        """Protect stored rows that will be asked for again."""
        self._disk.keep(keys)

    async def clear(self, model: str | None = None) -> int:
        """Remove all rows, or those of a model (NAME or NAME:TYPE), from all tiers; return how many there were.

        Raises:
            ModelNotFoundError: There are no rows of that model.
            EdgeEmbedError: A lower tier cannot be cleared.
        """
        # First the shared tier: until it is empty, lookups bring its rows to the other tiers.
        shared, fault = await self._clear_shared(model)
        removed = max(shared, await self._disk.clear(model))  # most rows are in all tiers
        forgotten = self._memory.drop_models(lambda label: model is None or stands_for(model, label))
        self.responses.clear()
        removed = max(removed, forgotten)
        if fault is not None:
            raise EdgeEmbedError(
                f"this daemon's rows were removed, but the shared cache cannot be cleared: {fault}"
            ) from fault
        if model is not None and not removed:
            raise ModelNotFoundError(f"the cache has no rows of a model {model!r}", param="model")
        log.info("the cache was cleared%s", "" if model is None else f" of {model}")
        return removed

    async def report(self) -> tuple[int, list[ModelReport]]:
        """Return the bytes on disk, and what is there of each model; nothing if there is no disk tier that can be read."""
        return await self._disk.report()

    async def close(self) -> None:
        """Write the buffered rows and close the lower tiers; later rows stay in memory."""
        if self._shared is not None:
            await self._shared.close()
        await self._disk.close()

    def _counts_of(self, model: str) -> Counts:
        counts = self._counts.get(model)
        if counts is None:
            counts = self._counts[model] = Counts()
        return counts

    def _is_old(self, row: CachedRow | None) -> bool:
        return self._ttl is not None and row is not None and time.time() - row.created > self._ttl

    def _sound(self, values: dict[bytes, bytes], model: str, dimensions: Collection[int]) -> dict[bytes, CachedRow]:
        """Return the rows that can be used; the damaged ones are counted."""
        rows = {}
        for key, value in values.items():
            row = decode_row(key, value)
            if row is None or (dimensions and len(row.vector) not in dimensions):
                self._damaged += 1
            elif not self._is_old(row):
                rows[key] = row._replace(model=model)
        return rows

    @staticmethod
    def _add(found: FoundRows, key: bytes, row: CachedRow, counts: Counts) -> None:
        found[key] = row
        found.from_lower += 1
        counts.saved_seconds += row.seconds

    async def _clear_shared(self, model: str | None) -> tuple[int, ServerFault | None]:
        """Remove all rows of the shared tier, or those of a model that this daemon has, or had, rows of.

        Returns how many there were, and why it could not be done.
        """
        if self._shared is None:
            return 0, None
        labels = None
        if model is not None:
            _, models = await self._disk.report()
            known = {*self._counts, *(f"{each.model}@{each.digest}" for each in models)}
            labels = {label for label in known if stands_for(model, label)}
            if not labels:
                return 0, None
        try:
            return await self._shared.clear(labels), None
        except ServerFault as fault:
            return 0, fault

    def _cleared_by_another(self) -> None:
        self._memory.clear()
        self.responses.clear()
        log.info("the cache was cleared")
