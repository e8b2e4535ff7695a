"""The cache of both tiers: lookups go to memory, then to disk; writes to memory at once, and to disk in the background.

The event loop never waits for the disk. A fault of the disk causes misses, is logged once, and never reaches a client.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from edgeembed.cache.bloom_filter import DiskKeyFilter
from edgeembed.cache.counters import Counts
from edgeembed.cache.database import FAULTS, describe_fault
from edgeembed.cache.disk import DiskItem, DiskTier
from edgeembed.cache.disk_health import DiskHealth
from edgeembed.cache.memory import MemoryTier, Wanted
from edgeembed.cache.report import ModelReport, labels_of, report_models, stands_for
from edgeembed.cache.responses import StoredResponses
from edgeembed.cache.rows import CachedRow, decode_row, encode_row, is_vector
from edgeembed.cache.write_buffer import ROWS_AT_ONCE, WriteBuffer
from edgeembed.common.status import CacheStats
from edgeembed.common.trace import traced
from edgeembed.engine.interface import Row
from edgeembed.errors import EdgeEmbedError, ModelNotFoundError

log = logging.getLogger(__name__)

T = TypeVar("T")

MIB = 1024 * 1024
WRITE_SECONDS = 0.5
"""Time after which a buffered row is written, unless there are enough for a write earlier: a transaction for each row of a
stream of queries would slow down the next ones."""
FLUSH_SECONDS = 5.0
"""Time after which counts, and keys of rows that were asked for again, are written."""
REFRESH_SECONDS = 6 * 3600.0
"""How often rows that are answered from memory are protected on disk, which does not see these lookups."""
_RESPONSES = 0.25
"""Share of the memory that is for stored responses."""


class FoundRows(dict[bytes, CachedRow]):
    """Cached rows by key. missing: keys without a row. from_disk: number of rows that were on disk only."""

    __slots__ = ("from_disk", "missing")

    def __init__(self) -> None:
        super().__init__()
        self.missing: list[bytes] = []
        self.from_disk = 0


class VectorCache:
    """Rows by key. All coroutines run on one event loop; the disk tier has its own thread."""

    def __init__(self, folder: Path | None, *, memory_mib: int, disk_mib: int, ttl: float | None = None) -> None:
        """Nothing is opened before `open`. Without folder or disk_mib: memory only. Without memory_mib: disk only.

        ttl: seconds after which a row counts as missing; None for never, as the vectors of a model file do not change.
        """
        self._folder = folder if disk_mib else None
        self._memory_bytes = memory_mib * MIB
        self._disk_bytes = disk_mib * MIB
        self._ttl = ttl
        self._memory = MemoryTier(int(self._memory_bytes * (1 - _RESPONSES)))
        self.responses = StoredResponses(int(self._memory_bytes * _RESPONSES))
        """Responses whose rows came from memory."""
        self._disk: DiskTier | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cache-disk")
        self._buffer = WriteBuffer()
        self._key_filter = DiskKeyFilter(self._on_disk, self._buffer.keys)
        self._writer: asyncio.Task[None] | None = None
        self._write_later: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None
        self._flush: asyncio.TimerHandle | None = None
        self._refresh_at = time.monotonic() + REFRESH_SECONDS
        self._closed = False
        self._health = DiskHealth(self._folder)
        self._damaged = 0
        self._clears = 0
        self._counts: dict[str, Counts] = {}
        self._saved_counts: dict[str, Counts] = {}
        """The part of the counts that is on disk."""

    @property
    def stats(self) -> CacheStats:
        total = Counts()
        for counts in self._counts.values():
            total = total.plus(counts)
        return CacheStats(
            memory_hits=total.memory_hits,
            disk_hits=total.disk_hits,
            misses=total.misses,
            saved_seconds=round(total.saved_seconds, 6),
            damaged=self._damaged,
            memory_entries=len(self._memory),
            memory_bytes=self._memory.used_bytes,
            answer_bytes=self.responses.used_bytes,
            memory_limit_bytes=self._memory_bytes,
            disk_limit_bytes=self._disk_bytes if self._folder else 0,
            rows_to_write=len(self._buffer),
            folder=str(self._folder) if self._folder else None,
            disk_problem=self._health.problem,
            models={model: counts.plus(Counts()) for model, counts in self._counts.items()},
        )

    async def disk_bytes(self) -> int | None:
        """Return what the disk tier takes; None while it is not used."""
        disk = self._disk
        if disk is None or not self._disk_usable("read"):
            return None
        try:
            return await self._on_disk(lambda: disk.size_bytes)
        except FAULTS:
            return None

    async def open(self) -> None:
        """Open the disk tier; when that fails, log it, work in memory alone, and try again later."""
        if self._folder is None:
            return
        folder, capacity = self._folder, self._disk_bytes
        try:
            disk = await self._on_disk(lambda: DiskTier(folder, capacity))
            self._clears = await self._on_disk(lambda: disk.clears)
            self._disk = disk
            self._health.succeeded("open")
        except FAULTS as error:
            self._health.failed("open", f"the cache folder {folder} cannot be used: {describe_fault(error)}")

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
        if self._flush is None:
            self._flush_soon()
        return rows

    def not_in_memory(self, keys: Iterable[bytes]) -> set[bytes]:
        """Return the keys that memory does not have; nothing is counted."""
        return {key for key in keys if key not in self._memory}

    async def get_many(
        self, keys: Iterable[bytes], model: str = "", *, low: bool = False, dimensions: Collection[int] = ()
    ) -> FoundRows:
        """Return the cached rows; missing, damaged, foreign and expired ones are left out.

        low: for a bulk load, which does not suggest that a row will be asked for again. dimensions: see `add_from_disk`.
        """
        found = self.get_from_memory(keys, model, low=low)
        await self.add_from_disk(found, model, low=low, dimensions=dimensions)
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
        if self._flush is None:
            self._flush_soon()
        return found

    def may_be_on_disk(self, found: FoundRows) -> bool:
        """Return whether the disk may have any of the missing rows; if not, `add_from_disk` need not be waited for."""
        return bool(found.missing and self._disk_usable("read") and self._key_filter.among(found.missing))

    def count_missing(self, found: FoundRows, model: str = "") -> None:
        """Count the missing rows: what is left of `add_from_disk` when nothing is on disk."""
        self._counts_of(model).misses += len(found.missing)

    async def add_from_disk(
        self, found: FoundRows, model: str = "", *, low: bool = False, dimensions: Collection[int] = ()
    ) -> None:
        """Add the missing rows that the disk has: the second half of `get_many`, to be called once.

        dimensions: that the model's rows may have; another one is damaged. Memory holds only rows that passed this or `put`.
        """
        counts = self._counts_of(model)
        if found.missing and self._disk_usable("read") and (maybe := self._key_filter.among(found.missing)):
            for key, row in (await self._from_disk(maybe, model, dimensions)).items():
                found[key] = row
                found.from_disk += 1
                counts.disk_hits += 1
                counts.saved_seconds += row.seconds
                self._memory.put(key, row, "low" if low else "normal")
                if not low:
                    self._buffer.touched.add(key)
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
        """Store a row, at once in memory and soon on disk, if it is a vector.

        seconds: that computing it took. dimensions: that the model's rows may have.
        """
        if not is_vector(row.vector, dimensions):
            return
        # A copy: an engine's row may be a view of a whole batch.
        kept = CachedRow(np.array(row.vector, dtype=np.float32), row.tokens, seconds, int(time.time()), model, row.full)
        self._memory.put(key, kept, wanted)
        if self._disk_usable("write"):
            self._buffer.add(DiskItem(key, encode_row(key, kept), model, wanted))
            self._key_filter.add(key)
            self._write_soon()

    def keep(self, keys: Iterable[bytes]) -> None:
        """Protect stored rows that will be asked for again."""
        if self._disk_usable("write"):
            self._buffer.touched.update(keys)
            self._flush_soon()

    async def clear(self, model: str | None = None) -> int:
        """Remove all rows, or those of a model (NAME or NAME:TYPE), from memory and disk; return how many there were.

        Raises:
            ModelNotFoundError: There are no rows of that model.
            EdgeEmbedError: The disk tier cannot be cleared.
        """
        if self._buffer:
            self._start_writer()  # otherwise buffered rows would be written after the clearing
        if self._writer is not None:
            await self._writer
        disk, removed = self._disk, 0
        if disk is None and self._folder is not None:
            raise EdgeEmbedError(self._health.problem_of("open") or "the cache is not open yet")
        if disk is not None:

            def clear(disk: DiskTier = disk) -> tuple[int, int]:
                return disk.clear(None if model is None else labels_of(disk, model)), disk.clears

            try:
                removed, self._clears = await self._on_disk(clear)
            except FAULTS as error:
                raise EdgeEmbedError(f"the cache cannot be cleared: {describe_fault(error)}") from error
        forgotten = self._memory.drop_models(lambda label: model is None or stands_for(model, label))
        self.responses.clear()
        removed = max(removed, forgotten)  # most rows in memory are on disk too
        if model is not None and not removed:
            raise ModelNotFoundError(f"the cache has no rows of a model {model!r}", param="model")
        log.info("the cache was cleared%s", "" if model is None else f" of {model}")
        return removed

    async def report(self) -> tuple[int, list[ModelReport]]:
        """Return the bytes on disk, and what is there of each model; nothing if there is no disk tier that can be read."""
        disk = self._disk
        if disk is None:
            return 0, []
        try:
            return await self._on_disk(lambda: (disk.size_bytes, report_models(disk)))
        except FAULTS as error:
            self._health.failed("read", f"the cache cannot be read: {describe_fault(error)}")
            return 0, []

    async def close(self) -> None:
        """Write the buffered rows and close the disk tier; later rows stay in memory."""
        self._closed = True
        self._stop_timers()
        if self._opening is not None:
            await self._opening
        while self._writer and not self._writer.done():
            await self._writer
        if self._disk is not None:
            await self._write()
        disk, self._disk = self._disk, None
        await self._key_filter.close()
        if disk is not None:
            try:
                await self._on_disk(disk.close)
            except FAULTS as error:
                self._health.failed("close", f"the cache did not close cleanly: {error}")
        self._thread.shutdown(wait=False)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _counts_of(self, model: str) -> Counts:
        counts = self._counts.get(model)
        if counts is None:
            counts = self._counts[model] = Counts()
        return counts

    def _is_old(self, row: CachedRow | None) -> bool:
        return self._ttl is not None and row is not None and time.time() - row.created > self._ttl

    async def _from_disk(self, keys: list[bytes], model: str, dimensions: Collection[int]) -> dict[bytes, CachedRow]:
        assert self._disk is not None
        disk = self._disk
        # A buffered row may have left the memory tier already.
        values = {key: value for key in keys if (value := self._buffer.value(key)) is not None}
        rest = [key for key in keys if key not in values]
        if rest:
            try:
                found, version = await self._on_disk(lambda: (disk.get_many(rest), disk.version))
                values.update(found)
                self._health.succeeded("read")
                self._key_filter.follow(disk, version)
            except FAULTS as error:
                self._health.failed("read", f"the cache cannot be read: {describe_fault(error)}")
        rows = {}
        for key, value in values.items():
            row = decode_row(key, value)
            if row is None or (dimensions and len(row.vector) not in dimensions):
                self._damaged += 1
            elif not self._is_old(row):
                rows[key] = row._replace(model=model)
        return rows

    # --- the disk -----------------------------------------------------------------------------------------------------

    async def _on_disk(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _disk_usable(self, what: Literal["read", "write"]) -> bool:
        """Return whether the disk can be used now; when it could not be opened, try again from time to time."""
        if self._closed or self._folder is None or self._health.is_paused(what):
            return False
        if self._disk is None and not self._health.is_paused("open") and (self._opening is None or self._opening.done()):
            self._opening = asyncio.get_running_loop().create_task(self.open(), name="cache-open")
        return self._disk is not None

    def _write_soon(self) -> None:
        """Schedule a write of the buffered rows, at once when there are enough."""
        if len(self._buffer) >= ROWS_AT_ONCE:
            self._start_writer()
        elif self._write_later is None and not self._closed:
            self._write_later = asyncio.get_running_loop().call_later(WRITE_SECONDS, self._start_writer)

    def _stop_timers(self) -> None:
        for timer in (self._flush, self._write_later):
            if timer is not None:
                timer.cancel()
        self._flush = self._write_later = None

    def _flush_soon(self) -> None:
        """Schedule a write of the counts, and of the keys of rows that were asked for again."""
        if self._flush is None and self._disk is not None and not self._closed:
            self._flush = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._start_writer)

    def _start_writer(self) -> None:
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write(), name="cache-writer")

    async def _write(self) -> None:
        """Write what is buffered in small transactions, between which lookups are answered."""
        self._stop_timers()
        disk = self._disk
        if disk is None or self._health.is_paused("write"):
            return
        try:
            clears, version = await self._on_disk(lambda: (disk.clears, disk.version))
            self._follow_clears(clears)
            self._key_filter.follow(disk, version)
            self._collect_touched()
            while self._buffer:
                if rows := self._buffer.batch():
                    await self._on_disk(lambda items=rows: disk.put_many(items))  # type: ignore[misc]
                    self._buffer.written(rows)
                else:
                    touched = self._buffer.take_touched()
                    for key in await self._on_disk(lambda keys=touched: disk.touch_many(keys)):  # type: ignore[misc]
                        # It is not on disk, or no longer, but in memory and in demand.
                        if (row := self._memory.peek(key)) is not None:
                            self._buffer.add(DiskItem(key, encode_row(key, row), row.model, "keep"))
            counts = {model: now.plus(Counts()) for model, now in self._counts.items()}
            new = {
                model: more
                for model, now in counts.items()
                if (more := now.minus(self._saved_counts.get(model, Counts()))) != Counts()
            }
            if new:
                await self._on_disk(lambda: disk.add_counts(new))
                self._saved_counts = counts
            self._health.succeeded("write")
        except FAULTS as error:
            self._health.failed("write", f"the cache cannot be written: {describe_fault(error)}")
            self._buffer.clear()  # the rest would fail in the same way

    def _follow_clears(self, clears: int) -> None:
        """Clear the memory tier when another process has cleared the disk."""
        if clears > self._clears:
            self._memory.clear()
            self.responses.clear()
            self._buffer.touched.clear()
            log.info("the cache was cleared")
        self._clears = clears  # less than before in a new database

    def _collect_touched(self) -> None:
        """Add the keys of rows that were asked for again, and now and then of all protected rows in memory."""
        self._buffer.touched |= self._memory.promoted
        self._memory.promoted.clear()
        if time.monotonic() >= self._refresh_at:
            self._refresh_at = time.monotonic() + REFRESH_SECONDS
            self._buffer.touched |= set(self._memory.often_used)
