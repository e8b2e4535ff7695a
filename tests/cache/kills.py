"""Two caches on one folder, repeatedly killed while they write; every row is checked.

python -m tests.cache.kills --rounds 1000
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import multiprocessing
import os
import random
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from edgeembed.cache import KeyMaker, VectorCache, background_disk
from edgeembed.cache.disk import DATABASE, DiskTier
from edgeembed.cache.rows import decode_row
from edgeembed.engine.interface import Float32Row, Row

KEYS = KeyMaker("5" * 64, "embed")
TEXTS = 3000
DISK_MIB = 2
"""Small, so that rows leave all the time."""
WRONG = 3


def computed(number: int) -> Float32Row:
    """Return the row of a text, as a model would compute it."""
    seed = int.from_bytes(hashlib.sha256(str(number).encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(384).astype(np.float32)


def key(number: int) -> bytes:
    return KEYS.key("{text}", str(number))


async def serve(folder: Path, seed: int) -> None:
    """Look up and store rows like a daemon until the process is killed; exit with WRONG when a row is wrong."""
    rng = random.Random(seed)
    cache = VectorCache(folder, memory_mib=0, disk_mib=DISK_MIB)
    await cache.open()
    while True:
        numbers = [int(rng.paretovariate(0.4)) % TEXTS for _ in range(rng.randrange(1, 40))]
        found = await cache.get_many(dict.fromkeys(map(key, numbers)))
        for number in numbers:
            row = found.get(key(number))
            if row is None:
                cache.put(key(number), Row(computed(number), number), "model")
            elif row.tokens != number or not np.array_equal(row.vector, computed(number)):
                os._exit(WRONG)


def run_cache(folder: str, seed: int) -> None:
    background_disk.WRITE_SECONDS = 0.0  # a kill comes in the middle of writes, or before the first one
    asyncio.run(serve(Path(folder), seed))


def check(folder: Path) -> int:
    """Compare all rows on disk with the right ones; return their number. Raises AssertionError."""
    by_key = {key(number): number for number in range(TEXTS)}
    with contextlib.closing(DiskTier(folder, DISK_MIB * 2**20)) as tier:
        rows = 0
        for item, _ in tier.rows():
            row = decode_row(item.key, item.value)
            assert row is not None and row.tokens == by_key[item.key]
            assert np.array_equal(row.vector, computed(row.tokens))
            rows += 1
        assert rows == len(tier), "a row on disk cannot be read"
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert not list(folder.parent.glob(f"{folder.name}.corrupt-*")), "a kill made the database corrupt"
    return rows


def rounds(folder: Path, number: int, seed: int = 1) -> int:
    """Start two caches and kill them, so many times; return the number of rows in the end. Raises AssertionError."""
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    rng = random.Random(seed)
    for turn in range(number):
        processes = [
            context.Process(target=run_cache, args=(str(folder), seed * 1_000_000 + 2 * turn + one)) for one in range(2)
        ]
        for each in processes:
            each.start()
        for each in processes:
            time.sleep(rng.uniform(0.0, 0.15))  # so that it is killed anywhere in its work
            each.kill()
        for each in processes:
            each.join()
            assert each.exitcode != WRONG, f"a wrong answer in round {turn}"
        if turn % 50 == 49 or turn == number - 1:
            rows = check(folder)
            print(f"round {turn + 1}: {rows} rows on disk, all of them right", file=sys.stderr)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    with tempfile.TemporaryDirectory() as temporary:
        rounds(Path(temporary) / "vectors", parser.parse_args().rounds)
