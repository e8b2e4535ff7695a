"""How fast `edgeembed embed` is, next to bench's bulk load of the same texts; its peak memory; undisturbed and killed.

    python -m tests.benchmarks.bulk_embed --model FILE.gguf --texts 1000000 --words 3-5 --kills 3
    python -m tests.benchmarks.bulk_embed --model FILE.gguf --texts 1000000 --words 3-5 --kills 3 --undisturbed 131072
    python -m tests.benchmarks.bulk_embed --model FILE.gguf --texts 20000 --daemon

bench's load is one client with 64 texts a request and no cache; it is measured before and after the job, because machines
change their speed. On a machine that is busy with other work, rates are worthless; compare processor time.
The output of the run that is killed, with SIGKILL, must equal the undisturbed one's byte for byte.
"""

from __future__ import annotations

import argparse
import asyncio
import filecmp
import itertools
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from edgeembed.config.resolution import resolve
from edgeembed.diagnostics.bench.daemon import own_daemon
from edgeembed.diagnostics.bench.load import Client
from edgeembed.diagnostics.bench.texts import TextMaker
from edgeembed.hub.install import ensure_installed
from tests.ports import free_port

TEXTS_PER_REQUEST = 64
"""Of bench's bulk load."""
SAMPLE_SECONDS = 0.2
COMPARED_ROWS = 8192
_IDS = "{}.ids.jsonl"


class Peak:
    """Peak resident memory of a process and its children, in bytes; shared pages are counted once per process."""

    def __init__(self) -> None:
        self.own = self.workers = self.together = 0

    def watch(self, pid: int, done: threading.Event) -> None:
        while not done.wait(SAMPLE_SECONDS):
            try:
                process = psutil.Process(pid)
                own = process.memory_info().rss
                workers = sum(child.memory_info().rss for child in process.children(recursive=True))
            except psutil.Error:
                continue  # it ends, or a worker does
            self.own, self.workers = max(self.own, own), max(self.workers, workers)
            self.together = max(self.together, own + workers)

    def __str__(self) -> str:
        own, workers, together = (f"{size / 2**20:,.0f} MiB" for size in (self.own, self.workers, self.together))
        return f"{together} (job {own}, worker {workers})"


def write_texts(path: Path, count: int, words: range, seed: int) -> None:
    """Write new texts, one per line."""
    maker, rng = TextMaker(seed), random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            file.write(maker.text(rng.choice(words)) + "\n")


def children_seconds() -> float:
    """Return the processor seconds of child processes that have ended, and of their children."""
    times = os.times()
    return times.children_user + times.children_system


def embed(command: list[str], environment: dict[str, str], peak: Peak, until: Callable[[], bool] = lambda: False) -> bool:
    """Run a job, and kill it as soon as `until` returns true. Return whether it finished."""
    process = subprocess.Popen(command, env=environment)
    done = threading.Event()
    watcher = threading.Thread(target=peak.watch, args=(process.pid, done))
    watcher.start()
    try:
        while (status := process.poll()) is None:
            if until():
                return False
            time.sleep(SAMPLE_SECONDS)
        if status != 0:
            raise SystemExit(f"the job ended with status {status}")
        return True
    finally:
        process.kill()
        process.wait()
        done.set()
        watcher.join()


@contextmanager
def daemon(model: str, environment: dict[str, str]) -> Iterator[None]:
    """Run `edgeembed serve` until the end."""
    process = subprocess.Popen([sys.executable, "-m", "edgeembed", "serve", "--model", model], env=environment)
    try:
        time.sleep(5)
        yield
    finally:
        process.terminate()
        process.wait(30)


def bench(model: str, texts: Path, environment: dict[str, str], seconds: float) -> tuple[float, float]:
    """Return texts per second, and per second of processor time, of bench's bulk load; the texts are sent in turn."""
    resolved = resolve({}, environment)
    installed = ensure_installed(model, paths=resolved.paths, settings=resolved.settings, report=lambda _line: None)

    def busy() -> float:
        found = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
        return sum(times.user + times.system for times in found)

    async def load() -> tuple[float, float]:
        with texts.open(encoding="utf-8") as file:
            lines = itertools.cycle(line.rstrip("\n") for line in file)
            async with own_daemon(resolved, installed.path, cache=False) as own, Client(own.url) as client:

                def request() -> list[str]:
                    return list(itertools.islice(lines, TEXTS_PER_REQUEST))

                await client.load(request, clients=1, seconds=1)
                before = busy()
                found = await client.load(request, clients=1, seconds=seconds)
                return found.texts_per_second, found.texts / max(busy() - before, 1e-9)

    return asyncio.run(load())


def compare(whole: Path, killed: Path) -> str:
    """Describe how alike two outputs are; the undisturbed one may hold only the first texts."""
    ids, others = (path.with_name(_IDS.format(path.stem)) for path in (whole, killed))
    if filecmp.cmp(whole, killed, shallow=False) and filecmp.cmp(ids, others, shallow=False):
        return f"equal byte for byte, {whole.stat().st_size:,} bytes of vectors, {ids.stat().st_size:,} of ids"
    a, b = np.load(whole, mmap_mode="r"), np.load(killed, mmap_mode="r")
    if a.shape[1:] != b.shape[1:] or len(a) > len(b):
        return f"shapes differ: {a.shape} and {b.shape}"
    some_ids = ids.read_bytes()
    with others.open("rb") as file:
        same_ids = file.read(len(some_ids)) == some_ids
    equal, least = 0, 1.0
    for first in range(0, len(a), COMPARED_ROWS):
        end = min(first + COMPARED_ROWS, len(a))
        rows, other = a[first:end], b[first:end]
        equal += int((rows.view(np.uint32) == other.view(np.uint32)).all(axis=1).sum())
        least = min(least, float((rows * other).sum(axis=1).min()))
    told = "equal" if same_ids else "DIFFER"
    return f"of the first {len(a):,} rows ids {told}; {equal:,} vectors equal bit for bit; least cosine {least:.6f}"


def _words(value: str) -> range:
    first, _, last = value.partition("-")
    return range(int(first), int(last or first) + 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="GGUF file or installed model")
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--words", type=_words, default=range(10, 11), help="of a text: 10, or 3-5")
    parser.add_argument("--shard-rows", type=int, default=8192)
    parser.add_argument("--kills", type=int, default=0, help="make the output once more, killed so many times")
    parser.add_argument("--undisturbed", type=int, help="only so many texts in the run that is not killed: whole shards")
    parser.add_argument("--daemon", action="store_true", help="let a daemon compute")
    parser.add_argument("--bench-seconds", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where inputs and outputs go; a temporary one without it")
    chosen = parser.parse_args()
    undisturbed = min(chosen.undisturbed or chosen.texts, chosen.texts)
    if undisturbed < chosen.texts and undisturbed % chosen.shard_rows:
        parser.error("--undisturbed must be whole shards")
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EDGEEMBED_")}
        environment |= {"EDGEEMBED_HOME": str(folder / "home"), "EDGEEMBED_PORT": str(free_port())}
        texts, some = folder / "texts.txt", folder / "some.txt"
        write_texts(texts, chosen.texts, chosen.words, chosen.seed)
        with texts.open(encoding="utf-8") as file, some.open("w", encoding="utf-8") as first:
            first.writelines(itertools.islice(file, undisturbed))

        def command(source: Path, out: str) -> list[str]:
            base = [sys.executable, "-m", "edgeembed", "embed", str(source), "-o", str(folder / out), "--resume"]
            base += ["--shard-rows", str(chosen.shard_rows)]
            return base if chosen.daemon else [*base, "--model", chosen.model, "--no-daemon"]

        def measure() -> None:
            rates = [bench(chosen.model, some, environment, chosen.bench_seconds)]
            peak, before, began = Peak(), children_seconds(), time.monotonic()
            embed(command(some, "whole.npy"), environment, peak)
            wall, busy = time.monotonic() - began, children_seconds() - before
            rates.append(bench(chosen.model, some, environment, chosen.bench_seconds))
            rate, by_processor = (sum(found) / len(found) for found in zip(*rates, strict=True))
            told = ", ".join(f"{found:,.0f}" for found, _ in rates)
            print(f"bench: {told} texts/s; {by_processor:,.0f} texts per second of processor time", flush=True)
            ratio = f"{undisturbed / wall / rate:.2f} of bench"
            print(
                f"embed: {undisturbed:,} texts in {wall:.1f} s, start included: {undisturbed / wall:,.0f} texts/s, {ratio}"
            )
            if not chosen.daemon:
                ratio = f"{undisturbed / busy / by_processor:.2f} of bench"
                print(f"       {undisturbed / busy:,.0f} texts per second of processor time: {ratio}")
            print(f"peak memory: {peak}", flush=True)
            if chosen.kills:
                disturb()

        def disturb() -> None:
            parts = folder / "killed.npy.parts"
            shards, peak, began, times = -(-undisturbed // chosen.shard_rows), Peak(), time.monotonic(), 0
            for kill in range(chosen.kills):
                enough = shards * (kill + 1) // (chosen.kills + 1)

                def reached(enough: int = enough) -> bool:
                    return len(list(parts.glob("receipt-*"))) >= enough

                times += not embed(command(texts, "killed.npy"), environment, peak, reached)
            embed(command(texts, "killed.npy"), environment, peak)
            wall = time.monotonic() - began
            print(f"killed {times} times: {chosen.texts:,} texts in {wall:.1f} s, {chosen.texts / wall:,.0f} texts/s")
            print(f"peak memory: {peak}")
            print(f"killed and undisturbed: {compare(folder / 'whole.npy', folder / 'killed.npy')}")

        if chosen.daemon:
            with daemon(chosen.model, environment):
                measure()
        else:
            measure()


if __name__ == "__main__":
    main()
