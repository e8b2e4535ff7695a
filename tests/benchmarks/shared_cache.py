"""The shared cache tier: what a hit costs, what several daemons gain, and what each fault of a server does under load.

    python -m tests.benchmarks.shared_cache --model model.gguf            # all tables of docs/cache.md, about 5 minutes
    python -m tests.benchmarks.shared_cache --model model.gguf --only tiers,boxes,faults --kinds redis

Everything runs on this machine: real daemons, a real redis-server (Debian's) and a real valkey-server (fetched by
tests/cache/fetch_valkey.sh). Requests have one text each. In the table of faults eight clients ask for texts of which the
server has half; the daemon has neither memory nor disk for rows, so that each request asks the server. Every vector is
compared with the one that a daemon without a cache computed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import queue
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.cache.servers import KINDS, KeyServer, Kind, Proxy, program_of
from tests.e2e.daemon import Daemon, cosines, running
from tests.ports import free_port

CLIENTS = 8
TEXTS = 1200
CALM, HARM, AFTER = 1.5, 2.0, 2.5
"""Seconds of each phase: before the fault, while it lasts, and after it."""
LEAST_COSINE = 0.999
"""Of two rows of one text, computed alone and in a batch; those of two texts here have less than 0.99."""
NO_TIERS = ("--cache-memory-mib", "0", "--cache-disk-mib", "0")
WORDS = ["river", "stone", "market", "engine", "paper", "winter", "garden", "letter", "signal", "copper", "island", "window"]


class Seen(NamedTuple):
    """One request: when it began and how long it took, whether it was a hit, failed, or got a wrong vector."""

    began: float
    seconds: float
    hit: bool
    failed: bool
    wrong: bool


class Texts:
    """Texts and their right vectors."""

    def __init__(self, model: Path, folder: Path) -> None:
        dice = random.Random(7)
        self.texts = [f"{' '.join(dice.choices(WORDS, k=8))} number {dice.randrange(10**6)}" for _ in range(TEXTS)]
        with running("--model", str(model), "--no-cache", home=home(folder)) as daemon:
            self.rows = np.concatenate([daemon.embed(self.texts[start : start + 200]) for start in range(0, TEXTS, 200)])


def home(folder: Path) -> Path:
    """Return a new folder for a daemon's files."""
    return Path(tempfile.mkdtemp(dir=folder)) / "home"


async def ask(session: aiohttp.ClientSession, url: str, texts: Texts, index: int) -> Seen:
    began = time.perf_counter()
    try:
        async with session.post(f"{url}/v1/embeddings", json={"input": texts.texts[index]}) as response:
            body = await response.read()
            hit, status = response.headers.get("X-Edgeembed-Cache") == "hit", response.status
    except (aiohttp.ClientError, TimeoutError):
        return Seen(began, time.perf_counter() - began, False, True, False)
    seconds = time.perf_counter() - began
    if status != 200:
        return Seen(began, seconds, hit, True, False)
    row = np.array([json.loads(body)["data"][0]["embedding"]], dtype=np.float32)
    return Seen(began, seconds, hit, False, bool(cosines(row, texts.rows[index : index + 1])[0] < LEAST_COSINE))


async def load(url: str, texts: Texts, stop: asyncio.Event, clients: int = CLIENTS) -> list[Seen]:
    """Return the requests of clients that each send one after the other until they are stopped."""
    seen: list[Seen] = []

    async def client(seed: int) -> None:
        dice = random.Random(seed)
        while not stop.is_set():
            seen.append(await ask(session, url, texts, dice.randrange(TEXTS)))

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as session:
        await asyncio.gather(*(client(seed) for seed in range(clients)))
    return seen


async def in_turn(url: str, texts: Texts, indices: Sequence[int]) -> list[Seen]:
    async with aiohttp.ClientSession() as session:
        return [await ask(session, url, texts, index) for index in indices]


async def store(url: str, texts: Texts, count: int, *, shared: bool = False) -> None:
    """Have the first texts computed, and written where the daemon writes them. shared: wait for its shared tier first."""
    async with aiohttp.ClientSession() as session:
        while shared:
            async with session.get(f"{url}/v1/status") as response:
                if (await response.json())["cache"]["shared"]["connected"]:
                    break
            await asyncio.sleep(0.05)  # between two requests
        for start in range(0, count, 100):
            async with session.post(f"{url}/v1/embeddings", json={"input": texts.texts[start : start + 100]}) as response:
                assert response.status == 200
    await asyncio.sleep(0.3)  # the daemon writes in the background


@contextlib.contextmanager
def daemon_of(model: Path, folder: Path, *flags: str, url: str | None = None) -> Iterator[Daemon]:
    more: dict[str, Any] = {"EDGEEMBED_CACHE_URL": url} if url else {}
    with running("--model", str(model), *flags, home=folder, **more) as daemon:
        yield daemon


@contextlib.contextmanager
def server_of(kind: Kind, folder: Path, *options: str) -> Iterator[KeyServer]:
    server = KeyServer(kind, Path(tempfile.mkdtemp(dir=folder)), *options, port=free_port())
    try:
        yield server.start()
    finally:
        server.kill()


def milliseconds(seen: Sequence[Seen]) -> str:
    return f"{1000 * statistics.median(one.seconds for one in seen):.2f}"


def share(seen: Sequence[Seen]) -> str:
    return f"{sum(one.hit for one in seen) / max(1, len(seen)):.0%}"


# --- what a hit costs -------------------------------------------------------------------------------------------------


def tiers(model: Path, folder: Path, texts: Texts, kinds: Sequence[Kind]) -> None:
    """Print p50 of a lone client, by where the row is: the least median of 50 in a row, as others use the machine, too."""
    print("\n| a lone client, one text of ten words | p50 in ms |\n|---|---|", flush=True)
    hits = list(range(300))

    def line(name: str, daemon: Daemon, indices: Sequence[int], *, hit: bool) -> None:
        rounds = [asyncio.run(in_turn(daemon.url, texts, indices)) for _ in range(3 if hit else 1)]
        every = [one for seen in rounds for one in seen]
        assert not any(one.wrong or one.failed for one in every), name
        assert sum(one.hit is hit for one in every) > 0.9 * len(every), (name, share(every))
        chunks = [
            [one for one in seen[start : start + 50] if one.hit is hit] for seen in rounds for start in range(0, 300, 50)
        ]
        medians = [milliseconds(chunk) for chunk in chunks if len(chunk) > 40]
        print(f"| {name} | {min(medians, key=float)} |", flush=True)

    with daemon_of(model, home(folder)) as daemon:
        asyncio.run(store(daemon.url, texts, 400))
        line("hit in memory", daemon, hits, hit=True)
        line("computed, without `cache_url`", daemon, range(400, 700), hit=False)
    with daemon_of(model, home(folder), "--cache-memory-mib", "0") as daemon:
        asyncio.run(store(daemon.url, texts, 400))
        line("hit on disk", daemon, hits, hit=True)
    for kind in kinds:
        with server_of(kind, folder) as server:
            for name, url in (("Unix socket", f"unix://{server.socket}"), ("TCP", server.url)):
                server.client.flushall()
                with daemon_of(model, home(folder), *NO_TIERS, url=url) as daemon:
                    asyncio.run(store(daemon.url, texts, 400, shared=True))
                    line(f"hit in {kind}, {name}", daemon, hits, hit=True)
                    line(f"computed, after a miss in {kind}, {name}", daemon, range(400, 700), hit=False)


# --- several boxes ----------------------------------------------------------------------------------------------------


def boxes(model: Path, folder: Path, texts: Texts, kinds: Sequence[Kind]) -> None:
    """Print what a second box, and a box that was restarted, finds of what another has computed."""
    print("\n| 400 texts, computed by one box | server | found by |", "share |\n|---|---|---|---|", flush=True)
    for kind in kinds:
        with server_of(kind, folder) as server, daemon_of(model, home(folder), url=server.url) as one:
            asyncio.run(store(one.url, texts, 400))
            for disk, flags in (("with a disk", ()), ("without", ("--cache-disk-mib", "0"))):
                place = home(folder)
                with daemon_of(model, place, *flags, url=server.url) as two:
                    found = asyncio.run(in_turn(two.url, texts, range(400)))
                    print(f"| | {kind} | another box, {disk} | {share(found)} |", flush=True)
                    two.stop()
                with daemon_of(model, place, *flags, url=server.url) as two:
                    found = asyncio.run(in_turn(two.url, texts, range(400)))
                    print(f"| | {kind} | that box after a restart, {disk} | {share(found)} |", flush=True)
                    two.stop()
    with daemon_of(model, home(folder)) as one:
        asyncio.run(store(one.url, texts, 400))
        with daemon_of(model, home(folder)) as two:
            print(f"| | none | another box | {share(asyncio.run(in_turn(two.url, texts, range(400))))} |", flush=True)


# --- faults -----------------------------------------------------------------------------------------------------------

Change = Callable[[KeyServer, Proxy], Any]


class Fault(NamedTuple):
    """begin, end: what is done to the server or the proxy. proxied: whether the daemon is behind the proxy."""

    name: str
    begin: Change
    end: Change = lambda server, proxy: None
    proxied: bool = False


def _damage(server: KeyServer, proxy: Proxy) -> None:
    names = server.rows()
    pairs = [(name, server.client.get(name)) for name in names]
    for index, (name, value) in enumerate(pairs):  # another text's row, a flipped bit, half a row
        harm = (pairs[index - 1][1], value[:-1] + bytes([value[-1] ^ 1]) if value else b"", value[: len(value) // 2])[
            index % 3
        ]
        server.client.set(name, harm)


def _set(**values: Any) -> Change:
    def change(server: KeyServer, proxy: Proxy) -> None:
        for name, value in values.items():
            setattr(proxy, name, value)

    return change


FAULTS = (
    Fault("none", lambda server, proxy: None),
    Fault("killed (-9), then started again", lambda server, proxy: server.kill(), lambda server, proxy: server.start()),
    Fault(
        "stopped (SIGSTOP), then continued",
        lambda server, proxy: server.signal(signal.SIGSTOP),
        lambda server, proxy: server.signal(signal.SIGCONT),
    ),
    Fault("replies 20 ms late", _set(delay=0.02), _set(delay=0.0), proxied=True),
    Fault("replies 4 ms late", _set(delay=0.004), _set(delay=0.0), proxied=True),
    Fault("connection reset in the middle of a reply", _set(cut=700), _set(cut=None), proxied=True),
    Fault("garbage instead of replies", _set(garbage=b"\0garbage\r\n"), _set(garbage=None), proxied=True),
    Fault(
        "full (`noeviction`)",
        lambda server, proxy: server.client.config_set("maxmemory", 1),
        lambda server, proxy: server.client.config_set("maxmemory", 0),
    ),
    Fault(
        "password changed",
        lambda server, proxy: _password(server, "another"),
        lambda server, proxy: _password(server, ""),
    ),
    Fault(
        "becomes a replica, read-only",
        lambda server, proxy: server.client.execute_command("replicaof", "127.0.0.1", "1"),
        lambda server, proxy: server.client.execute_command("replicaof", "no", "one"),
    ),
    Fault("FLUSHALL", lambda server, proxy: server.client.flushall()),
    Fault("all rows damaged or exchanged", _damage),
)


def _password(server: KeyServer, word: str) -> None:
    client = server.client
    client.config_set("requirepass", word)
    server.password = word or None
    client.client_kill_filter(_type="normal", skipme=True)


async def under_load(url: str, texts: Texts, fault: Fault, server: KeyServer, proxy: Proxy) -> list[list[Seen]]:
    """Return the requests before, during and after the fault."""
    stop = asyncio.Event()
    running_load = asyncio.create_task(load(url, texts, stop))
    marks = []
    for seconds, change in ((CALM, fault.begin), (HARM, fault.end)):
        await asyncio.sleep(seconds)  # a phase
        marks.append(time.perf_counter())
        await asyncio.to_thread(change, server, proxy)
    await asyncio.sleep(AFTER)  # a phase
    stop.set()
    seen = await running_load
    first, second = marks
    return [
        [one for one in seen if one.began < first],
        [one for one in seen if first <= one.began < second],
        [one for one in seen if one.began >= second],
    ]


@contextlib.contextmanager
def proxied(server: KeyServer, proxy: Proxy) -> Iterator[str]:
    """Run the proxy on an event loop of its own, which the clients do not hold up."""
    stop, urls = threading.Event(), queue.SimpleQueue[str]()

    async def serve() -> None:
        async with proxy.serving(server) as url:
            urls.put(url)
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        yield urls.get()
    finally:
        stop.set()
        thread.join()


def faults(model: Path, folder: Path, texts: Texts, kinds: Sequence[Kind]) -> None:
    """Print the table of faults."""
    print("\n| server | fault | requests | failed | wrong | hits before, during, after | p99 in ms | slowest in ms |")
    print("|---|---|---|---|---|---|---|---|", flush=True)

    async def one(daemon_url: str, kind: str, fault: Fault, server: KeyServer, proxy: Proxy) -> None:
        phases = await under_load(daemon_url, texts, fault, server, proxy)
        seen = [each for phase in phases for each in phase]
        times = [[1000 * each.seconds for each in phase] for phase in phases]
        tails = ", ".join(f"{np.percentile(each, 99):.0f}" for each in times)
        slowest = ", ".join(f"{max(each):.0f}" for each in times)
        bad = [sum(each.failed for each in seen), sum(each.wrong for each in seen)]
        hits = ", ".join(map(share, phases))
        print(f"| {kind} | {fault.name} | {len(seen):,} | {bad[0]} | {bad[1]} | {hits} | {tails} | {slowest} |", flush=True)

    with daemon_of(model, home(folder), "--no-cache") as daemon, server_of(kinds[0], folder) as server:
        asyncio.run(one(daemon.url, "no cache at all", FAULTS[0], server, Proxy()))
    for kind in kinds:
        for fault in FAULTS:
            with server_of(kind, folder) as server:
                proxy = Proxy()

                async def act(url: str, fault: Fault = fault, server: KeyServer = server, proxy: Proxy = proxy) -> None:
                    with daemon_of(model, home(folder), *NO_TIERS, url=url) as daemon:
                        await store(daemon.url, texts, TEXTS // 2, shared=True)
                        await one(daemon.url, kind, fault, server, proxy)  # noqa: B023

                with proxied(server, proxy) if fault.proxied else contextlib.nullcontext(server.url) as url:
                    asyncio.run(act(url))


def main() -> None:
    sys.setswitchinterval(0.0005)  # the proxy does not wait for the clients
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the GGUF file")
    parser.add_argument("--only", default="tiers,boxes,faults")
    parser.add_argument("--kinds", default=",".join(KINDS))
    args = parser.parse_args()
    kinds: list[Kind] = [kind for kind in KINDS if kind in args.kinds.split(",") and program_of(kind)]
    with tempfile.TemporaryDirectory() as folder:
        texts = Texts(args.model.resolve(), Path(folder))
        for name, table in (("tiers", tiers), ("boxes", boxes), ("faults", faults)):
            if name in args.only.split(","):
                table(args.model.resolve(), Path(folder), texts, kinds)


if __name__ == "__main__":
    main()
