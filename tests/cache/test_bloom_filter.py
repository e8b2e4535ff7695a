"""The Bloom filter of the keys on disk never excludes a key that is there."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from edgeembed.cache import VectorCache, bloom_filter
from edgeembed.cache.bloom_filter import BloomFilter
from edgeembed.cache.disk import DiskTier
from edgeembed.engine.interface import Row
from tests.waiting import until_async

ROW = Row(np.ones(8, dtype=np.float32), 3)


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


@pytest.mark.parametrize("capacity", [10, 200_000])
def test_added_keys_are_found_and_hardly_any_other(capacity: int) -> None:
    keys = BloomFilter(capacity)
    half = keys.capacity // 2
    keys.add_many(b"".join(map(key, range(half))))
    for number in range(half, keys.capacity):
        keys.add(key(number))
    assert all(key(number) in keys for number in range(0, keys.capacity, 7))
    assert not keys.is_full
    wrong = sum(key(number) in keys for number in range(keys.capacity, keys.capacity + 20_000))
    assert wrong < 100
    keys.add(key(-1))
    assert keys.is_full


@pytest.fixture
async def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[int]]:
    """The number of keys of each lookup on disk."""
    found: list[int] = []
    usual = DiskTier.get_many

    def get_many(self: DiskTier, keys: list[bytes]) -> dict[bytes, bytes]:
        found.append(len(keys))
        return usual(self, keys)

    monkeypatch.setattr(DiskTier, "get_many", get_many)
    yield found


async def filter_built(cache: VectorCache) -> None:
    """Wait until the filter of the keys on disk is built."""
    await cache.get_many([key(-1)])
    await until_async(lambda: cache._disk._key_filter.is_built)


async def test_keys_that_cannot_be_on_disk_are_not_sought_there(tmp_path: Path, asked: list[int]) -> None:
    before = VectorCache(tmp_path, memory_mib=1, disk_mib=10)
    await before.open()
    for number in range(300):
        before.put(key(number), ROW)
    await before.close()
    cache = VectorCache(tmp_path, memory_mib=0, disk_mib=10)
    await cache.open()
    await filter_built(cache)
    asked.clear()
    assert await cache.get_many(map(key, range(1000, 1300))) == {}
    assert sum(asked) <= 3
    assert len(await cache.get_many(map(key, range(300)))) == 300
    cache.put(key(5000), ROW)
    assert list(await cache.get_many([key(5000)])) == [key(5000)]
    await cache.close()


async def test_rows_written_while_the_filter_is_built_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = DiskTier.keys
    monkeypatch.setattr(DiskTier, "keys", lambda self, after=b"": usual(self, after, 10))  # many pieces
    before = VectorCache(tmp_path, memory_mib=1, disk_mib=10)
    await before.open()
    for number in range(300):
        before.put(key(number), ROW)
    await before.close()
    cache = VectorCache(tmp_path, memory_mib=0, disk_mib=10)
    await cache.open()
    await cache.get_many([key(-1)])
    for number in range(300, 700):
        cache.put(key(number), ROW)
        await asyncio.sleep(0)
    await filter_built(cache)
    assert len(await cache.get_many(map(key, range(700)))) == 700
    await cache.close()


async def test_rows_of_another_daemon_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bloom_filter, "TRUSTED_SECONDS", 0.05)
    one = VectorCache(tmp_path, memory_mib=0, disk_mib=10)
    await one.open()
    await filter_built(one)
    other = VectorCache(tmp_path, memory_mib=0, disk_mib=10)
    await other.open()
    other.put(key(1), ROW)
    await other.close()
    await asyncio.sleep(0.1)  # twice TRUSTED_SECONDS
    assert list(await one.get_many([key(1)])) == [key(1)]
    await filter_built(one)  # anew, with the keys of the other one
    assert one._disk._key_filter.among([key(1), key(2)]) == [key(1)]
    await one.close()
