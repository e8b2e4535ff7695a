"""What a hit costs over HTTP: the daemon against a bare aiohttp handler that returns the same bytes, in turns, in one run.

    python tests/benchmarks/cache_http.py --model model.gguf

Both run on uvloop where it exists, each in a process of its own; the daemon has everything on that a user has. The driver is
`wrk` (Debian: `apt install wrk`), one thread. Printed are the medians over the rounds: p50 with one client, requests/s with
32, and the ratio of each round's pair, whose spread says how quiet the machine was.
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

sys.path.insert(0, str(Path(__file__).parents[2]))

from edgeembed.daemon import _loop_factory
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


@contextmanager
def bare_server(body: bytes, folder: Path) -> Iterator[str]:
    """Run `bare` in a process of its own and give its URL."""
    path = folder / "answer.json"
    path.write_bytes(body)
    process = subprocess.Popen([sys.executable, __file__, "--bare", str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


def post(url: str, body: bytes) -> tuple[bytes, str]:
    """Send one request; gives the answer and what the cache did."""
    request = urllib.request.Request(f"{url}/v1/embeddings", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read(), response.headers.get("X-Edgeembed-Cache", "")


def wrk(url: str, script: Path, clients: int, seconds: float) -> tuple[float, float]:
    """Load a server; gives the p50 in milliseconds, and requests/s. Raises RuntimeError when answers were errors."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--latency", "-s", str(script), f"{url}/v1/embeddings"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        raise RuntimeError(output)
    value, unit = re.search(r"50%\s+([\d.]+)(us|ms|s)", output).groups()  # type: ignore[union-attr]
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])  # type: ignore[index]
    return float(value) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit], rate


def measure(model: str, *, rounds: int, seconds: float) -> None:
    """Print the table for one model."""
    print(f"{'encoding':<10}{'bytes':>8}{'p50 ms, 1 client':>26}{'requests/s, 32 clients':>30}{'ratio':>22}")
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
                    f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = [==[{body.decode()}]==]\n'
                )
                with bare_server(answer, folder) as other:
                    wrk(daemon.url, script, 32, 1)
                    wrk(other, script, 32, 1)
                    single: dict[str, list[float]] = {daemon.url: [], other: []}
                    many: dict[str, list[float]] = {daemon.url: [], other: []}
                    for _ in range(rounds):
                        for url in (daemon.url, other):
                            single[url].append(wrk(url, script, 1, seconds)[0])
                        for url in (daemon.url, other):
                            many[url].append(wrk(url, script, 32, seconds)[1])
                    ratios = [ours / theirs for ours, theirs in zip(many[daemon.url], many[other], strict=True)]
                    p50, ratio = statistics.median(single[daemon.url]), statistics.median(ratios)
                    print(
                        f"{encoding:<10}{len(answer):>8,}{p50:>13.3f}{statistics.median(single[other]):>13.3f}"
                        f"{statistics.median(many[daemon.url]):>15,.0f}{statistics.median(many[other]):>15,.0f}"
                        f"{ratio:>8.2f} ({min(ratios):.2f}..{max(ratios):.2f})"
                        f"   {'met' if p50 < GOAL_P50_MS and ratio >= GOAL_RATIO else 'NOT MET'}"
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
