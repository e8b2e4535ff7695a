"""A scan does not push frequent queries out of the cache. (tests/benchmarks/cache_scan.py measures more.)"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeembed.cache import KeyMaker, VectorCache
from edgeembed.engine.interface import Row

KEYS = KeyMaker("5" * 64, "embed")
VECTOR = np.random.default_rng(1).standard_normal(384).astype(np.float32)
MIB_ENTRIES = 2**20 // 1900
"""Rows that fit one MiB, in memory or on disk."""


def zipf(seed: int, number: int) -> list[bytes]:
    weights = 1 / np.arange(1, 3001)
    drawn = np.random.default_rng(seed).choice(3000, number, p=weights / weights.sum())
    return [KEYS.key("{text}", f"query {one}") for one in drawn]


async def hit_rate(folder: Path | None, keys: list[bytes], memory_mib: int, cache: VectorCache | None = None) -> float:
    """Look up all keys in a new cache on the folder, or in an open one; return the hit rate in per cent."""
    opened = cache or VectorCache(folder, memory_mib=memory_mib, disk_mib=1)
    if cache is None:
        await opened.open()
    hits = 0
    for number, key in enumerate(keys):
        if await opened.get_many([key], "model"):
            hits += 1
        else:
            opened.put(key, Row(VECTOR, 3), "model")
            if number % 200 == 0 and opened._disk._writer is not None:
                await opened._disk._writer
    if cache is None:
        await opened.close()
    return 100 * hits / len(keys)


@pytest.mark.parametrize("asked", [1, 2])
async def test_the_memory_tier(asked: int) -> None:
    cache = VectorCache(None, memory_mib=1, disk_mib=0)
    await hit_rate(None, zipf(1, 6000), 1, cache)
    before = await hit_rate(None, zipf(2, 2000), 1, cache)
    scan = [KEYS.key("{text}", f"document {number}") for number in range(20 * MIB_ENTRIES) for _ in range(asked)]
    await hit_rate(None, scan, 1, cache)
    assert before > 60
    assert await hit_rate(None, zipf(3, 2000), 1, cache) > before - 5


@pytest.mark.parametrize("memory_mib", [0, 1])
async def test_the_disk_tier_with_restarts_in_between(tmp_path: Path, memory_mib: int) -> None:
    folder = tmp_path / "vectors"
    await hit_rate(folder, zipf(1, 3000), memory_mib)
    before = await hit_rate(folder, zipf(2, 1000), memory_mib)
    scan = [KEYS.key("{text}", f"document {number}") for number in range(20 * MIB_ENTRIES)]
    await hit_rate(folder, scan[: len(scan) // 2], memory_mib)
    await hit_rate(folder, scan[len(scan) // 2 :], memory_mib)
    assert before > 50
    assert await hit_rate(folder, zipf(3, 1000), memory_mib) > before - 5
