"""Both tiers together: lookups do not wait for the disk, and its faults cause misses."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from edgeembed.cache import KeyMaker, VectorCache, bloom_filter, disk, diskcache_store, health
from edgeembed.cache.counters import Counts
from edgeembed.cache.rows import CachedRow, encode_row
from edgeembed.cache.tiers import MIB
from edgeembed.engine.interface import Row
from edgeembed.errors import EdgeEmbedError, ModelNotFoundError
from edgeembed.inference.requests import EmbedRequest
from tests.fakes import FakeEngine, fake_service
from tests.waiting import until_async

KEYS = KeyMaker("5" * 64, "mean")
DATABASE = disk.DATABASE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "vectors"


@contextlib.asynccontextmanager
async def opened(folder: Path | None, *, memory_mib: int = 1, disk_mib: int = 64) -> AsyncIterator[VectorCache]:
    cache = VectorCache(folder, memory_mib=memory_mib, disk_mib=disk_mib)
    await cache.open()
    try:
        yield cache
    finally:
        await cache.close()


def key(text: str) -> bytes:
    return KEYS.key("{text}", text)


def row(number: float, dimensions: int = 384) -> Row:
    vector = np.full(dimensions, number, dtype=np.float32)
    vector[-1] = 1.0  # zeros alone are no vector
    return Row(vector, int(number))


async def written(cache: VectorCache) -> None:
    """Wait until the writer has nothing left."""
    await until_async(lambda: not cache.stats.rows_to_write)


async def test_rows_outlive_the_daemon(folder: Path) -> None:
    async with opened(folder) as cache:
        for number in range(1000):
            cache.put(key(f"text {number}"), row(number))
    async with opened(folder) as cache:
        found = await cache.get_many([key(f"text {number}") for number in range(1001)])
        assert len(found) == 1000
        assert found[key("text 7")].tokens == 7 and found[key("text 7")].vector.tolist() == [*[7.0] * 383, 1.0]
        stats = cache.stats
        assert (stats.memory_hits, stats.disk_hits, stats.misses, stats.damaged) == (0, 1000, 1, 0)
        assert stats.disk_problem is None and 0 < stats.memory_bytes <= 2**20
        await cache.get_many([key("text 999")])
        assert cache.stats.memory_hits == 1, "a row found on disk is in memory afterwards"


async def test_a_row_is_found_before_it_is_on_disk(folder: Path) -> None:
    async with opened(folder, memory_mib=0) as cache:
        cache.put(key("a"), row(1))
        found = await cache.get_many([key("a")])
        assert found[key("a")].tokens == 1
        assert cache.stats.memory_entries == 0
        await written(cache)
        assert (await cache.get_many([key("a")]))[key("a")].tokens == 1


async def test_of_a_row_stored_again_while_it_is_written_the_newer_one_stays(folder: Path) -> None:
    async with opened(folder, memory_mib=0) as cache:
        for number in range(40):
            cache.put(key("a"), row(number))
            await asyncio.sleep(0)
    async with opened(folder, memory_mib=0) as cache:
        assert (await cache.get_many([key("a")]))[key("a")].tokens == 39


async def test_no_text_is_on_disk(folder: Path) -> None:
    texts = ["the patient has a rare disease", "größe 🙂 geheim", "password hunter2"]
    async with opened(folder) as cache:
        for number, text in enumerate(texts):
            cache.put(key(text), row(number))
        await written(cache)
        files = [path for path in folder.rglob("*") if path.is_file()]
        content = b"".join(path.read_bytes() for path in files)  # with the journal that closing removes
        assert all(key(text) in content for text in texts), "the rows are in these files"
        for text in texts:
            for word in [text, *text.split()]:
                for encoding in ("utf-8", "utf-16-le"):
                    if len(word) > 3:
                        assert word.encode(encoding) not in content


async def test_two_daemons_share_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bloom_filter, "TRUSTED_SECONDS", 0.0)  # at once, each sees what the other wrote
    async with opened(folder, memory_mib=0) as one, opened(folder, memory_mib=0) as two:
        for number in range(300):
            (one if number % 2 else two).put(key(str(number)), row(number))
        await asyncio.gather(written(one), written(two))
        wanted = [key(str(number)) for number in range(300)]
        assert len(await one.get_many(wanted)) == len(await two.get_many(wanted)) == 300
        assert one.stats.disk_problem is None and two.stats.disk_problem is None


async def test_damaged_and_swapped_rows_are_misses(folder: Path) -> None:
    async with opened(folder) as cache:
        for number, text in enumerate("abcd"):
            cache.put(key(text), row(number))
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as database, database:
        values = {
            text: database.execute("SELECT value FROM Cache WHERE key = ?", (key(text),)).fetchone()[0] for text in "abc"
        }
        damaged = bytearray(values["a"])
        damaged[-1] ^= 1
        for text, value in (("a", bytes(damaged)), ("b", values["c"]), ("c", b"")):
            database.execute("UPDATE Cache SET value = ? WHERE key = ?", (value, key(text)))
    async with opened(folder) as cache:
        assert set(await cache.get_many([key(text) for text in "abcd"])) == {key("d")}
        assert (cache.stats.damaged, cache.stats.misses, cache.stats.disk_hits) == (3, 3, 1)
        cache.put(key("a"), row(0))
    async with opened(folder) as cache:
        assert key("a") in await cache.get_many([key("a")]), "a new row replaces the damaged one"


NO_VECTORS = [np.full(384, np.nan, np.float32), np.full(384, np.inf, np.float32), np.zeros(384, np.float32)]


async def test_what_is_no_vector_is_neither_stored_nor_found(folder: Path) -> None:
    async with opened(folder) as cache:
        for number, vector in enumerate([*NO_VECTORS, np.ones(10, np.float32)]):
            cache.put(key(str(number)), Row(vector, 3), dimensions=(384,))
        assert cache.stats.memory_entries == cache.stats.rows_to_write == 0
        cache.put(key("384"), row(1))
        cache.put(key("10"), row(2, 10))
    # Other programs write what they like, with a valid checksum.
    rows = {key(str(number)): CachedRow(vector, 3) for number, vector in enumerate(NO_VECTORS)}
    with contextlib.closing(disk.DiskTier(folder, 64 * MIB)) as tier:
        tier.put_many((each, encode_row(each, row)) for each, row in rows.items())
    async with opened(folder) as cache:
        found = await cache.get_many([*rows, key("384"), key("10")], dimensions=(384,))
        assert set(found) == {key("384")}
        assert (cache.stats.damaged, cache.stats.misses, cache.stats.memory_entries) == (4, 4, 1)
        assert set(await cache.get_many([key("10")], dimensions=(1, 10))) == {key("10")}


async def test_without_a_usable_folder_memory_works_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    async with opened(tmp_path / "file" / "vectors") as cache:
        cache.put(key("a"), row(1))
        assert key("a") in await cache.get_many([key("a"), key("b")])
        stats = cache.stats
        assert stats.disk_problem is not None and "file" in stats.disk_problem
        assert (stats.memory_hits, stats.misses, stats.rows_to_write) == (1, 1, 0)


@pytest.mark.parametrize("disk_mib", [0, 64])
async def test_a_disk_tier_that_is_switched_off(folder: Path, disk_mib: int) -> None:
    async with opened(None if disk_mib else folder, disk_mib=disk_mib) as cache:
        cache.put(key("a"), row(1))
        assert key("a") in await cache.get_many([key("a")])
        assert cache.stats.disk_problem == "switched off"
    assert not folder.exists()


async def test_a_locked_database_causes_misses_and_is_reported_until_it_works_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(diskcache_store, "BUSY_SECONDS", 0.05)
    writes: list[int] = []
    put_many = disk.DiskTier.put_many

    def counted(tier: disk.DiskTier, items: list[disk.DiskItem]) -> None:
        writes.append(len(items))
        put_many(tier, items)

    monkeypatch.setattr(disk.DiskTier, "put_many", counted)
    async with opened(folder, memory_mib=0) as cache:
        with contextlib.closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            for number in range(600):
                cache.put(key(str(number)), row(number))
            await written(cache)
            cache.put(key("rests"), row(1))
            await written(cache)
            assert await cache.get_many([key("1")]) == {}
            problem = cache.stats.disk_problem
            assert problem is not None and "locked" in problem
            assert caplog.text.count("locked") == 1, "logged once, not for each row"
            assert len(writes) == 1, "lookups do not wait for one timeout after the other"
        monkeypatch.setattr(health, "PAUSE_SECONDS", 0.0)
        cache._disk._health._paused_until.clear()
        cache.put(key("1"), row(1))
        await written(cache)
        assert key("1") in await cache.get_many([key("1")])
        assert cache.stats.disk_problem is None


async def test_a_folder_that_could_not_be_opened_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(health, "PAUSE_SECONDS", 0.0)
    caplog.set_level("INFO")
    (tmp_path / "file").write_text("not a folder")
    async with opened(tmp_path / "file" / "vectors", memory_mib=0) as cache:
        for _ in range(3):
            assert await cache.get_many([key("a")]) == {}
            await until_async(lambda: cache._disk._opening is None or cache._disk._opening.done())
        assert caplog.text.count("cannot be used") == 1, "logged once"
        (tmp_path / "file").unlink()
        async with asyncio.timeout(10):
            while cache.stats.disk_problem:
                await cache.get_many([key("a")])
                await asyncio.sleep(0.01)  # a lookup is what makes it try
        cache.put(key("a"), row(1))
        await written(cache)
        assert key("a") in await cache.get_many([key("a")])
        assert "works again" in caplog.text


async def test_a_database_that_breaks_while_it_is_used_causes_misses_and_is_replaced(folder: Path) -> None:
    async with opened(folder, memory_mib=0) as cache:
        cache.put(key("a"), row(1))
        await written(cache)
        with contextlib.closing(sqlite3.connect(folder / DATABASE)) as other, other:
            other.execute("DROP TABLE Cache")
        assert await cache.get_many([key("a")]) == {}
        cache.put(key("b"), row(2))
        await written(cache)
        assert key("b") in await cache.get_many([key("b")])
        assert cache.stats.disk_problem is None


async def test_rows_expire_only_with_a_ttl(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    async with opened(folder) as cache:
        cache.put(key("a"), row(1))
    monkeypatch.setattr(time, "time", lambda: now + 1000)
    for ttl, there in ((None, True), (2000.0, True), (900.0, False)):
        cache = VectorCache(folder, memory_mib=1, disk_mib=64, ttl=ttl)
        await cache.open()
        assert (key("a") in await cache.get_many([key("a")])) is there
        assert (cache.get_hot([key("a")]) is not None) is there
        if not there:
            cache.put(key("a"), row(2))
            found = cache.get_hot([key("a")])
            assert found is not None and found[0].tokens == 2
            monkeypatch.setattr(time, "time", lambda: now + 2000)
            assert cache.get_hot([key("a")]) is None, "in memory, too"
        await cache.close()


async def test_counts_are_kept_by_model_and_outlive_the_daemon(folder: Path) -> None:
    for _ in range(2):
        async with opened(folder) as cache:
            for text in ("a", "b"):
                if not await cache.get_many([key(text)], "one"):
                    cache.put(key(text), row(1), "one", seconds=0.5)
            assert cache.get_hot([key("a"), key("b")], "one") is not None
            assert cache.get_hot([key("a"), key("c")], "one") is None, "nothing is counted when not all are there"
            await cache.get_many([key("z")], "two")
            stats = cache.stats
    assert stats.models == {
        "one": Counts(memory_hits=2, disk_hits=2, misses=0, saved_seconds=2.0),
        "two": Counts(misses=1),
    }
    assert (stats.memory_hits, stats.disk_hits, stats.misses, stats.saved_seconds) == (2, 2, 1, 2.0)
    with contextlib.closing(disk.DiskTier(folder, 2**20)) as tier:
        counts = {model: found for model, (_, found) in tier.counts().items()}
    assert counts == {
        "one": Counts(memory_hits=4, disk_hits=2, misses=2, saved_seconds=3.0),
        "two": Counts(misses=2),
    }


async def test_a_row_removed_from_disk_is_written_again_when_it_is_asked_for(folder: Path) -> None:
    async with opened(folder) as cache:
        for number in range(100):
            cache.put(key(str(number)), row(number), "one")
        await written(cache)
        with contextlib.closing(sqlite3.connect(folder / DATABASE)) as other, other:
            other.execute("DELETE FROM Cache")
        for _ in range(2):
            assert cache.get_hot([key("0")], "one")
    async with opened(folder) as cache:
        assert set(await cache.get_many([key("0"), key("1")])) == {key("0")}


async def test_lookups_of_a_bulk_load_protect_no_row(folder: Path) -> None:
    async with opened(folder) as cache:
        for number in range(100):
            cache.put(key(str(number)), row(number), wanted="low")
        for _ in range(5):
            assert len(await cache.get_many([key(str(number)) for number in range(100)], low=True)) == 100
        await cache.get_many([key("7")])
    with contextlib.closing(disk.DiskTier(folder, 2**20)) as tier:
        assert [item.key for item, protected in tier.rows() if protected] == [key("7")]


@pytest.mark.parametrize("on_disk", [True, False])
async def test_cleared_rows_are_gone_from_memory_and_disk_for_good(folder: Path, on_disk: bool) -> None:
    async with opened(folder if on_disk else None) as cache:
        for number in range(100):
            cache.put(key(f"text {number}"), row(number), "alpha:F32@5555" if number % 2 else "beta:F32@7777")
        keys = [key(f"text {number}") for number in range(100)]
        await cache.get_many(keys[:20])  # protected rows must be cleared too
        assert await cache.clear("Beta") == 50
        assert sorted(found.tokens for found in (await cache.get_many(keys)).values()) == list(range(1, 100, 2))
        with pytest.raises(ModelNotFoundError, match="no rows of a model 'beta'"):
            await cache.clear("beta")
        cache.put(key("waits"), row(1), "alpha:F32@5555")  # not on disk yet
        assert await cache.clear() == 51
        assert await cache.get_many([*keys, key("waits")]) == {}
        assert await cache.clear() == 0
    if on_disk:
        async with opened(folder) as cache:
            assert await cache.get_many([*keys, key("waits")]) == {}


async def test_a_locked_database_is_an_error_when_it_is_to_be_cleared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diskcache_store, "BUSY_SECONDS", 0.05)
    async with opened(folder) as cache:
        cache.put(key("a"), row(1))
        await written(cache)
        with contextlib.closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(EdgeEmbedError, match="cannot be cleared"):
                await cache.clear()
        assert await cache.clear() == 1


async def test_a_row_stored_after_closing_stays_in_memory(folder: Path) -> None:
    async with opened(folder) as cache:
        cache.put(key("a"), row(1))
    cache.put(key("b"), row(2))
    assert set(await cache.get_many([key("a"), key("b")])) == {key("a"), key("b")}
    await cache.close()
    async with opened(folder) as again:
        assert set(await again.get_many([key("a"), key("b")])) == {key("a")}


async def test_stored_rows_are_protected_by_a_request_that_says_keep(folder: Path) -> None:
    async with opened(folder) as cache:
        service = fake_service(FakeEngine(), cache)
        for use in ("on", "keep"):
            await service.embed(EmbedRequest(["known", "too"], cache=use))  # type: ignore[arg-type]
        await service.embed(EmbedRequest(["other"]))
    with contextlib.closing(disk.DiskTier(folder, 2**20)) as tier:
        assert sorted(protected for _, protected in tier.rows()) == [False, True, True]
