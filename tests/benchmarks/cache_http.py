"""What a hit costs over HTTP: the daemon against a bare aiohttp handler that returns the same bytes, in turns, in one run.

The daemon is measured twice: by its fast path (edgeembed/server/fast_path.py), and by the application, as without one.

    python tests/benchmarks/cache_http.py --model model.gguf

Both run on uvloop where it exists, each in a separate process; the daemon has everything on that a user has. The driver is
`wrk` (Debian: `apt install wrk`), one thread. It prints the medians over the rounds: p50 with one client, requests/s with
32, and their ratio to the bare handler's of the same round, whose spread shows how quiet the machine was. "CPU ratio"
compares the processor time that a request takes in each server; it remains valid on a busy machine.
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
from edgeembed.server.body import CACHE_HEADER
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


def write_script(path: Path, body: bytes, **headers: str) -> Path:
    """Write a script for wrk that posts a body."""
    lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in {"Content-Type": "application/json", **headers}.items()]
    path.write_text("\n".join(['wrk.method = "POST"', *lines, f"wrk.body = [==[{body.decode()}]==]"]) + "\n")
    return path


def measure(model: str, *, rounds: int, seconds: float) -> None:
    """Print the table for one model."""
    print(
        f"{'encoding':<10}{'bytes':>8}  {'answered by':<12}{'p50 ms, 1':>11}{'requests/s, 32':>16}"
        f"{'ratio to bare':>21}{'CPU ratio':>11}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with running("--model", model, home=folder / "home") as daemon:
            for encoding in ("float", "base64"):
                body = json.dumps({"input": TEXT, "encoding_format": encoding}).encode()
                post(daemon.url, body)
                answer, said = post(daemon.url, body)
                assert said == "hit", said
                plain = write_script(folder / "plain.lua", body)
                # A request with this header is left to the application, which finds the same row in the cache.
                header = write_script(folder / "header.lua", body, **{CACHE_HEADER: "on"})
                with bare_server(answer, folder) as bare:
                    ours = (daemon.url, psutil.Process(daemon.process.pid))
                    targets = {"fast path": (ours, plain), "application": (ours, header), "bare": (bare, plain)}
                    loads = _in_turns(targets, rounds, seconds)
                for name in targets:
                    _print_row(encoding, len(answer), name, loads)


def _in_turns(targets: dict[str, tuple[Server, Path]], rounds: int, seconds: float) -> dict[tuple[str, int], list[Load]]:
    """Return the loads by name and number of clients, one of each a round."""
    for server, script in targets.values():
        wrk(server, script, 32, 1)
    loads: dict[tuple[str, int], list[Load]] = {}
    for _ in range(rounds):
        for clients in (1, 32):
            for name, (server, script) in targets.items():
                loads.setdefault((name, clients), []).append(wrk(server, script, clients, seconds))
    return loads


def _print_row(encoding: str, size: int, name: str, loads: dict[tuple[str, int], list[Load]]) -> None:
    pairs = list(zip(loads[name, 32], loads["bare", 32], strict=True))
    ratios = [mine.rate / bare.rate for mine, bare in pairs]
    p50, ratio = statistics.median(load.p50 for load in loads[name, 1]), statistics.median(ratios)
    verdict = "" if name != "fast path" else "met" if p50 < GOAL_P50_MS and ratio >= GOAL_RATIO else "NOT MET"
    print(
        f"{encoding:<10}{size:>8,}  {name:<12}{p50:>11.3f}{statistics.median(mine.rate for mine, _ in pairs):>16,.0f}"
        f"{ratio:>8.2f} ({min(ratios):.2f}..{max(ratios):.2f})"
        f"{statistics.median(bare.cpu / mine.cpu for mine, bare in pairs):>11.2f}   {verdict}",
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
