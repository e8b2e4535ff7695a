"""The shared tier over real servers: rows of one daemon are found by another, and no fault reaches a request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeembed.cache import KeyMaker, Server, SharedTier, VectorCache, shared
from edgeembed.cache.rows import CachedRow, encode_row
from edgeembed.common.backoff import Backoff
from edgeembed.engine.interface import Row
from edgeembed.errors import EdgeEmbedError, ModelNotFoundError
from edgeembed.inference.requests import EmbedRequest
from tests.cache.servers import KINDS, KeyServer, Kind, Proxy, missing, program_of
from tests.fakes import FakeEngine, fake_service
from tests.ports import free_port
from tests.waiting import until_async

pytestmark = pytest.mark.e2e
KEYS = KeyMaker("5" * 64, "mean")
MODEL = "alpha:F32@555555555555"
LINE = b"edgeembed:row2:555555555555:"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine makes no faults; tests of slow servers set the limit that they need."""
    monkeypatch.setattr(shared, "LOOKUP_SECONDS", 10.0)
    monkeypatch.setattr(shared, "PAUSES", Backoff(first=0.01, longest=0.05))
    monkeypatch.setattr(shared, "WRITE_AFTER_SECONDS", 0.0)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    name: Kind = request.param
    if program_of(name) is None:
        pytest.skip(missing(name))
    return name


Start = Callable[..., KeyServer]


@pytest.fixture
def start(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    servers: list[KeyServer] = []

    def start(*options: str, port: int = 0) -> KeyServer:
        servers.append(KeyServer(kind, tmp_path_factory.mktemp("s"), *options, port=port))
        return servers[-1].start()

    yield start
    for server in servers:
        server.kill()


@contextlib.asynccontextmanager
async def opened(url: str, folder: Path | None = None, *, secret: str | None = None) -> AsyncIterator[VectorCache]:
    tier = SharedTier(Server(url), secret=secret)
    cache = VectorCache(folder, memory_mib=1, disk_mib=8 if folder else 0, shared=tier)
    await cache.open()
    try:
        yield cache
    finally:
        await cache.close()


def key(number: int) -> bytes:
    return KEYS.key("{text}", str(number))


def row(number: int, dimensions: int = 8) -> Row:
    return Row(np.full(dimensions, number + 1, dtype=np.float32), number + 1)


async def stored(cache: VectorCache, *numbers: int, model: str = MODEL) -> None:
    """Store rows and wait until the server has them."""
    for number in numbers:
        cache.put(key(number), row(number), model)
    await settled(cache)


async def settled(cache: VectorCache) -> None:
    await until_async(lambda: cache.stats.shared is not None and not cache.stats.shared.rows_to_write)


async def found(cache: VectorCache, *numbers: int, model: str = MODEL) -> list[int]:
    """Return which rows the cache has; each must be the right one."""
    rows = await cache.get_many([key(number) for number in numbers], model, dimensions=(8,))
    for number in numbers:
        if key(number) in rows:
            assert (rows[key(number)].vector == row(number).vector).all() and rows[key(number)].tokens == number + 1
    return [number for number in numbers if key(number) in rows]


async def connected(cache: VectorCache) -> None:
    await until_async(lambda: cache.stats.shared is not None and cache.stats.shared.connected)


def state(cache: VectorCache) -> tuple[int, int, int]:
    """Return how many questions were answered, came too late, or failed otherwise."""
    assert cache.stats.shared is not None
    return cache.stats.shared.lookups, cache.stats.shared.timeouts, cache.stats.shared.errors


# --- rows -------------------------------------------------------------------------------------------------------------


async def test_rows_of_one_daemon_are_found_by_another_which_keeps_them(start: Start, tmp_path: Path) -> None:
    server = start()
    async with opened(server.url) as one:
        await stored(one, 1, 2)
    async with opened(server.url, tmp_path) as two:
        assert await found(two, 1, 2, 3) == [1, 2]
        assert (two.stats.shared_hits, two.stats.misses, two.stats.damaged) == (2, 1, 0)
        assert two.get_hot([key(1), key(2)], MODEL) is not None, "they are in memory"
        assert state(two) == (1, 0, 0), "all in one question"
    server.kill()
    async with opened(server.url, tmp_path) as later:
        assert await found(later, 1, 2) == [1, 2], "they are on disk"
        assert (later.stats.shared_hits, later.stats.disk_hits) == (0, 2)


async def test_nothing_is_asked_for_rows_in_memory_or_on_disk(start: Start, tmp_path: Path) -> None:
    server = start()
    async with opened(server.url, tmp_path) as cache:
        await stored(cache, 1)
        assert await found(cache, 1) == [1] and state(cache)[0] == 0
    async with opened(server.url, tmp_path) as cache:
        assert await found(cache, 1) == [1] and state(cache)[0] == 0


async def test_keys_are_ours_and_digests_and_expire(start: Start) -> None:
    server = start()
    async with opened(server.url) as cache:
        cache.put(key(1), row(1), MODEL)
        cache.put(key(2), row(2), MODEL, wanted="low")
        await settled(cache)
    assert server.rows() == sorted(LINE + key(number).hex().encode() for number in (1, 2))
    days = [server.client.ttl(LINE + key(number).hex().encode()) / 86400 for number in (1, 2)]
    assert 29.9 < days[0] <= 30 and 6.9 < days[1] <= 7


async def test_rows_expire_with_the_cache(start: Start) -> None:
    server = start()
    tier = SharedTier(Server(server.url), ttl=60.0)
    cache = VectorCache(None, memory_mib=1, disk_mib=0, ttl=60.0, shared=tier)
    await cache.open()
    await stored(cache, 1)
    await cache.close()
    assert 50 < server.client.ttl(server.rows()[0]) <= 60
    old = CachedRow(row(2).vector, 3, 0.0, int(time.time()) - 100)
    server.client.set(LINE + key(2).hex().encode(), encode_row(key(2), old))
    cache = VectorCache(None, memory_mib=1, disk_mib=0, ttl=60.0, shared=SharedTier(Server(server.url), ttl=60.0))
    await cache.open()
    assert await found(cache, 1, 2) == [1], "a row is as old as the time at which it was computed"
    await cache.close()


async def test_damaged_and_foreign_rows_are_misses_and_counted(start: Start) -> None:
    server = start()
    sound = encode_row(key(1), CachedRow(row(1).vector, 2))
    wide = encode_row(key(5), CachedRow(row(5, dimensions=9).vector, 6))
    nothing = encode_row(key(6), CachedRow(np.full(8, np.nan, np.float32), 7))
    for number, value in {1: sound, 2: sound, 3: sound[:-1], 4: b"x" * 50, 5: wide, 6: nothing, 7: b""}.items():
        server.client.set(LINE + key(number).hex().encode(), value)
    server.client.lpush(LINE + key(8).hex().encode(), b"no string")
    async with opened(server.url) as cache:
        assert await found(cache, *range(1, 9)) == [1]
        assert (cache.stats.damaged, cache.stats.misses, cache.stats.shared_hits) == (6, 7, 1)
        await stored(cache, *range(1, 9))
    async with opened(server.url) as cache:
        assert await found(cache, *range(1, 9)) == list(range(1, 9)), "the rows that were computed took their place"


async def test_many_rows_are_asked_for_in_parts_and_large_ones_not_shared(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    async with opened(server.url) as cache:
        await stored(cache, *range(200))
        cache.put(key(1000), row(1000, dimensions=shared.LONGEST_ROW // 4), MODEL)
        await settled(cache)
    assert len(server.rows()) == 200
    async with opened(server.url) as cache:
        assert await found(cache, *range(250)) == list(range(200))
        assert state(cache)[0] == 4, "64 rows at a time"


async def test_rows_of_unknown_size_are_asked_for_together(start: Start) -> None:
    """Such as those of sparse vectors. The server says how long they are, so that no reply is too long to wait for."""
    server = start()
    sizes = {**dict.fromkeys(range(100), 8), **dict.fromkeys(range(100, 104), shared.REPLY_BYTES // 4 // 2)}
    async with opened(server.url) as cache:
        for number, dimensions in sizes.items():
            cache.put(key(number), row(number, dimensions), MODEL)
        await settled(cache)
    server.client.lpush(LINE + key(150).hex().encode(), b"no string")
    keys = [key(number) for number in range(200)]
    async with opened(server.url) as cache:
        rows = await cache.get_many(keys, MODEL)
        assert [number for number in range(200) if key(number) in rows] == list(sizes)
        # The sizes; 64 rows; 36 and a long one; the others, each with less than what would fit; what is no row.
        assert state(cache) == (7, 0, 0)
        assert await cache.get_many(keys[104:150], MODEL) == {} and state(cache)[0] == 8, "none is there"
        assert await cache.get_many(keys[104:105], MODEL) == {} and state(cache)[0] == 9, "one alone is not measured first"


async def test_users_who_may_not_ask_for_sizes_get_rows_one_by_one(start: Start) -> None:
    server = start()
    async with opened(server.url) as cache:
        await stored(cache, *range(4))
    server.client.execute_command("ACL", "SETUSER", "default", "-strlen")
    async with opened(server.url) as cache:
        assert len(await cache.get_many([key(number) for number in range(5)], MODEL)) == 4
        assert state(cache) == (6, 0, 0)


async def test_no_store_leaves_nothing(start: Start, tmp_path: Path) -> None:
    server = start()
    async with opened(server.url) as cache:
        service = fake_service(FakeEngine(), cache)
        await service.embed(EmbedRequest(["kept"], model="fake-model"))
        await settled(cache)
        kept = server.rows()
        await service.embed(EmbedRequest(["not kept"], model="fake-model", cache="no-store"))
        await service.embed(EmbedRequest(["not kept"], model="fake-model", cache="off"))
        await settled(cache)
        assert len(kept) == 1 and server.rows() == kept
    async with opened(server.url, tmp_path) as cache:
        engine = FakeEngine()
        service = fake_service(engine, cache)
        for use, is_stored in (("no-store", False), ("on", True)):
            result = await service.embed(EmbedRequest(["kept"], model="fake-model", cache=use))
            assert result.hits == 1 and not engine.computed
            stats = cache.stats
            assert (stats.memory_entries, stats.rows_to_write) == (is_stored, is_stored), "no-store keeps no row here either"


async def test_a_secret_keeps_rows_of_others_out(start: Start) -> None:
    server = start()
    async with opened(server.url, secret="sesame") as cache:
        await stored(cache, 1, 2)
    names = server.rows()
    assert not any(key(number).hex().encode() in name for name in names for number in (1, 2)), "texts cannot be guessed"
    async with opened(server.url, secret="sesame") as cache:
        assert await found(cache, 1, 2) == [1, 2]
    async with opened(server.url, secret="other") as cache:
        assert await found(cache, 1, 2) == [] and cache.stats.damaged == 0
    async with opened(server.url) as cache:
        assert await found(cache, 1, 2) == []
    # Who may write to the server exchanges two rows, and plants one that is well formed.
    one, two = (server.client.get(name) for name in names)
    server.client.mset({names[0]: two, names[1]: encode_row(key(1), CachedRow(row(9).vector, 2))})
    assert one is not None
    async with opened(server.url, secret="sesame") as cache:
        assert await found(cache, 1, 2) == [] and cache.stats.damaged == 2


async def test_clearing(start: Start) -> None:
    server = start()
    server.client.set("somebody else's", "1")
    async with opened(server.url) as cache:
        assert await found(cache, 1) == [] == await found(cache, 3, model="beta:F32@666666666666")
        await stored(cache, 1, 2)
        await stored(cache, 3, model="beta:F32@666666666666")
        assert await cache.clear("alpha") == 2
        assert [name[: len(LINE)] for name in server.rows()] == [b"edgeembed:row2:666666666666:"]
        with pytest.raises(ModelNotFoundError):
            await cache.clear("gamma")
        assert await cache.clear() == 1
        assert server.rows() == [] and server.client.get("somebody else's") == b"1"
        await stored(cache, 4)
        server.kill()
        with pytest.raises(EdgeEmbedError, match="shared cache cannot be cleared: no connection"):
            await cache.clear()
        assert cache.stats.memory_entries == 0, "its own rows are gone"


async def test_a_lookup_during_the_clearing_brings_no_row_back(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start()
    async with opened(server.url) as cache:
        await stored(cache, 1)
    async with opened(server.url) as cache:
        assert cache._shared is not None
        clear = cache._shared.clear

        async def clear_slowly(models: Collection[str] | None = None) -> int:
            assert await found(cache, 1) == [1], "the server has the row until its turn comes"
            return await clear(models)

        monkeypatch.setattr(cache._shared, "clear", clear_slowly)
        await cache.clear()
        assert await found(cache, 1) == []


# --- faults -----------------------------------------------------------------------------------------------------------


async def test_a_server_that_hangs_is_not_waited_for_and_its_late_replies_answer_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    async with opened(server.url) as cache:
        await stored(cache, *range(8))
    async with opened(server.url) as cache:
        monkeypatch.setattr(shared, "LOOKUP_SECONDS", 0.005)
        monkeypatch.setattr(shared, "CONNECT_SECONDS", 0.05)
        server.signal(signal.SIGSTOP)
        assert await asyncio.gather(*(found(cache, number) for number in range(4))) == [[]] * 4
        assert state(cache)[1] >= 1
        problem = cache.stats.shared.problem if cache.stats.shared else None
        assert problem is not None and problem.endswith("is not used: no reply within 5 ms")
        assert not cache.may_be_lower(cache.get_from_memory([key(5)], MODEL)), "others do not wait at all"
        monkeypatch.setattr(shared, "LOOKUP_SECONDS", 10.0)
        server.signal(signal.SIGCONT)
        await connected(cache)
        for number in (4, 5, 6, 7):  # an answer to an earlier question would be another number's
            assert await found(cache, number) == [number]
        assert cache.stats.shared is not None and cache.stats.shared.problem is None


async def test_a_server_that_ends_and_comes_back(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    server = start()
    caplog.set_level(logging.INFO, "edgeembed")
    async with opened(server.url) as cache:
        await stored(cache, 1)
        for number in range(2, 5):
            server.kill()
            assert await found(cache, number) == []
            cache.put(key(number), row(number), MODEL)
            await settled(cache)
            server.start()
            await connected(cache)
            await until_async(lambda: not cache._shared or not cache._shared._health.is_paused("write"))
            await stored(cache, number)
            assert len(server.rows()) == 1, "it had forgotten all"
    assert sum("is not used: no connection" in line for line in caplog.messages) <= 2, "logged once per reason"
    assert sum("works again" in line for line in caplog.messages) == 1


async def test_a_server_that_is_not_there_yet(start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = start()
    server.kill()
    monkeypatch.setattr(shared, "FIRST_CONNECTION_SECONDS", 0.05)
    async with opened(server.url) as cache:
        assert await found(cache, 1) == []
        assert cache.stats.shared is not None and "no connection" in (cache.stats.shared.problem or "")
        server.start()
        await connected(cache)
        await stored(cache, 1)
        assert len(server.rows()) == 1


async def test_a_connection_that_ends_while_it_is_opened_is_opened_again(start: Start) -> None:
    server = start()
    async with opened(server.url) as cache:
        await stored(cache, 1)
    async with opened(server.url) as cache:
        assert cache._shared is not None and cache._shared._lookups is not None
        lookups, cache._shared._lookups = cache._shared._lookups, None
        lookups.refuse("the server ended it after its first reply")
        cache._shared._lookups = lookups
        assert await found(cache, 1) == []
        await until_async(lambda: cache._shared is not None and cache._shared._lookups not in (None, lookups))
        assert await found(cache, 1) == [1]


@pytest.mark.parametrize("harm", ["cut", "garbage", "an error", "too many"])
async def test_replies_that_are_none_are_misses(start: Start, harm: str) -> None:
    server, proxy = start(), Proxy()
    async with opened(server.url) as cache:
        await stored(cache, *range(20))
    async with proxy.serving(server) as url, opened(url) as cache:
        if harm == "cut":
            proxy.cut = 100
        else:
            replies = {
                "garbage": b"HTTP/1.1 200 OK\r\n\r\n",
                "an error": b"-ERR what\r\n",
                "too many": b"$-1\r\n*1\r\n$-1\r\n",
            }
            proxy.garbage = replies[harm]
        assert await found(cache, *range(20)) == []
        assert cache.stats.shared is not None and cache.stats.shared.errors >= 1 and not cache.stats.shared.connected
        proxy.cut = proxy.garbage = None
        await connected(cache)
        assert await found(cache, *range(20)) == list(range(20))


async def test_a_server_that_is_too_slow_is_not_asked(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server, proxy = start(), Proxy()
    proxy.delay = 0.06
    monkeypatch.setattr(shared, "LOOKUP_SECONDS", 0.03)
    async with proxy.serving(server) as url, opened(url) as cache:
        await until_async(lambda: state(cache)[1] > 0)
        assert cache.stats.shared is not None and "its answers take longer than 30 ms" in (cache.stats.shared.problem or "")
        assert await found(cache, 1) == [] and state(cache)[0] == 0


async def test_requests_that_are_given_up_leave_the_others_their_replies(start: Start) -> None:
    server, proxy = start(), Proxy()
    async with opened(server.url) as cache:
        await stored(cache, *range(100))
    dice = random.Random(5)
    proxy.delay = 0.002
    async with proxy.serving(server) as url:
        tier = SharedTier(Server(url))
        await tier.open()
        tasks = []
        for _ in range(300):
            number = dice.randrange(100)
            tasks.append((number, asyncio.create_task(tier.get_many([key(number)], MODEL, 64))))
            if dice.random() < 0.4:
                dice.choice(tasks)[1].cancel()
            await asyncio.sleep(0)
        for number, task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                assert list(await task) == [key(number)]
                assert task.result()[key(number)].startswith(encode_row(key(number), CachedRow(row(number).vector, 0))[:4])
        assert tier.stats.errors == tier.stats.timeouts == 0
        await tier.close()


async def test_a_full_server_and_a_replica_still_answer(start: Start) -> None:
    server = start()
    async with opened(server.url) as cache:
        await stored(cache, 1)
    for order, problem in (
        (("config", "set", "maxmemory", "1"), "takes no rows: its memory is full, and its maxmemory-policy removes nothing"),
        (("replicaof", "127.0.0.1", "1"), "takes no rows: it is a replica that takes no writes"),
    ):
        server.client.execute_command(*order)
        async with opened(server.url) as cache:
            assert await found(cache, 1) == [1]
            cache.put(key(2), row(2), MODEL)
            await until_async(lambda: cache.stats.shared and cache.stats.shared.problem)
            assert cache.stats.shared is not None and (cache.stats.shared.problem or "").endswith(problem)
            assert cache.stats.shared.rows_dropped == 1 and await found(cache, 2) == [2], "in memory"
        server.client.config_set("maxmemory", 0)
    server.client.execute_command("replicaof", "no", "one")


async def test_flushall_is_a_miss(start: Start) -> None:
    server = start()
    async with opened(server.url) as one, opened(server.url) as two:
        await stored(one, 1)
        server.client.flushall()
        assert await found(two, 1) == [] and state(two) == (1, 0, 0)


async def test_a_wrong_password_is_named_and_not_shown(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = start("--requirepass", "right-sesame", port=free_port())
    server.password = "right-sesame"
    monkeypatch.setattr(shared, "FIRST_CONNECTION_SECONDS", 0.05)
    where = f"127.0.0.1:{server.port}"
    caplog.set_level(logging.DEBUG)
    for user in ("", "me:wrong-sesame@", ":wrong-sesame@"):
        async with opened(f"redis://{user}{where}/0") as cache:
            await until_async(lambda: cache.stats.shared and cache.stats.shared.problem)
            problem = f"the shared cache at {where} is not used: it refuses the user name or password"
            assert cache.stats.shared is not None and cache.stats.shared.problem == problem
            assert "sesame" not in str(cache.stats)
    async with opened(f"redis://:right-sesame@{where}/3") as cache:
        await stored(cache, 1)
        assert server.rows() == [], "they are in another database"
        assert cache.stats.shared is not None and cache.stats.shared.address == where
    assert "sesame" not in caplog.text


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
async def test_tls(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("own", "other"):
        made = ["-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.pem"), "-days", "2"]
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, *made], check=True, capture_output=True
        )
    port = free_port()
    files = ["--tls-cert-file", str(tmp_path / "own.pem"), "--tls-key-file", str(tmp_path / "own.key")]
    start("--tls-port", str(port), *files, "--tls-auth-clients", "no")
    url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={tmp_path}"
    async with opened(f"{url}/own.pem") as cache:
        await connected(cache)
        await stored(cache, 1)
    monkeypatch.setattr(shared, "FIRST_CONNECTION_SECONDS", 0.05)
    async with opened(f"{url}/other.pem") as cache:
        await until_async(lambda: cache.stats.shared and cache.stats.shared.problem)
        assert cache.stats.shared is not None
        assert (cache.stats.shared.problem or "").endswith("no connection (SSLCertVerificationError)")


def test_a_url_without_tls_to_another_machine_is_exposed() -> None:
    urls = (
        "redis://localhost",
        "redis://127.0.0.1:1",
        "redis://[::1]:1",
        "unix:///s",
        "rediss://box",
        "redis://box",
        "redis://10.1.2.3",
    )
    assert [Server(url).is_exposed for url in urls] == [False] * 5 + [True] * 2
    assert Server("redis://me:sesame@[::1]:7000/2").address == "[::1]:7000"
