"""The disk tier as the event loop uses it: on its own thread, opened again after faults, written in the background.

The event loop never waits for the disk. A fault causes misses, is logged once, and never reaches a client.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

from edgeembed.cache.bloom_filter import DiskKeyFilter
from edgeembed.cache.counters import Counts
from edgeembed.cache.database import FAULTS, describe_fault
from edgeembed.cache.disk import DiskItem, DiskTier
from edgeembed.cache.health import TierHealth
from edgeembed.cache.memory import MemoryTier
from edgeembed.cache.report import ModelReport, labels_of, report_models
from edgeembed.cache.rows import encode_row
from edgeembed.cache.write_buffer import ROWS_AT_ONCE, WriteBuffer
from edgeembed.errors import EdgeEmbedError

log = logging.getLogger(__name__)

T = TypeVar("T")

WRITE_SECONDS = 0.5
"""Time after which a buffered row is written, unless there are enough for a write earlier: a transaction for each row of a
stream of queries would slow down the next ones."""
FLUSH_SECONDS = 5.0
"""Time after which counts, and keys of rows that were asked for again, are written."""
REFRESH_SECONDS = 6 * 3600.0
"""How often rows that are answered from memory are protected on disk, which does not see these lookups."""


class BackgroundDisk:
    """Bytes of rows by key on disk. All coroutines run on one event loop; no method raises for a fault but `clear`."""

    def __init__(
        self,
        folder: Path | None,
        capacity: int,
        memory: MemoryTier,
        counts: Mapping[str, Counts],
        on_cleared: Callable[[], None],
    ) -> None:
        """Nothing is opened before `open`. Without folder there is no disk.

        memory: whose rows that are asked for again are protected on disk. counts: of each model, which are kept on disk.
        on_cleared: called when another process has cleared the disk.
        """
        self.folder = folder
        self._capacity = capacity
        self._memory = memory
        self._counts = counts
        self._on_cleared = on_cleared
        self._tier: DiskTier | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cache-disk")
        self._buffer = WriteBuffer()
        self._key_filter = DiskKeyFilter(self._on_disk, self._buffer.keys)
        self._writer: asyncio.Task[None] | None = None
        self._write_later: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None
        self._flush: asyncio.TimerHandle | None = None
        self._refresh_at = time.monotonic() + REFRESH_SECONDS
        self._closed = False
        self._health = TierHealth(f"the cache in {folder}", off=folder is None)
        self._clears = 0
        self._saved_counts: dict[str, Counts] = {}
        """The part of the counts that is on disk."""

    @property
    def problem(self) -> str | None:
        """Why the disk is not used; None when it is."""
        return self._health.problem

    @property
    def rows_to_write(self) -> int:
        return len(self._buffer)

    async def open(self) -> None:
        """Open the disk tier; when that fails, log it, and try again later."""
        if self.folder is None:
            return
        folder, capacity = self.folder, self._capacity
        try:
            tier = await self._on_disk(lambda: DiskTier(folder, capacity))
            self._clears = await self._on_disk(lambda: tier.clears)
            self._tier = tier
            self._health.succeeded("open")
        except FAULTS as error:
            self._health.failed("open", f"the cache folder {folder} cannot be used: {describe_fault(error)}")

    async def size_bytes(self) -> int | None:
        """Return what the rows take; None while the disk is not used."""
        tier = self._tier
        if tier is None or not self._usable("read"):
            return None
        try:
            return await self._on_disk(lambda: tier.size_bytes)
        except FAULTS:
            return None

    async def report(self) -> tuple[int, list[ModelReport]]:
        """Return the bytes on disk, and what is there of each model; nothing if there is no disk that can be read."""
        tier = self._tier
        if tier is None:
            return 0, []
        try:
            return await self._on_disk(lambda: (tier.size_bytes, report_models(tier)))
        except FAULTS as error:
            self._health.failed("read", f"the cache cannot be read: {describe_fault(error)}")
            return 0, []

    # --- rows ---------------------------------------------------------------------------------------------------------

    def may_have(self, keys: list[bytes]) -> list[bytes]:
        """Return those of the keys that may be on disk; the others need not be waited for."""
        return self._key_filter.among(keys) if keys and self._usable("read") else []

    async def get_many(self, keys: list[bytes]) -> dict[bytes, bytes]:
        """Return the rows' bytes that the disk, or its write buffer, has."""
        tier = self._tier
        # A buffered row may have left the memory tier already.
        values = {key: value for key in keys if (value := self._buffer.value(key)) is not None}
        rest = [key for key in keys if key not in values]
        if rest and tier is not None:
            try:
                found, version = await self._on_disk(lambda: (tier.get_many(rest), tier.version))
                values.update(found)
                self._health.succeeded("read")
                self._key_filter.follow(tier, version)
            except FAULTS as error:
                self._health.failed("read", f"the cache cannot be read: {describe_fault(error)}")
        return values

    @property
    def takes_rows(self) -> bool:
        """Whether rows can be written now."""
        return self._usable("write")

    def put(self, item: DiskItem) -> None:
        """Write a row soon; only while `takes_rows`."""
        self._buffer.add(item)
        self._key_filter.add(item.key)
        self._write_soon()

    def touch(self, key: bytes) -> None:
        """Protect a row that was read from disk, with the next write."""
        self._buffer.touched.add(key)

    def keep(self, keys: Iterable[bytes]) -> None:
        """Protect stored rows that will be asked for again."""
        if self._usable("write"):
            self._buffer.touched.update(keys)
            self.flush_soon()

    def flush_soon(self) -> None:
        """Schedule a write of the counts, and of the keys of rows that were asked for again."""
        if self._flush is None and self._tier is not None and not self._closed:
            self._flush = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._start_writer)

    async def clear(self, model: str | None = None) -> int:
        """Remove all rows, or those of a model (NAME or NAME:TYPE); return how many there were.

        Raises EdgeEmbedError: the disk cannot be cleared.
        """
        if self._buffer:
            self._start_writer()  # otherwise buffered rows would be written after the clearing
        if self._writer is not None:
            await self._writer
        tier, removed = self._tier, 0
        if tier is None and self.folder is not None:
            raise EdgeEmbedError(self._health.problem_of("open") or "the cache is not open yet")
        if tier is not None:

            def clear(tier: DiskTier = tier) -> tuple[int, int]:
                return tier.clear(None if model is None else labels_of(tier, model)), tier.clears

            try:
                removed, self._clears = await self._on_disk(clear)
            except FAULTS as error:
                raise EdgeEmbedError(f"the cache cannot be cleared: {describe_fault(error)}") from error
        return removed

    async def close(self) -> None:
        """Write the buffered rows and close the disk tier."""
        self._closed = True
        self._stop_timers()
        if self._opening is not None:
            await self._opening
        while self._writer and not self._writer.done():
            await self._writer
        if self._tier is not None:
            await self._write()
        tier, self._tier = self._tier, None
        await self._key_filter.close()
        if tier is not None:
            try:
                await self._on_disk(tier.close)
            except FAULTS as error:
                self._health.failed("close", f"the cache did not close cleanly: {error}")
        self._thread.shutdown(wait=False)

    # --- the thread ---------------------------------------------------------------------------------------------------

    async def _on_disk(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _usable(self, what: Literal["read", "write"]) -> bool:
        """Return whether the disk can be used now; when it could not be opened, try again from time to time."""
        if self._closed or self.folder is None or self._health.is_paused(what):
            return False
        if self._tier is None and not self._health.is_paused("open") and (self._opening is None or self._opening.done()):
            self._opening = asyncio.get_running_loop().create_task(self.open(), name="cache-open")
        return self._tier is not None

    # --- writing ------------------------------------------------------------------------------------------------------

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

    def _start_writer(self) -> None:
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write(), name="cache-writer")

    async def _write(self) -> None:
        """Write what is buffered in small transactions, between which lookups are answered."""
        self._stop_timers()
        tier = self._tier
        if tier is None or self._health.is_paused("write"):
            return
        try:
            clears, version = await self._on_disk(lambda: (tier.clears, tier.version))
            self._follow_clears(clears)
            self._key_filter.follow(tier, version)
            self._collect_touched()
            while self._buffer:
                if rows := self._buffer.batch():
                    await self._on_disk(lambda items=rows: tier.put_many(items))  # type: ignore[misc]
                    self._buffer.written(rows)
                else:
                    touched = self._buffer.take_touched()
                    for key in await self._on_disk(lambda keys=touched: tier.touch_many(keys)):  # type: ignore[misc]
                        # It is not on disk, or no longer, but in memory and in demand.
                        if (row := self._memory.peek(key)) is not None:
                            self._buffer.add(DiskItem(key, encode_row(key, row), row.model, "keep"))
            await self._save_counts(tier)
            self._health.succeeded("write")
        except FAULTS as error:
            self._health.failed("write", f"the cache cannot be written: {describe_fault(error)}")
            self._buffer.clear()  # the rest would fail in the same way

    async def _save_counts(self, tier: DiskTier) -> None:
        counts = {model: now.plus(Counts()) for model, now in self._counts.items()}
        new = {
            model: more
            for model, now in counts.items()
            if (more := now.minus(self._saved_counts.get(model, Counts()))) != Counts()
        }
        if new:
            await self._on_disk(lambda: tier.add_counts(new))
            self._saved_counts = counts

    def _follow_clears(self, clears: int) -> None:
        """Have memory cleared when another process has cleared the disk."""
        if clears > self._clears:
            self._buffer.touched.clear()
            self._on_cleared()
        self._clears = clears  # less than before in a new database

    def _collect_touched(self) -> None:
        """Add the keys of rows that were asked for again, and now and then of all protected rows in memory."""
        self._buffer.touched |= self._memory.promoted
        self._memory.promoted.clear()
        if time.monotonic() >= self._refresh_at:
            self._refresh_at = time.monotonic() + REFRESH_SECONDS
            self._buffer.touched |= set(self._memory.often_used)
