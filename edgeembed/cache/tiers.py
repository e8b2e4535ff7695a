"""Two tiers as one: look in memory, then on disk; write to memory at once and to disk behind the caller's back.

The event loop never waits for the disk. Whatever is wrong with the disk makes misses, is logged once, and never reaches a
client.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import diskcache
import msgspec

from edgeembed.cache.disk import FAULTS, DiskTier
from edgeembed.cache.memory import MemoryTier
from edgeembed.cache.rows import decode_row, encode_row
from edgeembed.engine.protocol import Row

log = logging.getLogger(__name__)

T = TypeVar("T")

MIB = 1024 * 1024
MOST_UNWRITTEN_BYTES = 64 * MIB
"""Rows waiting for a slow disk; beyond that, new ones stay in the hot tier only."""
_WRITE_AT_ONCE = 256
"""Rows of one write; reads come between two of them."""


class CacheStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the daemon started, and what the cache holds now."""

    memory_hits: int
    disk_hits: int
    misses: int
    damaged: int
    """Entries of ours found damaged, or under another key."""
    memory_entries: int
    memory_bytes: int
    unwritten: int
    """Rows that are not on disk yet."""
    disk_problem: str | None
    """Why the disk tier does not take part, if it does not."""


class VectorCache:
    """Rows by key. All coroutines run on one event loop; the disk has a thread of its own."""

    def __init__(self, folder: Path | None, *, memory_mib: int, disk_mib: int) -> None:
        """Prepare; `open` does the work. No folder or no disk_mib: memory only. No memory_mib: disk only."""
        self._folder = folder if disk_mib else None
        self._disk_bytes = disk_mib * MIB
        self._memory = MemoryTier(memory_mib * MIB)
        self._disk: DiskTier | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cache-disk")
        self._unwritten: dict[bytes, bytes] = {}
        self._unwritten_bytes = 0
        self._writer: asyncio.Task[None] | None = None
        self._problems: dict[str, str] = {} if self._folder else {"open": "switched off"}
        self._memory_hits = self._disk_hits = self._misses = self._damaged = 0

    @property
    def stats(self) -> CacheStats:
        return CacheStats(
            memory_hits=self._memory_hits,
            disk_hits=self._disk_hits,
            misses=self._misses,
            damaged=self._damaged,
            memory_entries=len(self._memory),
            memory_bytes=self._memory.bytes,
            unwritten=len(self._unwritten),
            disk_problem=next(iter(self._problems.values()), None),
        )

    async def open(self) -> None:
        """Open the disk tier; when that fails the cache works in memory alone, and says so."""
        if self._folder is None:
            return
        folder, capacity = self._folder, self._disk_bytes
        try:
            self._disk = await self._on_disk(lambda: DiskTier(folder, capacity))
        except FAULTS as error:
            self._note("open", f"the cache folder {folder} cannot be used: {error}")

    async def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Row]:
        """Give the rows that are known; what is missing, damaged or foreign is not in the answer."""
        found: dict[bytes, Row] = {}
        missing: list[bytes] = []
        for key in keys:
            row = self._memory.get(key)
            if row is None:
                missing.append(key)
            else:
                found[key] = row
        self._memory_hits += len(found)
        if missing and self._disk is not None:
            for key, row in (await self._from_disk(missing)).items():
                found[key] = row
                self._disk_hits += 1
                self._memory.put(key, row)
        self._misses += sum(key not in found for key in missing)
        return found

    def put(self, key: bytes, row: Row) -> None:
        """Keep a row, at once in memory and soon on disk."""
        self._memory.put(key, row)
        if self._disk is None or self._unwritten_bytes >= MOST_UNWRITTEN_BYTES:
            return
        self._unwritten_bytes -= len(self._unwritten.pop(key, b""))
        value = self._unwritten[key] = encode_row(key, row)
        self._unwritten_bytes += len(value)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), name="cache-writer")

    async def close(self) -> None:
        """Write what is not on disk yet and close the disk tier; a row that comes later stays in memory."""
        while self._writer and not self._writer.done():
            await self._writer
        disk, self._disk = self._disk, None
        if disk is not None:
            try:
                await self._on_disk(disk.close)
            except FAULTS as error:
                self._note("close", f"the cache did not close cleanly: {error}")
        self._thread.shutdown(wait=False)

    async def _on_disk(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _from_disk(self, keys: list[bytes]) -> dict[bytes, Row]:
        assert self._disk is not None
        disk = self._disk
        # A row that still waits for the disk may have left the hot tier already.
        values = {key: self._unwritten[key] for key in keys if key in self._unwritten}
        rest = [key for key in keys if key not in values]
        if rest:
            try:
                values.update(await self._on_disk(lambda: disk.get_many(rest)))
                self._note("read", None)
            except FAULTS as error:
                self._note("read", f"the cache cannot be read: {_words(error)}")
        rows = {}
        for key, value in values.items():
            row = decode_row(key, value)
            if row is None:
                self._damaged += 1
            else:
                rows[key] = row
        return rows

    async def _write(self) -> None:
        assert self._disk is not None
        disk = self._disk
        while self._unwritten:
            batch = list(islice(self._unwritten.items(), _WRITE_AT_ONCE))
            try:
                await self._on_disk(lambda items=batch: disk.put_many(items))  # type: ignore[misc]
                self._note("write", None)
            except FAULTS as error:
                self._note("write", f"the cache cannot be written: {_words(error)}")
                batch = list(self._unwritten.items())  # the rest would wait for the same fault
            for key, value in batch:
                if self._unwritten.get(key) is value:
                    del self._unwritten[key]
                    self._unwritten_bytes -= len(value)

    def _note(self, what: str, problem: str | None) -> None:
        """Log a problem of the disk when it is new; keep it for /health until the same work succeeds."""
        if problem is None:
            self._problems.pop(what, None)
            return
        if problem != self._problems.get(what):
            log.warning("%s", problem)
        self._problems[what] = problem


def _words(error: BaseException) -> str:
    """Say what is wrong; diskcache's Timeout has no message of its own, or a number."""
    return "another process keeps it locked" if isinstance(error, diskcache.Timeout) else str(error)
