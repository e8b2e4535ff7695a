"""Ray Serve against the daemon alone: throughput, latency, hits by hashing, and a replica that is killed.

    [RAY_SERVE_ENABLE_HA_PROXY=1] python -m tests.benchmarks.ray_serve MODEL.gguf [--replicas 2] [--seconds 5]

Everything runs on this machine, so the replicas share its processors: the ratios show what Serve costs per request, not what
more machines bring. Each load is measured in turns, and the better of the rounds counts.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from edgeembed.diagnostics.bench.texts import TextMaker
from tests.e2e.daemon import running
from tests.ports import free_port
from tests.ray_serve.serving import Serving, serving

REPLICA = "ray::ServeReplica:edgeembed:edgeembed"
POWER_OF_TWO = "ray.serve._private.request_router.pow_2_router.PowerOfTwoChoicesRequestRouter"


class Measured(NamedTuple):
    """The outcome of a load."""

    per_second: float
    """Texts."""
    p50_ms: float
    p99_ms: float
    failed: int
    hits: float
    """Share of requests that a cache answered."""


async def load(url: str, clients: int, seconds: float, texts: Callable[[], Sequence[str] | None]) -> Measured:
    """Send requests of texts with so many clients, until the time is up or there are no more."""
    took: list[float] = []
    counts = {"texts": 0, "failed": 0, "hits": 0}
    began = time.perf_counter()

    async def client(session: aiohttp.ClientSession) -> None:
        while time.perf_counter() - began < seconds and (batch := texts()) is not None:
            sent = time.perf_counter()
            body = {"input": batch[0] if len(batch) == 1 else batch, "encoding_format": "base64"}
            async with session.post(f"{url}/v1/embeddings", json=body) as answer:
                await answer.read()
                counts["failed"] += answer.status != 200
                counts["hits"] += answer.headers.get("X-Edgeembed-Cache") == "hit"
            took.append(time.perf_counter() - sent)
            counts["texts"] += len(batch)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    spent = time.perf_counter() - began
    quantiles = statistics.quantiles(took, n=100)
    hits = counts["hits"] / len(took)
    return Measured(counts["texts"] / spent, 1e3 * quantiles[49], 1e3 * quantiles[98], counts["failed"], hits)


LOADS: dict[str, tuple[int, int, int]] = {
    "a hit, 1 client": (1, 0, 1),
    "hits, 16 clients": (16, 0, 1),
    "new, 10 words, 1 client": (1, 10, 1),
    "new, 30 words, 16 clients": (16, 30, 1),
    "new, 64 texts of 30 words, 4 clients": (4, 30, 64),
}
"""Name -> clients, words of a new text (0: one text again and again), texts of a request."""


async def compare(urls: dict[str, str], seconds: float, rounds: int) -> None:
    """Print a table of loads, for each server."""
    maker = TextMaker(1)
    print("| load | server | texts/s | p50 ms | p99 ms | failed |\n|---|---|---|---|---|---|")
    for name, (clients, words, size) in LOADS.items():
        found: dict[str, list[Measured]] = {server: [] for server in urls}
        for _ in range(rounds):
            for server, url in urls.items():
                again = ["a text that is asked for again"] * size
                found[server].append(
                    await load(url, clients, seconds, lambda: maker.texts(size, words) if words else again)  # noqa: B023
                )
        for server, each in found.items():
            best = max(each, key=lambda one: one.per_second)
            cells = f"{best.per_second:,.0f} | {best.p50_ms:.2f} | {best.p99_ms:.2f} | {sum(one.failed for one in each)}"
            print(f"| {name} | {server} | {cells} |", flush=True)


async def hit_rate(url: str, seed: int) -> Measured:
    """Send 150 texts six times each, in random order."""
    texts = TextMaker(seed).texts(150, 12)
    order = [text for text in texts for _ in range(6)]
    random.Random(1).shuffle(order)
    left = iter(order)
    return await load(url, 8, 600, lambda: None if (text := next(left, None)) is None else [text])


async def kill_one(served: Serving, seconds: float) -> Measured:
    """Kill a replica in the middle of a load of new texts."""
    maker = TextMaker(7)

    async def kill() -> None:
        await asyncio.sleep(seconds / 3)
        served.processes(REPLICA)[0].kill()

    killing = asyncio.create_task(kill())
    measured = await load(served.url, 8, seconds, lambda: maker.texts(1, 20))
    await killing
    return measured


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    arguments: dict[str, Any] = {"model": str(options.model.resolve()), "replicas": options.replicas, "offline": True}
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work,
        serving(free_port(), arguments, Path(work)) as served,
    ):
        flags = ("--model", str(options.model.resolve()), "--offline", "--threads", "1")
        with running(*flags, home=Path(work) / "alone") as daemon:
            asyncio.run(compare({"daemon": daemon.url, "Ray Serve": served.url}, options.seconds, options.rounds))
        print("\n| routing | requests/s | from a cache | failed |\n|---|---|---|---|")
        for seed, (name, router) in enumerate((("by text", None), ("Serve's default", POWER_OF_TWO))):
            if router is not None:
                served.deploy(router=router)
            found = asyncio.run(hit_rate(served.url, 100 + seed))
            print(f"| {name} | {found.per_second:,.0f} | {found.hits:.1%} | {found.failed} |", flush=True)
        served.deploy(router=None)
        killed = asyncio.run(kill_one(served, 30))
        requests = killed.per_second * 30
        print(f"\nkilled under load: {requests:,.0f} requests, {killed.failed} failed, p99 {killed.p99_ms:.0f} ms")


if __name__ == "__main__":
    sys.exit(main())
