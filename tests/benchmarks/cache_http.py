"""What a hit costs over HTTP: the daemon against a bare aiohttp handler that returns the same bytes, in turns, in one run.

    python tests/benchmarks/cache_http.py --model model.gguf

Both run on uvloop where it exists, each in a separate process; the daemon has everything on that a user has. The driver is
`wrk` (Debian: `apt install wrk`), one thread. It prints the medians over the rounds: p50 with one client, requests/s with
32, and the ratio of each round's pair, whose spread shows how quiet the machine was. "CPU ratio" compares the processor time
that a request takes in each server; it remains valid on a busy machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))

from edgeembed.runtime.daemon import _loop_factory
from tests.e2e.daemon import running

TEXT = "how do I read a file line by line without loading all of it into memory?"
GOAL_P50_MS = 0.25
GOAL_RATIO = 0.7


def bare(path: str) -> None:
    """Serve one file's bytes to every POST, as plainly as aiohttp can."""
    from aiohttp import web

    body = Path(path).read_bytes()

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=body, content_type="application/json")

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/v1/embeddings", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve())


class Load(NamedTuple):
    """p50 in milliseconds, requests/s, and the server's processor time per request in microseconds."""

    p50: float
    rate: float
    cpu: float


Server = tuple[str, psutil.Process]


@contextmanager
def bare_server(body: bytes, folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Run `bare` in a separate process; return its URL and process."""
    path = folder / "answer.json"
    path.write_bytes(body)
    process = subprocess.Popen([sys.executable, __file__, "--bare", str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}", psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def post(url: str, body: bytes) -> tuple[bytes, str]:
    """Send one request; return the answer and the cache header."""
    request = urllib.request.Request(f"{url}/v1/embeddings", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read(), response.headers.get("X-Edgeembed-Cache", "")


def wrk(server: Server, script: Path, clients: int, seconds: float) -> Load:
    """Load a server. Raises RuntimeError when answers were errors."""
    url, process = server
    before = process.cpu_times()
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--latency", "-s", str(script), f"{url}/v1/embeddings"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        raise RuntimeError(output)
    after = process.cpu_times()
    value, unit = re.search(r"50%\s+([\d.]+)(us|ms|s)", output).groups()  # type: ignore[union-attr]
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])  # type: ignore[index]
    requests = int(re.search(r"(\d+) requests in", output)[1])  # type: ignore[index]
    cpu = after.user + after.system - before.user - before.system
    return Load(float(value) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit], rate, 1e6 * cpu / requests)


def measure(model: str, *, rounds: int, seconds: float) -> None:
    """Print the table for one model."""
    print(
        f"{'encoding':<10}{'bytes':>8}{'p50 ms, 1 client':>26}{'requests/s, 32 clients':>30}{'ratio':>22}{'CPU ratio':>10}"
    )
    print(f"{'':<18}{'daemon':>13}{'bare':>13}{'daemon':>15}{'bare':>15}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with running("--model", model, home=folder / "home") as daemon:
            for encoding in ("float", "base64"):
                body = json.dumps({"input": TEXT, "encoding_format": encoding}).encode()
                post(daemon.url, body)
                answer, said = post(daemon.url, body)
                assert said == "hit", said
                script = folder / "post.lua"
                script.write_text(
                    'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
                    f"wrk.body = [==[{body.decode()}]==]\n"
                )
                with bare_server(answer, folder) as other:
                    ours = (daemon.url, psutil.Process(daemon.process.pid))
                    for server in (ours, other):
                        wrk(server, script, 32, 1)
                    single: dict[Server, list[Load]] = {ours: [], other: []}
                    many: dict[Server, list[Load]] = {ours: [], other: []}
                    for _ in range(rounds):
                        for clients, loads in ((1, single), (32, many)):
                            for server in (ours, other):
                                loads[server].append(wrk(server, script, clients, seconds))
                    pairs = list(zip(many[ours], many[other], strict=True))
                    ratios = [mine.rate / theirs.rate for mine, theirs in pairs]
                    cpu = statistics.median(theirs.cpu / mine.cpu for mine, theirs in pairs)
                    p50, ratio = statistics.median(load.p50 for load in single[ours]), statistics.median(ratios)
                    print(
                        f"{encoding:<10}{len(answer):>8,}{p50:>13.3f}"
                        f"{statistics.median(load.p50 for load in single[other]):>13.3f}"
                        f"{statistics.median(load.rate for load in many[ours]):>15,.0f}"
                        f"{statistics.median(load.rate for load in many[other]):>15,.0f}"
                        f"{ratio:>8.2f} ({min(ratios):.2f}..{max(ratios):.2f}){cpu:>10.2f}"
                        f"   {'met' if p50 < GOAL_P50_MS and ratio >= GOAL_RATIO else 'NOT MET'}",
                        flush=True,
                    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="a .gguf file or a catalogue name; may be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bare(options.bare)
        return
    for model in options.model or ["all-minilm-l6-v2"]:
        print(f"\n{model}, goals: p50 under {GOAL_P50_MS} ms, ratio at least {GOAL_RATIO}")
        measure(model, rounds=options.rounds, seconds=options.seconds)


if __name__ == "__main__":
    main()
