"""Checks of the measurements: the load driver's cost, a peer's best settings, how steadily the machine computes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from edgeembed.diagnostics.bench.load import Client, LoadResult
from tests.benchmarks.driver import Group, Job, source_of
from tests.benchmarks.peers import PEERS, Edgeembed, Peer
from tests.benchmarks.place import Place, Weights
from tests.benchmarks.processes import Server
from tests.benchmarks.report import Spread
from tests.benchmarks.scenarios import SCENARIOS, percentile

GRIDS: dict[str, list[str]] = {
    "llama-server": [
        f"-b {batch} -ub {batch} -np {slots} -c {max(slots * 512, 2048)} -fa on"
        for batch in (256, 512, 2048)
        for slots in (1, 4, 8, 32)
    ],
    "llama-cpp-python": [
        f"--n_ctx 512 --n_batch {batch} --n_ubatch {batch} --flash_attn {flash}"
        for batch in (256, 512, 2048)
        for flash in ("true", "false")
    ],
    "infinity": [f"--batch-size {batch} --dtype {dtype}" for batch in (8, 32, 64) for dtype in ("float32", "bfloat16")],
    "sentence-transformers": [f"--batch {batch}" for batch in (8, 16, 32, 64)],
    "onnx-int8": [f"--graph {graph} --batch {batch}" for graph in ("plain", "fused") for batch in (8, 16, 32, 64)],
    "onnx-int8-compute": [f"--graph {graph} --batch {batch}" for graph in ("plain", "fused") for batch in (8, 16, 32, 64)],
    "transformers-bf16": [f"--batch {batch}" for batch in (4, 8, 16)],
}
"""Settings to try, one peer's after the other."""


def tuning(name: str, place: Place, weights: Weights, seconds: float) -> Iterator[str]:
    """Start a peer with one set of settings after the other, and return a line of figures for each."""
    scenarios = [
        scenario for scenario in SCENARIOS.values() if weights.name in scenario.models and "main" in scenario.phases
    ]
    if PEERS[name].loop:
        scenarios = [scenario for scenario in scenarios if scenario.loops]
    width = max(map(len, GRIDS[name])) + 2
    yield " " * width + "".join(f"{scenario.name + ' ' + scenario.unit:>18}" for scenario in scenarios)
    for flags in GRIDS[name]:
        peer: Peer = PEERS[name](flags.split())
        running = peer.start(place, weights)
        try:
            running.wait()
            figures = []
            for scenario in scenarios:
                jobs = scenario.jobs(seconds, seed=1)
                figures.append(scenario.figure({phase: running.do(job)[0] for phase, job in jobs.items()}))
            yield f"{flags:<{width}}" + "".join(f"{figure:>18.2f}" for figure in figures)
        except RuntimeError as error:
            yield f"{flags:<{width}}{str(error).splitlines()[0]}"
        finally:
            running.end()


@dataclass(frozen=True)
class _Drive:
    """What a driver measured, and the processor time that it took."""

    texts_per_second: float
    p50: float
    cpu_per_request: float
    cpu_share: float


def driver_cost(place: Place, weights: Weights, seconds: float, rounds: int) -> Iterator[str]:
    """Send the same loads from the driver on plain sockets, free and held on one processor, and from aiohttp's client."""
    server = Edgeembed().start(place, weights)
    cores = os.cpu_count() or 1

    def sockets(job: Job, *cpus: int) -> _Drive:
        outcomes, cpu = server.do(replace(job, cpus=cpus))
        main = outcomes["main"]
        requests = len(main.latencies)
        share = cpu / main.seconds / cores
        return _Drive(main.texts / main.seconds, percentile(main.latencies, 50), cpu / requests, share)

    def aiohttp(job: Job) -> _Drive:
        load = asyncio.run(_with_aiohttp(server, job))
        cpu = load.client_seconds / len(load.latencies)
        return _Drive(load.texts_per_second, percentile(load.latencies, 50), cpu, load.client_share)

    drivers: dict[str, Callable[[Job], _Drive]] = {
        "plain sockets": sockets,
        "plain sockets on one processor": lambda job: sockets(job, cores - 1),
        "aiohttp (`edgeembed bench`)": aiohttp,
    }
    loads = {
        "new texts, 1 client": Group(words=10),
        "new texts, 32 clients": Group(words=10, clients=32),
        "new texts, 64 a request": Group(words=12, texts=64),
        "cached texts, 32 clients": Group(words=10, clients=32, zipf_pool=64),
    }
    try:
        server.wait()
        for load_number, (title, group) in enumerate(loads.items()):
            yield title
            found: dict[str, list[_Drive]] = {name: [] for name in drivers}
            for number in range(rounds):
                for driver_number, name in list(enumerate(drivers))[:: 1 if number % 2 == 0 else -1]:
                    # Texts of its own each time: what one driver has sent would be in the cache for the next.
                    seed = 10_000 * load_number + 100 * number + 10 * driver_number
                    found[name].append(drivers[name](Job(port=0, groups=(group,), seconds=seconds, seed=seed)))
            for name, drives in found.items():
                rate = Spread.of([drive.texts_per_second for drive in drives])
                latency = Spread.of([1000 * drive.p50 for drive in drives])
                cost = Spread.of([1e6 * drive.cpu_per_request for drive in drives])
                share = max(drive.cpu_share for drive in drives)
                yield f"  {name:<32}{rate!s:>26} texts/s   p50 {latency} ms   driver {cost} us a request, up to {share:.1%}"
    finally:
        server.end()


async def _with_aiohttp(server: Server, job: Job) -> LoadResult:
    (group,) = job.groups
    async with Client(f"http://127.0.0.1:{server.port}") as client:
        await client.load(source_of(group, job.seed + 1), clients=group.clients, seconds=job.warm_seconds)
        return await client.load(source_of(group, job.seed), clients=group.clients, seconds=job.seconds)


@dataclass(frozen=True)
class Gaps:
    """Pauses of processes that only spin, one for each processor: what the machine or its host took from them."""

    share: float
    """Of the time, in all processes together."""
    longest_ms: float


def gaps(seconds: float = 3.0) -> Gaps:
    """Measure how steadily this machine computes: what is taken away here affects every figure, a p99 most of all."""
    with multiprocessing.get_context("spawn").Pool(os.cpu_count() or 1) as pool:
        found = pool.map(_spin, [seconds] * (os.cpu_count() or 1), chunksize=1)
    return Gaps(
        share=sum(lost for lost, _ in found) / (seconds * len(found)), longest_ms=1000 * max(most for _, most in found)
    )


def _spin(seconds: float) -> tuple[float, float]:
    lost = most = 0.0
    last = time.perf_counter()
    end = last + seconds
    while last < end:
        now = time.perf_counter()
        if now - last > 0.001:
            lost, most = lost + now - last, max(most, now - last)
        last = now
    return lost, most
