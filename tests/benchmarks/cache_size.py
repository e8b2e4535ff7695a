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
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))

from edgeembed.cache import CachedRow, VectorCache
from edgeembed.cache.disk import DiskItem, DiskTier
from edgeembed.cache.rows import encode_row

DIMENSIONS = 1024
QUESTIONS = 4000
_AT_ONCE = 2000


def key(number: int) -> bytes:
    return hashlib.sha256(b"row %d" % number).digest()


def fill(folder: Path, first: int, last: int) -> None:
    """Add rows; prints the speed."""
    tier = DiskTier(folder, 64 * 2**30)
    vector = np.random.default_rng(1).standard_normal(DIMENSIONS).astype(np.float32)
    began = time.perf_counter()
    for start in range(first, last, _AT_ONCE):
        numbers = range(start, min(last, start + _AT_ONCE))
        tier.put_many(DiskItem(key(n), encode_row(key(n), CachedRow(vector, n % 500)), "model") for n in numbers)
    rate = (last - first) / (time.perf_counter() - began)
    print(f"  {len(tier):,} rows, {tier.size_bytes / 2**20:,.0f} MiB, written at {rate:,.0f} rows/s", flush=True)
    tier.close()


async def ask(folder: Path, rows: int) -> list[float]:
    """Look up rows one by one, as requests do; return milliseconds, sorted."""
    cache = VectorCache(folder, memory_mib=0, disk_mib=64 * 1024)
    await cache.open()
    rng = np.random.default_rng(2)
    took = []
    for number in rng.integers(0, rows, QUESTIONS):
        wanted = key(int(number))
        began = time.perf_counter()
        found = await cache.get_many([wanted])
        took.append(1000 * (time.perf_counter() - began))
        assert found[wanted].tokens == number % 500
    await cache.close()
    return sorted(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 1_000_000])
    parser.add_argument("--folder", help="where the databases go; a temporary folder otherwise")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folders = {rows: Path(temporary) / str(rows) for rows in options.rows}
        for rows, folder in folders.items():
            fill(folder, 0, rows)
        # In turns, so that a busy neighbour hurts all sizes alike; the least p50 of each is the quietest.
        rounds = [{rows: asyncio.run(ask(folder, rows)) for rows, folder in folders.items()} for _ in range(5)]
        first = min(one[options.rows[0]][QUESTIONS // 2] for one in rounds)
        for rows in options.rows:
            p50 = min(one[rows][QUESTIONS // 2] for one in rounds)
            p99 = min(one[rows][QUESTIONS * 99 // 100] for one in rounds)
            print(f"{rows:>12,} rows: p50 {p50:.3f} ms, p99 {p99:.3f} ms, {p50 / first:.2f} times the first")
    print(f"this process took {psutil.Process().memory_info().rss / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
