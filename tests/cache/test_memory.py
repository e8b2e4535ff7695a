"""The hot tier: bounded in bytes, and the one not used for longest leaves first."""

from __future__ import annotations

import random

import numpy as np

from edgeembed.cache.memory import OVERHEAD_BYTES, MemoryTier
from edgeembed.engine.protocol import Row

ENTRY = 400 + OVERHEAD_BYTES


def row(number: float = 0.0, dimensions: int = 100) -> Row:
    return Row(np.full(dimensions, number, dtype=np.float32), 3)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_the_least_recently_used_row_leaves() -> None:
    tier = MemoryTier(3 * ENTRY)
    for number in (1, 2, 3):
        tier.put(key(number), row(number))
    assert tier.get(key(1)) is not None  # used: now 2 is the oldest
    tier.put(key(4), row(4))
    assert [number for number in range(1, 5) if tier.get(key(number)) is not None] == [1, 3, 4]
    tier.put(key(1), row(9))  # stored again: now 3 is the oldest
    tier.put(key(5), row(5))
    assert tier.get(key(3)) is None
    again = tier.get(key(1))
    assert again is not None and again.vector[0] == 9


def test_never_more_bytes_than_allowed() -> None:
    rng = random.Random(3)
    tier = MemoryTier(20_000)
    for _ in range(2000):
        tier.put(key(rng.randrange(60)), row(dimensions=rng.choice([1, 100, 1000, 6000])))
        held = [found for number in range(60) if (found := tier.get(key(number))) is not None]
        assert tier.bytes == sum(found.vector.nbytes + OVERHEAD_BYTES for found in held) <= 20_000
        assert len(tier) == len(held) > 0


def test_a_row_larger_than_the_tier_drives_nothing_out() -> None:
    tier = MemoryTier(2 * ENTRY)
    tier.put(key(1), row(1))
    tier.put(key(2), row(dimensions=5000))
    assert tier.get(key(2)) is None and tier.get(key(1)) is not None


def test_no_memory_keeps_nothing() -> None:
    tier = MemoryTier(0)
    tier.put(key(1), row())
    assert tier.get(key(1)) is None and tier.bytes == 0


def test_clear_frees_the_bytes() -> None:
    tier = MemoryTier(3 * ENTRY)
    tier.put(key(1), row())
    tier.clear()
    assert (tier.bytes, len(tier), tier.get(key(1))) == (0, 0, None)
