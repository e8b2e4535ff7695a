"""Measure the processor time of a text on Ray workers of this machine, next to that of one process: `held` in docs/scale.md.

    python -m tests.benchmarks.scale.measure_ray MODEL.gguf [--workers 0 1 2] [--texts 8192 32768]

Runs `edgeembed embed --engine ray` over Parquet files of texts of 10 tokens, for two numbers of texts: their difference is
free of the start. Counted are the command and all processes below it, which are Ray's and the workers'. Two processors
cannot show how a job scales; they show what carrying it costs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from edgeembed.diagnostics.bench.texts import TextMaker
from tests.benchmarks.scale.measure import WORDS

SAMPLE_SECONDS = 0.25
ROWS_A_FILE = 4096


def write(folder: Path, count: int) -> Path:
    """Write files of 4,096 new texts of 10 tokens, one fragment each where they are named, and not their folder."""
    pa, pq = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    place = folder / f"in-{count}"
    place.mkdir()
    maker = TextMaker(count)
    for number in range(count // ROWS_A_FILE):
        pq.write_table(pa.table({"text": maker.texts(ROWS_A_FILE, WORDS[10])}), place / f"{number:04}.parquet")
    return place


def run(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Run a command. Return seconds by the clock, and of the processors in it and the processes below it."""
    began, busy = time.monotonic(), dict[int, float]()
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            for each in (watched, *watched.children(recursive=True)):
                try:
                    times = each.cpu_times()
                    busy[each.pid] = times.user + times.system
                except psutil.Error:
                    continue  # it ended
        except psutil.Error:
            break
        time.sleep(SAMPLE_SECONDS)
    if process.wait():
        raise SystemExit(process.stderr.read() if process.stderr else "the job failed")
    return time.monotonic() - began, sum(busy.values())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--workers", type=int, nargs="+", default=(0, 1, 2), help="0: one process without Ray")
    parser.add_argument("--texts", type=int, nargs=2, default=(8192, 32768))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EDGEEMBED_")}
        environment |= {"EDGEEMBED_HOME": str(folder / "home"), "EDGEEMBED_THREADS": "1"}
        inputs = [write(folder, count) for count in chosen.texts]
        for workers in chosen.workers:
            found = []
            for place in inputs:
                out = (folder / f"out-{workers}-{place.name}").as_uri()
                files = [file.as_uri() for file in sorted(place.iterdir())]
                command = [sys.executable, "-m", "edgeembed", "embed", *files, "-o", out, "--model", chosen.model]
                if workers:
                    command += ["--engine", "ray", "--workers", str(workers), "--cpus-per-worker", "1"]
                else:
                    command += ["--no-daemon"]
                found.append(run(command, environment))
            more = chosen.texts[1] - chosen.texts[0]
            wall, busy = (large - small for small, large in zip(*found, strict=True))
            title = f"{workers} Ray workers" if workers else "one process"
            print(f"{title}: {1000 * busy / more:.3f} ms of processor time a text, {more / wall:,.0f} texts/s", flush=True)


if __name__ == "__main__":
    main()
