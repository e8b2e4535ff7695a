"""Two tiers as one: look in memory, then on disk; write to memory at once and to disk behind the caller's back.

The event loop never waits for the disk. Whatever is wrong with the disk makes misses, is logged once, and never reaches a
client.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

import diskcache
import numpy as np

from edgeembed.cache.bloom_filter import KeysOnDisk
from edgeembed.cache.counters import Counts
from edgeembed.cache.disk import FAULTS, DiskItem, DiskTier
from edgeembed.cache.memory import MemoryTier, Wanted
from edgeembed.cache.report import labels_of, stands_for
from edgeembed.cache.responses import StoredResponses
from edgeembed.cache.rows import CachedRow, decode_row, encode_row
from edgeembed.cache.write_buffer import ROWS_AT_ONCE, Unwritten
from edgeembed.common.status import CacheStats
from edgeembed.engine.interface import Row
from edgeembed.errors import EdgeEmbedError, ModelNotFoundError

log = logging.getLogger(__name__)

T = TypeVar("T")

MIB = 1024 * 1024
REST_SECONDS = 5.0
"""A disk at fault is left alone for so long, so that requests do not wait behind one busy time after the other."""
TELL_AGAIN_SECONDS = 600.0
"""The same line about the disk is logged once in so long."""
WRITE_SECONDS = 0.5
"""How long a row may wait for the disk, unless enough for a write are there: a transaction for each row of a stream of
queries would take the processor from the next one."""
FLUSH_SECONDS = 5.0
"""How long counts, and news of rows that were asked for again, may wait for the disk."""
REFRESH_SECONDS = 6 * 3600.0
"""How often the disk learns of the rows that the hot tier answers all the time: it never sees those questions."""
_RESPONSES = 0.25
"""Of the hot tier's memory: stored responses."""


class FoundRows(dict[bytes, CachedRow]):
    """Cached rows by key. missing: the other keys that were asked for. from_disk: how many rows only the disk had."""

    def __init__(self) -> None:
        super().__init__()
        self.missing: list[bytes] = []
        self.from_disk = 0


class VectorCache:
    """Rows by key. All coroutines run on one event loop; the disk has a thread of its own."""

    def __init__(self, folder: Path | None, *, memory_mib: int, disk_mib: int, ttl: float | None = None) -> None:
        """Prepare; `open` does the work. No folder or no disk_mib: memory only. No memory_mib: disk only.

        ttl: seconds after which a row is computed anew; None: never, as the vectors of a file do not age.
        """
        self._folder = folder if disk_mib else None
        self._memory_bytes = memory_mib * MIB
        self._disk_bytes = disk_mib * MIB
        self._ttl = ttl
        self._memory = MemoryTier(int(self._memory_bytes * (1 - _RESPONSES)))
        self.responses = StoredResponses(int(self._memory_bytes * _RESPONSES))
        """Responses whose rows came from memory, as they were written."""
        self._disk: DiskTier | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cache-disk")
        self._unwritten = Unwritten()
        self._present = KeysOnDisk(self._on_disk, self._unwritten.keys)
        self._writer: asyncio.Task[None] | None = None
        self._write_later: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None
        self._flush: asyncio.TimerHandle | None = None
        self._refresh_at = time.monotonic() + REFRESH_SECONDS
        self._rests_until: dict[str, float] = {}
        self._closed = False
        self._problems: dict[str, str] = {} if self._folder else {"open": "switched off"}
        self._told: dict[str, float] = {}
        self._damaged = 0
        self._clears = 0
        self._counts: dict[str, Counts] = {}
        self._remembered: dict[str, Counts] = {}
        """What of the counts is on disk."""

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
            rows_to_write=len(self._unwritten),
            folder=str(self._folder) if self._folder else None,
            disk_problem=next(iter(self._problems.values()), None),
            models={model: counts.plus(Counts()) for model, counts in self._counts.items()},
        )

    async def open(self) -> None:
        """Open the disk tier; when that fails the cache works in memory alone, says so, and tries again later."""
        if self._folder is None:
            return
        folder, capacity = self._folder, self._disk_bytes
        try:
            disk = await self._on_disk(lambda: DiskTier(folder, capacity))
            self._clears = await self._on_disk(lambda: disk.clears)
            self._disk = disk
            self._note("open", None)
        except FAULTS as error:
            self._note("open", f"the cache folder {folder} cannot be used: {_words(error)}")

    def get_hot(self, keys: Sequence[bytes], model: str = "") -> list[CachedRow] | None:
        """Give the rows if all of them are in memory, without ever waiting; counts only then."""
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

    async def get_many(self, keys: Iterable[bytes], model: str = "", *, low: bool = False) -> FoundRows:
        """Return the cached rows; what is missing, damaged, foreign or too old is left out.

        low: part of a bulk load, which is no sign that a row will be asked for again.
        """
        found = self.get_from_memory(keys, model, low=low)
        await self.add_from_disk(found, model, low=low)
        return found

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

    async def add_from_disk(self, found: FoundRows, model: str = "", *, low: bool = False) -> None:
        """Add the missing rows that the disk has: the second half of `get_many`, to be called once."""
        counts = self._counts_of(model)
        if found.missing and self._disk_takes_part("read") and (asked := self._present.among(found.missing)):
            for key, row in (await self._from_disk(asked, model)).items():
                found[key] = row
                found.from_disk += 1
                counts.disk_hits += 1
                counts.saved_seconds += row.seconds
                self._memory.put(key, row, "low" if low else "normal")
                if not low:
                    self._unwritten.touched.add(key)
        found.missing = [key for key in found.missing if key not in found]
        counts.misses += len(found.missing)

    def put(self, key: bytes, row: Row, model: str = "", *, seconds: float = 0.0, wanted: Wanted = "normal") -> None:
        """Keep a row, at once in memory and soon on disk. `seconds`: what it took to compute."""
        # A copy: an engine's row may be part of a whole batch's memory.
        kept = CachedRow(np.array(row.vector, dtype=np.float32), row.tokens, seconds, int(time.time()), model)
        self._memory.put(key, kept, wanted)
        if self._disk_takes_part("write"):
            self._unwritten.add(DiskItem(key, encode_row(key, kept), model, wanted))
            self._present.add(key)
            self._write_soon()

    def keep(self, keys: Iterable[bytes]) -> None:
        """Protect rows that are there already: they will be asked for again."""
        if self._disk_takes_part("write"):
            self._unwritten.touched.update(keys)
            self._flush_soon()

    async def clear(self, model: str | None = None) -> int:
        """Remove every row, or those of a model (NAME or NAME:TYPE), from memory and disk; gives how many there were.

        Raises ModelNotFoundError when there is none of that model, EdgeEmbedError when the disk does not let them go.
        """
        if self._unwritten:
            self._start_writer()  # what waits would come to the disk behind its back
        if self._writer is not None:
            await self._writer
        disk, removed = self._disk, 0
        if disk is None and self._folder is not None:
            raise EdgeEmbedError(self._problems.get("open", "the cache is not open yet"))
        if disk is not None:

            def clear(disk: DiskTier = disk) -> tuple[int, int]:
                return disk.clear(None if model is None else labels_of(disk, model)), disk.clears

            try:
                removed, self._clears = await self._on_disk(clear)
            except FAULTS as error:
                raise EdgeEmbedError(f"the cache cannot be cleared: {_words(error)}") from error
        forgotten = self._memory.drop_models(lambda label: model is None or stands_for(model, label))
        self.responses.clear()
        removed = max(removed, forgotten)  # what is in memory is mostly on disk, too
        if model is not None and not removed:
            raise ModelNotFoundError(f"the cache has nothing of a model {model!r}", param="model")
        log.info("the cache was cleared%s", "" if model is None else f" of {model}")
        return removed

    async def close(self) -> None:
        """Write what is not on disk yet and close the disk tier; a row that comes later stays in memory."""
        self._closed = True
        self._stop_timers()
        if self._opening is not None:
            await self._opening
        while self._writer and not self._writer.done():
            await self._writer
        if self._disk is not None:
            await self._write()
        disk, self._disk = self._disk, None
        await self._present.close()
        if disk is not None:
            try:
                await self._on_disk(disk.close)
            except FAULTS as error:
                self._note("close", f"the cache did not close cleanly: {error}")
        self._thread.shutdown(wait=False)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _counts_of(self, model: str) -> Counts:
        counts = self._counts.get(model)
        if counts is None:
            counts = self._counts[model] = Counts()
        return counts

    def _is_old(self, row: CachedRow | None) -> bool:
        return self._ttl is not None and row is not None and time.time() - row.created > self._ttl

    async def _from_disk(self, keys: list[bytes], model: str) -> dict[bytes, CachedRow]:
        assert self._disk is not None
        disk = self._disk
        # A row that still waits for the disk may have left the hot tier already.
        values = {key: value for key in keys if (value := self._unwritten.value(key)) is not None}
        rest = [key for key in keys if key not in values]
        if rest:
            try:
                found, version = await self._on_disk(lambda: (disk.get_many(rest), disk.version))
                values.update(found)
                self._note("read", None)
                self._present.follow(disk, version)
            except FAULTS as error:
                self._note("read", f"the cache cannot be read: {_words(error)}")
        rows = {}
        for key, value in values.items():
            row = decode_row(key, value)
            if row is None:
                self._damaged += 1
            elif not self._is_old(row):
                rows[key] = row._replace(model=model)
        return rows

    # --- the disk -----------------------------------------------------------------------------------------------------

    async def _on_disk(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _disk_takes_part(self, what: Literal["read", "write"]) -> bool:
        """Say whether the disk may be asked now; a folder that could not be opened is tried again now and then."""
        if self._closed or self._folder is None or self._rests(what):
            return False
        if self._disk is None and not self._rests("open") and (self._opening is None or self._opening.done()):
            self._opening = asyncio.get_running_loop().create_task(self.open(), name="cache-open")
        return self._disk is not None

    def _rests(self, what: str) -> bool:
        return time.monotonic() < self._rests_until.get(what, 0.0)

    def _write_soon(self) -> None:
        """See to it that rows get to the disk, at once when there are enough for a write."""
        if len(self._unwritten) >= ROWS_AT_ONCE:
            self._start_writer()
        elif self._write_later is None and not self._closed:
            self._write_later = asyncio.get_running_loop().call_later(WRITE_SECONDS, self._start_writer)

    def _stop_timers(self) -> None:
        for timer in (self._flush, self._write_later):
            if timer is not None:
                timer.cancel()
        self._flush = self._write_later = None

    def _flush_soon(self) -> None:
        """See to it that counts, and news of rows asked for again, get to the disk."""
        if self._flush is None and self._disk is not None and not self._closed:
            self._flush = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._start_writer)

    def _start_writer(self) -> None:
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write(), name="cache-writer")

    async def _write(self) -> None:
        """Bring to disk what waits for it, in small transactions: reads come between two of them."""
        self._stop_timers()
        disk = self._disk
        if disk is None or self._rests("write"):
            return
        try:
            clears, version = await self._on_disk(lambda: (disk.clears, disk.version))
            self._follow_clears(clears)
            self._present.follow(disk, version)
            self._note_often_used()
            while self._unwritten:
                if rows := self._unwritten.batch():
                    await self._on_disk(lambda items=rows: disk.put_many(items))  # type: ignore[misc]
                    self._unwritten.written(rows)
                else:
                    touched = self._unwritten.take_touched()
                    for key in await self._on_disk(lambda keys=touched: disk.touch_many(keys)):  # type: ignore[misc]
                        # It left the disk, or never got there; the hot tier has it and it is wanted.
                        if (row := self._memory.peek(key)) is not None:
                            self._unwritten.add(DiskItem(key, encode_row(key, row), row.model, "keep"))
            counts = {model: now.plus(Counts()) for model, now in self._counts.items()}
            new = {
                model: more
                for model, now in counts.items()
                if (more := now.minus(self._remembered.get(model, Counts()))) != Counts()
            }
            if new:
                await self._on_disk(lambda: disk.add_counts(new))
                self._remembered = counts
            self._note("write", None)
        except FAULTS as error:
            self._note("write", f"the cache cannot be written: {_words(error)}")
            self._unwritten.clear()  # the rest would wait for the same fault

    def _follow_clears(self, clears: int) -> None:
        """Forget what is in memory when somebody cleared the disk since."""
        if clears > self._clears:
            self._memory.clear()
            self.responses.clear()
            self._unwritten.touched.clear()
            log.info("the cache was cleared")
        self._clears = clears  # less than before in a database that was begun anew

    def _note_often_used(self) -> None:
        self._unwritten.touched |= self._memory.promoted
        self._memory.promoted.clear()
        if time.monotonic() >= self._refresh_at:
            self._refresh_at = time.monotonic() + REFRESH_SECONDS
            self._unwritten.touched |= set(self._memory.often_used)

    def _note(self, what: str, problem: str | None) -> None:
        """Log a problem of the disk when it is new; keep it for /health until the same work succeeds."""
        if problem is None:
            if self._problems.pop(what, None) is not None and not self._problems:
                self._tell(logging.INFO, f"the cache in {self._folder} works again")
            return
        self._tell(logging.WARNING, problem)
        self._problems[what] = problem
        self._rests_until[what] = time.monotonic() + REST_SECONDS

    def _tell(self, level: int, message: str) -> None:
        # A disk that is nearly full takes a row now and then: that is one problem, not a new one each time.
        now = time.monotonic()
        if now - self._told.get(message, float("-inf")) > TELL_AGAIN_SECONDS:
            self._told[message] = now
            log.log(level, "%s", message)


def _words(error: BaseException) -> str:
    """Say what is wrong; diskcache's Timeout has no message of its own, or a number."""
    return "another process keeps it locked" if isinstance(error, diskcache.Timeout) else str(error)
