"""How fast `edgeembed embed` is, next to the bulk rate of `edgeembed bench`, with its peak memory, undisturbed and killed.

    python -m tests.benchmarks.bulk_embed --model FILE.gguf --texts 1000000 --kills 3
    python -m tests.benchmarks.bulk_embed --model FILE.gguf --texts 20000 --daemon

Texts have ten words, as those of bench's first cell; a machine that does other things meanwhile makes all figures worthless.
What a kill costs is seen in the rate of the run that is killed; its output is held against that of the undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from edgeembed.bench.texts import TextMaker
from tests.benchmarks.processes import free_port

WORDS = 10
SAMPLE_SECONDS = 0.2
COMPARED_ROWS = 8192


class Peak:
    """The most memory that a process and its children took, in bytes."""

    def __init__(self) -> None:
        self.own = 0
        self.workers = 0

    def watch(self, pid: int, done: threading.Event) -> None:
        while not done.wait(SAMPLE_SECONDS):
            try:
                process = psutil.Process(pid)
                self.own = max(self.own, process.memory_info().rss)
                self.workers = max(self.workers, sum(child.memory_info().rss for child in process.children(recursive=True)))
            except psutil.Error:
                continue  # it ends, or a worker does


def write_texts(path: Path, count: int, seed: int) -> None:
    """Write so many new texts, one a line."""
    maker = TextMaker(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            file.write(maker.text(WORDS) + "\n")


def embed(command: list[str], environment: dict[str, str], peak: Peak, kill_after: float | None = None) -> bool:
    """Run a job; with `kill_after` kill it after so many seconds. Says whether it came to its end."""
    process = subprocess.Popen(command, env=environment)
    done = threading.Event()
    watcher = threading.Thread(target=peak.watch, args=(process.pid, done))
    watcher.start()
    try:
        status = process.wait(kill_after)
        if status != 0:
            raise SystemExit(f"the job ended with status {status}")
        return True
    except subprocess.TimeoutExpired:
        return False
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


def bench_rate(model: str, environment: dict[str, str], seconds: float) -> float:
    """Give bench's texts per second, 64 texts a request, nothing cached."""
    command = [sys.executable, "-m", "edgeembed", "bench", model, "--quick", "--seconds", str(seconds), "--json"]
    found = json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)
    (rate,) = [
        result["texts_per_second"]
        for result in found["results"]
        if result["words"] == WORDS and result["texts_per_request"] > 1 and not result["repeated"]
    ]
    return float(rate)


def compare(one: Path, other: Path) -> str:
    """Say how alike two outputs are."""
    same_ids = one.with_name("whole.ids.jsonl").read_bytes() == other.with_name("killed.ids.jsonl").read_bytes()
    a, b = np.load(one, mmap_mode="r"), np.load(other, mmap_mode="r")
    if a.shape != b.shape:
        return f"shapes differ: {a.shape} and {b.shape}"
    equal, least = 0, 1.0
    for first in range(0, len(a), COMPARED_ROWS):
        rows, others = a[first : first + COMPARED_ROWS], b[first : first + COMPARED_ROWS]
        equal += int((rows == others).all(axis=1).sum())
        least = min(least, float((rows * others).sum(axis=1).min()))
    return f"ids {'equal' if same_ids else 'DIFFER'}; {equal / len(a):.2%} of rows bit for bit; least cosine {least:.6f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="GGUF file or installed model")
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--shard-rows", type=int, default=8192)
    parser.add_argument("--kills", type=int, default=0, help="make the output once more, killed so many times")
    parser.add_argument("--daemon", action="store_true", help="let a daemon compute")
    parser.add_argument("--bench-seconds", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where inputs and outputs go; a temporary one without it")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EDGEEMBED_")}
        environment |= {"EDGEEMBED_HOME": str(folder / "home"), "EDGEEMBED_PORT": str(free_port())}
        texts = folder / "texts.txt"
        write_texts(texts, chosen.texts, chosen.seed)
        bench = bench_rate(chosen.model, environment, chosen.bench_seconds)
        print(f"bench: {bench:,.0f} texts/s")

        def command(out: str) -> list[str]:
            base = [sys.executable, "-m", "edgeembed", "embed", str(texts), "-o", str(folder / out), "--resume"]
            base += ["--shard-rows", str(chosen.shard_rows)]
            return base if chosen.daemon else [*base, "--model", chosen.model, "--no-daemon"]

        def measure() -> None:
            peak, began = Peak(), time.monotonic()
            embed(command("whole.npy"), environment, peak)
            seconds = time.monotonic() - began
            rate = chosen.texts / seconds
            print(f"embed: {rate:,.0f} texts/s over {seconds:.1f} s, start included: {rate / bench:.2f} of bench")
            print(f"peak memory: {peak.own / 2**20:,.0f} MiB, worker {peak.workers / 2**20:,.0f} MiB")
            if not chosen.kills:
                return
            ended = False
            for kill in range(chosen.kills):
                ended = ended or embed(
                    command("killed.npy"), environment, peak, seconds / (chosen.kills + 1) * (1 + 0.1 * kill)
                )
            if ended:
                print("it was done before the last kill")
            else:
                embed(command("killed.npy"), environment, peak)
            print(f"killed {chosen.kills} times: {compare(folder / 'whole.npy', folder / 'killed.npy')}")

        if chosen.daemon:
            with daemon(chosen.model, environment):
                measure()
        else:
            measure()


if __name__ == "__main__":
    main()
