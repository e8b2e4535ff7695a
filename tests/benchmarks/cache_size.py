"""What a hit on disk costs as the cache grows: rows of 1,024 dimensions, 1,000 against 1,000,000 of them.

    python tests/benchmarks/cache_size.py --rows 1000 1000000

Needs about 5 kB of disk for each row. The hot tier is off; keys are drawn at random from all that there are, so most pages
are not in SQLite's own cache (32 MB), but in the system's where memory allows. The goal: p50 at 1,000,000 rows at most
1.5 times that at 1,000.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))

from edgeembed.cache import CachedRow, VectorCache
from edgeembed.cache.disk import DiskItem, DiskTier
from edgeembed.cache.memory import OVERHEAD_BYTES
from edgeembed.cache.rows import encode_row
from edgeembed.engine.interface import Float32Row, Row

DIMENSIONS = 1024
DISK_MIB = 64 * 1024
MIB = 2**20
QUESTIONS = 4000
_AT_ONCE = 2000


def key(number: int) -> bytes:
    return hashlib.sha256(b"row %d" % number).digest()


@dataclass(frozen=True)
class Hits:
    """Lookups of rows that are there. grown_mib: resident memory that opening or filling the cache has added."""

    p50_ms: float
    p99_ms: float
    grown_mib: float


def vector(dimensions: int) -> Float32Row:
    return np.random.default_rng(1).standard_normal(dimensions).astype(np.float32)


def fill(folder: Path, rows: int, dimensions: int = DIMENSIONS) -> float:
    """Write rows to disk, print the speed, and return the size in MiB."""
    tier = DiskTier(folder, DISK_MIB * MIB)
    row = vector(dimensions)
    began = time.perf_counter()
    for start in range(0, rows, _AT_ONCE):
        numbers = range(start, min(rows, start + _AT_ONCE))
        tier.put_many(DiskItem(key(n), encode_row(key(n), CachedRow(row, n % 500)), "model") for n in numbers)
    rate = rows / (time.perf_counter() - began)
    size = tier.size_bytes / MIB
    print(f"  {len(tier):,} rows, {size:,.0f} MiB, written at {rate:,.0f} rows/s", flush=True)
    tier.close()
    return size


def disk_hits(folder: Path, rows: int) -> Hits:
    """Look up rows on disk one by one, as requests do."""
    return asyncio.run(_hits(VectorCache(folder, memory_mib=0, disk_mib=DISK_MIB), rows))


def memory_hits(rows: int, dimensions: int) -> Hits:
    """Fill the memory tier and look up rows in it."""
    room = int(1.3 * rows * (4 * dimensions + OVERHEAD_BYTES) / MIB) + 64
    return asyncio.run(_hits(VectorCache(None, memory_mib=room, disk_mib=0), rows, vector(dimensions)))


async def _hits(cache: VectorCache, rows: int, new: Float32Row | None = None) -> Hits:
    """Look up rows. new: put this row under all keys first."""
    process = psutil.Process()
    before = process.memory_info().rss
    await cache.open()
    if new is not None:
        for number in range(rows):
            cache.put(key(number), Row(new, number % 500), "model")
    took = []
    for number in np.random.default_rng(2).integers(0, rows, QUESTIONS):
        wanted = key(int(number))
        began = time.perf_counter()
        found = await cache.get_many([wanted])
        took.append(1000 * (time.perf_counter() - began))
        assert found[wanted].tokens == number % 500
    grown = (process.memory_info().rss - before) / MIB
    await cache.close()
    took.sort()
    return Hits(took[QUESTIONS // 2], took[QUESTIONS * 99 // 100], grown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 1_000_000])
    parser.add_argument("--folder", help="where the databases go; a temporary folder otherwise")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folders = {rows: Path(temporary) / str(rows) for rows in options.rows}
        for rows, folder in folders.items():
            fill(folder, rows)
        # In turns, so that a busy neighbour hurts all sizes alike; the least p50 of each is the quietest.
        rounds = [{rows: disk_hits(folder, rows) for rows, folder in folders.items()} for _ in range(5)]
        first = min(one[options.rows[0]].p50_ms for one in rounds)
        for rows in options.rows:
            p50 = min(one[rows].p50_ms for one in rounds)
            p99 = min(one[rows].p99_ms for one in rounds)
            print(f"{rows:>12,} rows: p50 {p50:.3f} ms, p99 {p99:.3f} ms, {p50 / first:.2f} times the first")
    print(f"this process took {psutil.Process().memory_info().rss / MIB:.0f} MiB")


if __name__ == "__main__":
    main()
