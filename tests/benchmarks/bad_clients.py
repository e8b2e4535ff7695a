"""What slow readers and clients that vanish cost a normal one: a real daemon, real sockets, each driver in its own process.

    python tests/benchmarks/bad_clients.py --model model.gguf [--clients 64] [--texts 64] [--seconds 3] [--rounds 8]

Each round measures a normal client, which asks for one new text after the other, alone and then beside the bad ones (see
`tests.e2e.bad_clients`): the slow readers, the vanishing ones, both. It prints p50 and p99 over all rounds, the ratio of the
p99s (the goal: below 2) over all and for each round, whose spread shows how quiet the machine was, and the daemon's memory
and open connections before, during and after.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.driver import Group, Job
from tests.e2e.daemon import ROOT, Daemon, running

KINDS = {"slow readers": (1, 0), "vanishing": (0, 1), "both": (1, 1)}


def latencies(port: int, seconds: float, seed: int) -> list[float]:
    """Measure a normal client from a separate process, in milliseconds. Raises RuntimeError for a wrong answer."""
    job = Job(port=port, groups=(Group(clients=1, texts=1, words=10),), seconds=seconds, seed=seed)
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.driver"],
        input=json.dumps(dataclasses.asdict(job)),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return [1000 * value for value in json.loads(done.stdout)["outcomes"]["main"]["latencies"]]


@contextmanager
def misbehaving(port: int, slow: int, vanishing: int, texts: int) -> Iterator[dict[str, float]]:
    """Run bad clients in a separate process; what they did is in the dictionary afterwards."""
    did: dict[str, float] = {}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.bad_clients", *map(str, (port, slow, vanishing, texts))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "all there\n":
            raise RuntimeError("the bad clients have failed")
        yield did
        did.update(json.loads(process.communicate(timeout=60)[0]))
    finally:
        process.kill()
        process.wait()


def resources(daemon: Daemon) -> str:
    """Return the daemon's memory and connections in words, without its worker's."""
    process = psutil.Process(daemon.process.pid)
    connections = sum(each.status == psutil.CONN_ESTABLISHED for each in process.net_connections("tcp"))
    return f"{process.memory_info().rss / 2**20:.0f} MiB, {connections} connections"


def processor_seconds(daemon: Daemon) -> float:
    """Return the processor seconds that the daemon and its worker have used."""
    process = psutil.Process(daemon.process.pid)
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def measure(model: str, *, clients: int, texts: int, seconds: float, rounds: int) -> None:
    """Print the table for one model."""
    with tempfile.TemporaryDirectory() as temporary, running("--model", model, home=Path(temporary) / "home") as daemon:
        port = int(daemon.url.rpartition(":")[2])
        latencies(port, 3.0, 0)
        seeds = iter(range(10, 100_000, 10))
        print(f"before: {resources(daemon)}")
        print(f"{'beside':<14}{'quiet p50':>10}{'p99':>8}{'loaded p50':>12}{'p99':>8}{'ratio':>7}   (ms; rounds' ratios)")
        for kind, (slow, vanishing) in KINDS.items():
            quiet: list[list[float]] = []
            loaded: list[list[float]] = []
            did: Counter[str] = Counter()
            took = [0.0, 0.0]
            for _ in range(rounds):
                began = processor_seconds(daemon)
                quiet.append(latencies(port, seconds, next(seeds)))
                took[0] += processor_seconds(daemon) - began
                with misbehaving(port, slow * clients, vanishing * clients, texts) as round_did:
                    began = processor_seconds(daemon)
                    loaded.append(latencies(port, seconds, next(seeds)))
                    took[1] += processor_seconds(daemon) - began
                    meanwhile = resources(daemon)
                did.update(round_did)
            (q50, q99), (l50, l99) = (np.percentile(np.concatenate(each), [50, 99]) for each in (quiet, loaded))
            ratios = " ".join(
                f"{np.percentile(b, 99) / np.percentile(a, 99):.2f}" for a, b in zip(quiet, loaded, strict=True)
            )
            print(f"{kind:<14}{q50:>10.2f}{q99:>8.2f}{l50:>12.2f}{l99:>8.2f}{l99 / q99:>7.2f}   ({ratios})")
            each_took = [1000 * took[at] / sum(map(len, found)) for at, found in enumerate((quiet, loaded))]
            print(f"{'':<14}daemon and worker: {each_took[0]:.2f} ms of processor for a request, then {each_took[1]:.2f} ms")
            print(
                f"{'':<14}meanwhile {meanwhile}; {did['gone']} hung up, {did['bytes_read']} bytes were read slowly, the bad "
                f"clients took {did['driver_seconds']:.1f} s of processor"
            )
        time.sleep(1.0)  # the last ones have just hung up
        print(f"after: {resources(daemon)}")


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--clients", type=int, default=64, help="slow readers, and as many that vanish")
    parser.add_argument("--texts", type=int, default=64, help="in a request whose answer is read slowly")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=8)
    given = parser.parse_args()
    measure(given.model, clients=given.clients, texts=given.texts, seconds=given.seconds, rounds=given.rounds)


if __name__ == "__main__":
    main()
