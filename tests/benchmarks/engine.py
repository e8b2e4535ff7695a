"""The speed of the engine alone: texts in, rows out, one worker, no HTTP and no cache.

    python tests/benchmarks/engine.py MODEL.gguf [--threads 2] [--seconds 3] [--set bulk_lanes=0] [--against TREE]

For each load it prints tokens per second, the worker's processor time per 1,000 tokens (more reliable than the wall clock
when others use the machine), and for queries the median and the 99th percentile of the wait. `--against` runs the same in
another source tree, in turns, and adds the ratio of the medians. Words are random, and no text comes twice.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from edgeembed.engine import interface
from edgeembed.engine.execution_modes import CPU_BEST
from edgeembed.engine.interface import BULK, INTERACTIVE, Priority
from edgeembed.engine.supervisor.fallback_policy import FallbackPolicy
from edgeembed.engine.supervisor.worker_engine import WorkerEngine
from edgeembed.engine.worker_options import WorkerOptions

INSTRUCTION = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem "
    "hand part place case week company system program question work government number night point home water room "
    "mother area money story fact month lot right study book eye job word business issue side kind head house "
    "service friend father power"
)
BULK_WORDS = (5, 10, 40, 100, 300)
IN_FLIGHT_WORDS = 6_000
"""Words of a bulk load that wait at any time."""


class Texts:
    """Makes texts that never repeat."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._words = WORDS.split()
        self._count = itertools.count()

    def __call__(self, words: int) -> str:
        # The number makes it new; the rest is drawn, so that no two begin alike.
        return " ".join([*self._random.choices(self._words, k=words - 1), str(next(self._count))])


@asynccontextmanager
async def open_engine(options: WorkerOptions) -> AsyncIterator[WorkerEngine]:
    """Start an engine; it ends with the context."""
    engine = WorkerEngine(lambda _mode: options, FallbackPolicy((CPU_BEST,)))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


class Meter:
    """Measures one load: wall clock, the worker's processor time, tokens."""

    def __init__(self, engine: WorkerEngine) -> None:
        pid = engine.status.worker_pid
        assert pid is not None
        self._worker = psutil.Process(pid)
        self.tokens = 0
        self.texts = 0
        self.waits: list[float] = []
        self._begin()

    def _begin(self) -> None:
        self._cpu, self._wall = self._cpu_now(), time.perf_counter()

    def _cpu_now(self) -> float:
        times = self._worker.cpu_times()
        return float(times.user + times.system)

    async def wait_for(self, future: asyncio.Future[interface.Row]) -> None:
        """Wait for a row and count it."""
        start = time.perf_counter()
        row = await future
        self.waits.append(time.perf_counter() - start)
        self.tokens += row.tokens
        self.texts += 1

    def result(self) -> dict[str, float]:
        """Return the figures of the load so far."""
        wall, cpu = time.perf_counter() - self._wall, self._cpu_now() - self._cpu
        waits = sorted(self.waits)
        return {
            "tokens/s": self.tokens / wall,
            "texts/s": self.texts / wall,
            "cpu ms/1k tokens": 1e6 * cpu / max(1, self.tokens),
            "p50 ms": 1e3 * statistics.median(waits),
            "p99 ms": 1e3 * waits[int(0.99 * (len(waits) - 1))],
        }


async def clients(
    engine: WorkerEngine, meter: Meter, number: int, until: float, text: Callable[[], Any], priority: Priority, size: int = 1
) -> None:
    """Let clients each send `size` texts, wait for all of them, and send the next ones."""

    async def client() -> None:
        while time.perf_counter() < until:
            futures = engine.submit([text() for _ in range(size)], priority)
            await asyncio.gather(*map(meter.wait_for, futures))

    await asyncio.gather(*(client() for _ in range(number)))


async def measure(options: WorkerOptions, seconds: float, seed: int) -> dict[str, dict[str, float]]:
    """Run all loads on one worker."""
    texts = Texts(seed)
    found: dict[str, dict[str, float]] = {}
    prompted = getattr(interface, "Prompted", lambda prefix, text: prefix + text)

    async with open_engine(options) as engine:

        async def load(
            name: str, number: int, text: Callable[[], Any], priority: Priority = INTERACTIVE, size: int = 1
        ) -> None:
            meter = Meter(engine)
            await clients(engine, meter, number, time.perf_counter() + seconds, text, priority, size)
            found[name] = meter.result()

        await asyncio.gather(*engine.submit([texts(10) for _ in range(100)], BULK))  # first touches are slower
        for words in (10, 40):
            await load(f"1 client, {words} words", 1, lambda words=words: texts(words))  # type: ignore[misc]
        for number in (4, 32):
            await load(f"{number} clients, 10 words", number, lambda: texts(10))
        for words in BULK_WORDS:
            size = max(4, IN_FLIGHT_WORDS // 3 // words)
            await load(f"bulk, {words} words", 3, lambda words=words: texts(words), BULK, size)  # type: ignore[misc]
        for number in (1, 8):
            await load(f"{number} clients, 10 words behind an instruction", number, lambda: prompted(INSTRUCTION, texts(10)))
        stop = time.perf_counter() + seconds
        beside = asyncio.create_task(
            clients(engine, Meter(engine), 3, stop, lambda: texts(12), BULK, IN_FLIGHT_WORDS // 3 // 12)
        )
        meter = Meter(engine)
        while time.perf_counter() < stop:
            await meter.wait_for(engine.submit([texts(10)], INTERACTIVE)[0])
            await asyncio.sleep(0.02)
        found["1 client, 10 words, beside a bulk load"] = meter.result()
        await beside
        before = Meter(engine)
        await asyncio.sleep(1.0)
        before.waits, before.tokens = [0.0], 1000
        found["idle, cpu ms in a second"] = before.result()
    return found


def run_tree(tree: Path, arguments: argparse.Namespace, seed: int) -> dict[str, dict[str, float]]:
    """Measure a source tree in a separate process."""
    command = [sys.executable, str(Path(__file__).resolve()), str(arguments.model), "--json", "--seed", str(seed)]
    command += [
        "--threads",
        str(arguments.threads),
        "--seconds",
        str(arguments.seconds),
        "--context",
        str(arguments.context),
    ]
    if tree == arguments.tree:
        command += [word for setting in arguments.set for word in ("--set", setting)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(tree)}, stdout=subprocess.PIPE, check=True, encoding="utf-8"
    )
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


COLUMNS = ("tokens/s", "cpu ms/1k tokens", "p50 ms", "p99 ms")


def table(rounds: list[dict[str, dict[str, float]]], others: list[dict[str, dict[str, float]]]) -> str:
    """Format the medians over rounds; with another tree's rounds, ours / theirs in brackets."""
    lines = [f"{'load':<45}" + "".join(f"{column:>24}" for column in COLUMNS)]
    for name in rounds[0]:
        cells = []
        for column in COLUMNS:
            ours = statistics.median(found[name][column] for found in rounds)
            ratio = ""
            if others:
                theirs = statistics.median(found[name][column] for found in others)
                ratio = f" ({ours / theirs:.2f})" if theirs else ""
            cells.append(f"{ours:,.1f}{ratio}".rjust(24))
        lines.append(f"{name:<45}" + "".join(cells))
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=1024, help="tokens of the longest text")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each load")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=JSON", help="a field of WorkerOptions")
    parser.add_argument("--against", type=Path, metavar="TREE", help="another source tree to run in turns")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.tree = Path(__file__).resolve().parents[2]
    changes = {name: json.loads(value) for name, value in (setting.split("=", 1) for setting in arguments.set)}
    base = {
        "path": str(arguments.model), "threads": arguments.threads, "context_tokens": arguments.context,
        "batch_tokens": 128, "mode": "cpu", "extra_buffers": True,
    }  # fmt: skip
    options = msgspec.convert(base | changes, WorkerOptions)
    if arguments.json:
        print(json.dumps(asyncio.run(measure(options, arguments.seconds, arguments.seed))))
        return
    ours, others = [], []
    for number in range(arguments.rounds):
        if arguments.against:
            others.append(run_tree(arguments.against, arguments, number))
        ours.append(run_tree(arguments.tree, arguments, number))
    print(table(ours, others))


if __name__ == "__main__":
    main()
