"""Measure the processor time that HAProxy takes for a request, with installers/several/haproxy.cfg: input `haproxy_us`.

    python -m tests.benchmarks.scale.measure_balancer [--requests 20000]

The boxes are one process that answers with a row's JSON without computing. Requests of one text of 10 words, 32 connections
that stay open. Processor time tolerates other work on the machine, rates do not. Needs haproxy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import aiohttp
import psutil
from aiohttp import web

from edgeembed.diagnostics.bench.texts import TextMaker
from tests.ports import free_port

CONFIG = Path(__file__).parents[3] / "installers" / "several" / "haproxy.cfg"
ANSWER = json.dumps({"data": [{"embedding": [round(0.0123456789 * each, 9) for each in range(384)]}]})
CONNECTIONS = 32


def serve(port: int) -> None:
    """Answer every request with the same row."""

    async def row(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text=ANSWER, content_type="application/json")

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", row)
    web.run_app(application, host="127.0.0.1", port=port, print=lambda *_: None)


async def load(url: str, requests: int) -> None:
    """Send requests over connections that stay open, each when the one before is answered."""
    texts = iter(TextMaker(1).texts(requests, 10))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:

        async def client() -> None:
            for text in texts:
                async with session.post(f"{url}/v1/embeddings", json={"input": text}) as response:
                    response.raise_for_status()
                    await response.read()

        await asyncio.gather(*(client() for _ in range(CONNECTIONS)))


async def answering(url: str) -> None:
    """Wait until the balancer has an answer."""
    async with aiohttp.ClientSession() as session:
        for _ in range(100):
            try:
                async with session.get(f"{url}/readyz") as response:
                    if response.ok:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise SystemExit("the balancer does not answer")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    chosen = parser.parse_args()
    box, front = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "haproxy.cfg"
        text = re.sub(r"(server box\d) \S+", rf"\1 127.0.0.1:{box}", CONFIG.read_text(encoding="utf-8"))
        config.write_text(text.replace(":8327", f":{front}"), encoding="utf-8")
        server = multiprocessing.Process(target=serve, args=(box,), daemon=True)
        server.start()
        environment = os.environ | {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin"}
        balancer = subprocess.Popen(["haproxy", "-db", "-f", str(config)], env=environment, stderr=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{front}"
        try:
            asyncio.run(answering(url))
            asyncio.run(load(url, 1000))
            before, began = psutil.Process(balancer.pid).cpu_times(), time.monotonic()
            asyncio.run(load(url, chosen.requests))
            after, wall = psutil.Process(balancer.pid).cpu_times(), time.monotonic() - began
        finally:
            balancer.kill()
            balancer.wait()
            server.kill()
            server.join()
    busy = after.user + after.system - before.user - before.system
    each, rate = 1e6 * busy / chosen.requests, chosen.requests / wall
    print(f"{each:.1f} us of HAProxy's processor time a request; {rate:,.0f} requests/s")


if __name__ == "__main__":
    main()
