"""The memory tier is bounded in bytes and keeps rows that are asked for again."""

from __future__ import annotations

import gc
import hashlib
import random
import tracemalloc

import numpy as np

from edgeembed.cache.memory import OVERHEAD_BYTES, MemoryTier
from edgeembed.cache.rows import CachedRow

ENTRY = 400 + OVERHEAD_BYTES
MIB = 2**20


def row(number: float = 0.0, dimensions: int = 100) -> CachedRow:
    return CachedRow(np.full(dimensions, number, dtype=np.float32), 3)


def key(number: int | str) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def ask(tier: MemoryTier, number: int | str) -> bool:
    """Look up a row as the cache does: when it is missing, it is computed and stored."""
    if tier.get(key(number)) is not None:
        return True
    tier.put(key(number), row())
    return False


def test_a_row_comes_back_and_the_newer_one_counts() -> None:
    tier = MemoryTier(MIB)
    tier.put(key(1), row(1))
    tier.put(key(1), row(2, dimensions=50))
    found = tier.get(key(1))
    assert found is not None and found.vector.tolist() == [2.0] * 50
    assert len(tier) == 1 and tier.used_bytes == 200 + OVERHEAD_BYTES
    tier.drop(key(1))
    assert tier.get(key(1)) is None and tier.used_bytes == 0


def test_never_more_bytes_than_allowed() -> None:
    rng = random.Random(3)
    tier = MemoryTier(40_000)
    for _ in range(5000):
        number, size = rng.randrange(90), rng.choice([1, 100, 1000, 9000])
        wanted = rng.choice(["normal", "low", "keep"])
        if tier.get(key(number)) is None or rng.random() < 0.1:
            tier.put(key(number), row(dimensions=size), wanted)  # type: ignore[arg-type]
        held = [found for number in range(90) if (found := tier.peek(key(number))) is not None]
        assert tier.used_bytes == sum(found.vector.nbytes + OVERHEAD_BYTES for found in held) <= 40_000
        assert len(tier) == len(held)
    assert len(tier) > 0


def test_the_bytes_counted_are_the_memory_taken() -> None:
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        tier = MemoryTier(4 * MIB)
        for number in range(4000):
            tier.put(key(number), row(dimensions=384))
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert tier.used_bytes > 3.5 * MIB, "it is full"
    assert 0.85 * tier.used_bytes < taken < 1.05 * 4 * MIB


def test_what_is_asked_for_again_outlives_a_scan() -> None:
    tier = MemoryTier(100 * ENTRY)
    for _ in range(4):
        for number in range(60):
            ask(tier, number)
    for number in range(2000):
        ask(tier, f"scan {number}")
    assert sum(ask(tier, number) for number in range(60)) >= 58


def test_a_scan_does_not_push_out_rows_that_were_asked_for_in_one_burst() -> None:
    """They were not asked for after they had left the window: only their frequency keeps them."""
    tier = MemoryTier(100 * ENTRY)
    for number in range(60):
        for _ in range(3):
            ask(tier, number)
    for number in range(2000):
        ask(tier, f"scan {number}")
    assert sum(ask(tier, number) for number in range(60)) >= 55


def test_rows_that_become_frequent_are_admitted_to_a_full_tier() -> None:
    tier = MemoryTier(100 * ENTRY)
    for _ in range(3):
        for number in range(200):
            ask(tier, number)
    for _ in range(8):
        for number in range(20):
            ask(tier, f"new {number}")
            ask(tier, f"once {number} {_}")
    assert sum(ask(tier, f"new {number}") for number in range(20)) >= 18


def test_a_bulk_load_takes_free_space_only() -> None:
    tier = MemoryTier(100 * ENTRY)
    for number in range(50):
        tier.put(key(number), row())
    for number in range(1000):
        tier.put(key(f"bulk {number}"), row(), "low")
    assert all(tier.peek(key(number)) is not None for number in range(50))
    assert tier.peek(key("bulk 0")) is not None
    assert tier.peek(key("bulk 999")) is None


def test_rows_to_keep_are_admitted_at_once() -> None:
    tier = MemoryTier(100 * ENTRY)
    for _ in range(5):
        for number in range(200):
            ask(tier, number)
    for number in range(30):
        tier.put(key(f"kept {number}"), row(), "keep")
    for number in range(2000):
        ask(tier, f"scan {number}")
    assert sum(tier.peek(key(f"kept {number}")) is not None for number in range(30)) == 30


def test_keys_that_are_asked_for_again_are_collected() -> None:
    tier = MemoryTier(100 * ENTRY)
    for number in range(20):
        ask(tier, number)  # the first ones have left the window by now
    assert not tier.promoted
    ask(tier, 0)
    assert tier.promoted == {key(0)} == set(tier.often_used)


def test_a_row_larger_than_the_tier_is_not_stored() -> None:
    tier = MemoryTier(20 * ENTRY)
    tier.put(key(1), row(1))
    tier.put(key(2), row(dimensions=50_000))
    assert tier.get(key(2)) is None and tier.get(key(1)) is not None


def test_no_memory_keeps_nothing() -> None:
    tier = MemoryTier(0)
    for wanted in ("normal", "low", "keep"):
        tier.put(key(1), row(), wanted)  # type: ignore[arg-type]
    assert tier.get(key(1)) is None and tier.used_bytes == 0


def test_clear_frees_the_bytes() -> None:
    tier = MemoryTier(30 * ENTRY)
    tier.put(key(1), row())
    tier.clear()
    assert (tier.used_bytes, len(tier), tier.get(key(1))) == (0, 0, None)
