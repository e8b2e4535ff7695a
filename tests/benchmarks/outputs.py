"""What each output of a model costs: tokens per second, the wait of a lone text, memory of the worker; dense rows beside.

    python -m tests.benchmarks.outputs MODEL.gguf [MODEL.gguf ...] [--threads 2] [--seconds 3] [--rounds 3] [--words 40]

The engine alone, without HTTP and cache: one worker for each model, all loads in turns, so that a machine that changes its
speed does not change the ratios; the median of the rounds. Words are random, and no text comes twice. "in one pass" asks
for all outputs of a text at once, "in passes of their own" for one after the other. Memory is the worker's resident memory:
after the dense load, after the others, and when nobody has asked for so long that their context was freed.

    python -m tests.benchmarks.outputs MODEL.gguf --answers

Instead: the hidden states of 16 texts of 100 words from POST /pooling of a real daemon, as JSON and as bytes: the size of
the answer, and the least time from request to the last byte, which includes the forward passes; they are never cached.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from edgeembed.engine.interface import BULK, INTERACTIVE, OUTPUTS, Output, Priority
from edgeembed.engine.outputs import ordered
from edgeembed.engine.supervisor.worker_engine import WorkerEngine
from edgeembed.engine.worker.lanes import IDLE_SECONDS
from edgeembed.engine.worker_options import WorkerOptions
from tests.benchmarks.engine import Meter, Texts, open_engine
from tests.e2e.daemon import running

IN_FLIGHT_WORDS = 6_000
"""Words of a bulk load that wait at any time."""
CLIENTS = 3
IDLE_SLACK_SECONDS = 3.0
LONE_WORDS = 10
MIB = 2**20
ANSWERED_TEXTS, ANSWERED_WORDS = 16, 100
_JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Kind:
    """What is asked of each text: one or several sets of outputs, each a pass of its own."""

    name: str
    passes: tuple[tuple[Output, ...], ...]


@dataclass
class Found:
    """Figures of one kind in all rounds."""

    bulk: list[float] = field(default_factory=list)
    lone: list[float] = field(default_factory=list)


def kinds(outputs: Sequence[Output]) -> list[Kind]:
    """Return the kinds to measure of a model: dense first, then each output, then all of the model's own together."""
    found = [Kind(output, ((output,),)) for output in OUTPUTS if output in (*outputs, "tokens")]
    own = ordered(outputs)
    if len(own) > 1:
        name = " + ".join(own)
        found.append(Kind(f"{name} in one pass", (own,)))
        found.append(Kind(f"{name} in passes of their own", tuple((output,) for output in own)))
    return found


class Loads:
    """Runs loads on one worker."""

    def __init__(self, engine: WorkerEngine, texts: Texts, seconds: float) -> None:
        self._engine = engine
        self._texts = texts
        self._seconds = seconds

    async def bulk(self, kind: Kind, words: int) -> float:
        """Return the tokens per second of texts whose every pass is done, of clients that send the next ones then."""
        meter = Meter(self._engine)
        until = time.perf_counter() + self._seconds
        size = max(4, IN_FLIGHT_WORDS // CLIENTS // words)

        async def client() -> None:
            while time.perf_counter() < until:
                await self._embed(meter, kind, [self._texts(words) for _ in range(size)], BULK)

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        return meter.result()["tokens/s"] / len(kind.passes)

    async def lone(self, kind: Kind) -> float:
        """Return the median milliseconds of a short text that no other one waits beside."""
        waits: list[float] = []
        until = time.perf_counter() + self._seconds / 2
        while time.perf_counter() < until:
            start = time.perf_counter()
            await self._embed(Meter(self._engine), kind, [self._texts(LONE_WORDS)], INTERACTIVE)
            waits.append(time.perf_counter() - start)
        return 1e3 * statistics.median(waits)

    async def _embed(self, meter: Meter, kind: Kind, texts: Sequence[str], priority: Priority) -> None:
        for outputs in kind.passes:
            await asyncio.gather(*map(meter.wait_for, self._engine.submit(texts, priority, outputs=outputs)))


async def measure(path: Path, arguments: argparse.Namespace) -> None:
    """Measure one model, and print its table."""
    options = WorkerOptions(
        path=str(path), threads=arguments.threads, context_tokens=512, batch_tokens=128, mode="cpu", extra_buffers=True
    )
    async with open_engine(options) as engine:
        info, pid = engine.info, engine.status.worker_pid
        assert info is not None and pid is not None
        worker = psutil.Process(pid)

        def memory() -> float:
            return float(worker.memory_info().rss) / MIB

        loads = Loads(engine, Texts(0), arguments.seconds)
        found = {kind: Found() for kind in kinds(info.outputs)}
        memories = [("loaded", memory())]
        dense = next(iter(found))
        await loads.bulk(dense, arguments.words)  # first touches are slower
        memories.append((f"after a load of {dense.name}", memory()))
        for kind in list(found)[1:]:
            await loads.lone(kind)
            memories.append((f"after the first texts with {kind.name}", memory()))
        for _ in range(arguments.rounds):
            for kind, figures in found.items():
                figures.lone.append(await loads.lone(kind))
                figures.bulk.append(await loads.bulk(kind, arguments.words))
        memories.append(("after all loads", memory()))
        await asyncio.sleep(IDLE_SECONDS + IDLE_SLACK_SECONDS)
        memories.append((f"{IDLE_SECONDS:g} s later", memory()))
    print(f"\n{path.name}: {info.outputs}, {arguments.words} words a text, {arguments.threads} threads\n")
    print(table(found))
    print()
    print("\n".join(f"{name:<60}{size:>8,.0f} MiB" for name, size in memories))


def measure_answers(path: Path, rounds: int) -> None:
    """Measure answers with the hidden states of a model in each form, and print a table."""
    texts = Texts(0)
    forms: dict[str, dict[str, Any]] = {
        "JSON": {},
        "base64": {"encoding_format": "base64"},
        "bytes": {"encoding_format": "bytes_only"},
        "bytes, float16": {"encoding_format": "bytes_only", "embed_dtype": "float16"},
        "a dense vector for each text, JSON": {"task": "embed", "cache": False},
    }
    sizes, seconds = dict.fromkeys(forms, 0), dict.fromkeys(forms, float("inf"))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        with running("--model", str(path), home=home) as daemon:
            url = f"{daemon.url}/pooling"
            for _ in range(rounds):
                for form, fields in forms.items():
                    body = json.dumps({"input": [texts(ANSWERED_WORDS) for _ in range(ANSWERED_TEXTS)], **fields}).encode()
                    start = time.perf_counter()
                    with urllib.request.urlopen(urllib.request.Request(url, body, _JSON), timeout=120) as response:
                        sizes[form] = len(response.read())
                    seconds[form] = min(seconds[form], time.perf_counter() - start)
    print(f"\n{path.name}: {ANSWERED_TEXTS} texts of {ANSWERED_WORDS} words\n")
    print(f"{'answer':<40}{'bytes':>12}{'ms':>8}")
    for form, size in sizes.items():
        print(f"{form:<40}{size:>12,}{1e3 * seconds[form]:>8.0f}")


def table(found: dict[Kind, Found]) -> str:
    """Format medians, and their ratios to the first kind's."""
    first = next(iter(found.values()))
    lines = [f"{'outputs':<48}{'tokens/s':>12}{'':>8}{'lone text, ms':>16}"]
    for kind, figures in found.items():
        bulk, lone = statistics.median(figures.bulk), statistics.median(figures.lone)
        ratio = bulk / statistics.median(first.bulk)
        lines.append(f"{kind.name:<48}{bulk:>12,.0f}{f'({ratio:.2f})':>8}{lone:>16.2f}")
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--words", type=int, default=40, help="of a text of the bulk loads")
    parser.add_argument("--answers", action="store_true", help="measure answers over HTTP instead")
    arguments = parser.parse_args()
    for path in arguments.models:
        if arguments.answers:
            measure_answers(path.resolve(), arguments.rounds)
        else:
            asyncio.run(measure(path, arguments))


if __name__ == "__main__":
    main()
