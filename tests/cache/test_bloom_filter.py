"""Which keys may be on disk: never a wrong "no"."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from edgeembed.cache import VectorCache
from edgeembed.cache import bloom_filter as known_module
from edgeembed.cache.bloom_filter import KnownKeys
from edgeembed.cache.disk import DiskTier
from edgeembed.engine.interface import Row

ROW = Row(np.ones(8, dtype=np.float32), 3)


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


@pytest.mark.parametrize("room", [10, 200_000])
def test_what_was_added_is_there_and_hardly_anything_else(room: int) -> None:
    known = KnownKeys(room)
    half = known.room // 2
    known.add_many(b"".join(map(key, range(half))))
    for number in range(half, known.room):
        known.add(key(number))
    assert all(key(number) in known for number in range(0, known.room, 7))
    assert not known.is_full
    wrong = sum(key(number) in known for number in range(known.room, known.room + 20_000))
    assert wrong < 100
    known.add(key(-1))
    assert known.is_full


@pytest.fixture
async def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[int]]:
    """Count the keys that the disk is asked for."""
    found: list[int] = []
    usual = DiskTier.get_many

    def get_many(self: DiskTier, keys: list[bytes]) -> dict[bytes, bytes]:
        found.append(len(keys))
        return usual(self, keys)

    monkeypatch.setattr(DiskTier, "get_many", get_many)
    yield found


async def learned(cache: VectorCache) -> None:
    """Wait until the cache knows what is on disk."""
    await cache.get_many([key(-1)])
    for _ in range(500):
        if cache._present._known is not None:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never learned which keys are there")


async def test_the_disk_is_asked_only_for_what_it_may_have(tmp_path: Path, asked: list[int]) -> None:
    before = VectorCache(tmp_path, memory_mib=1, disk_mib=10)
    await before.open()
    for number in range(300):
        before.put(key(number), ROW)
    await before.close()
    cache = VectorCache(tmp_path, memory_mib=0, disk_mib=10)
    await cache.open()
    await learned(cache)
    asked.clear()
    assert await cache.get_many(map(key, range(1000, 1300))) == {}
    assert sum(asked) <= 3
    assert len(await cache.get_many(map(key, range(300)))) == 300
    cache.put(key(5000), ROW)
    assert list(await cache.get_many([key(5000)])) == [key(5000)]
    await cache.close()


async def test_rows_that_are_written_while_it_learns_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = DiskTier.keys
    monkeypatch.setattr(DiskTier, "keys", lambda self, behind=b"": usual(self, behind, 10))  # many pieces
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
    await learned(cache)
    assert len(await cache.get_many(map(key, range(700)))) == 700
    await cache.close()


async def test_rows_of_another_daemon_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_module, "TRUSTED_SECONDS", 0.05)
    one = VectorCache(tmp_path, memory_mib=0, disk_mib=10)
    await one.open()
    await learned(one)
    other = VectorCache(tmp_path, memory_mib=0, disk_mib=10)
    await other.open()
    other.put(key(1), ROW)
    await other.close()
    await asyncio.sleep(0.1)
    assert list(await one.get_many([key(1)])) == [key(1)]
    await learned(one)  # what else the other one wrote
    assert key(1) in one._present._known  # type: ignore[operator]
    await one.close()
