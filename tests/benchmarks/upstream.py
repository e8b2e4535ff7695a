"""A daemon in front of a llama-server that is killed and restarted under load: failed requests, wrong vectors.

    python -m tests.benchmarks.upstream --llama-server PATH --gguf PATH [--pooling mean] [--kills 3] [--away 2] [--wait 20]
        [--fallback PATH]

No vector may be wrong. No request may fail either if there is a fall-back, or if `--away` and the time that llama-server
takes to load stay below `--wait`. `python -m tests.benchmarks.compare setup --peers llama-server` builds llama-server.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tests.e2e.daemon import cosines, running
from tests.ports import free_port

CLIENTS = (1, 1, 1, 8, 16)
"""Texts of each client's requests."""
LEAST_COSINE = 0.99
CHECKED = 2000
QUERIES = 50
LOAD_SECONDS = 5.0
"""Before each kill, and behind the last one."""


def main() -> None:
    options = _options()
    port = free_port()
    command = [options.llama_server, "-m", options.gguf, "--embeddings", "--pooling", options.pooling, "-np", "8"]
    command += ["--host", "127.0.0.1", "--port", str(port), "-b", "512", "-ub", "512", "-c", "4096"]
    url = f"http://127.0.0.1:{port}/v1"
    flags = ["--upstream", url, "--model", "far", "--no-cache", "--upstream-wait", str(options.wait)]
    flags += ["--upstream-fallback", options.fallback] if options.fallback else []
    found: list[tuple[float, int, list[str], Any]] = []
    stop = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        server = _start(command)
        try:
            with running(*flags, home=home) as daemon, ThreadPoolExecutor(len(CLIENTS)) as threads:
                for name, at in (("through us", f"{daemon.url}/v1"), ("upstream itself", url)):
                    print(f"a lone query, {name}: {_median_ms(at):.2f} ms (median of {QUERIES})")
                for number, texts in enumerate(CLIENTS):
                    threads.submit(_load, f"{daemon.url}/v1", number, texts, found, stop)
                for _ in range(options.kills):
                    time.sleep(LOAD_SECONDS)
                    server.kill()
                    server.wait()
                    time.sleep(options.away)
                    server = _start(command)
                    _wait_ready(url)
                time.sleep(LOAD_SECONDS)
                stop.set()
                threads.shutdown()
                print(json.dumps(daemon.get("/v1/status")[1]["upstream"]))
            _report(found, url)
        finally:
            stop.set()
            server.kill()


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _wait_ready(url: str) -> None:
    for _ in range(600):
        if _post(url, ["ready"])[0] == 200:
            return
        time.sleep(0.1)
    raise TimeoutError("llama-server does not start")


def _post(url: str, texts: list[str]) -> tuple[int, Any]:
    body = json.dumps({"model": "far", "input": texts}).encode()
    request = urllib.request.Request(f"{url}/embeddings", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            answer = json.load(response)
            return 200, np.array([item["embedding"] for item in answer["data"]], dtype=np.float32)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def _load(url: str, client: int, texts: int, found: list[tuple[float, int, list[str], Any]], stop: threading.Event) -> None:
    turn = 0
    while not stop.is_set():
        asked = [f"client {client} asks for number {n} in turn {turn} about rain and rivers" for n in range(texts)]
        began = time.monotonic()
        status, answer = _post(url, asked)
        found.append((time.monotonic() - began, status, asked, answer))
        turn += 1


def _median_ms(url: str) -> float:
    seconds = []
    for number in range(QUERIES):
        began = time.perf_counter()
        _post(url, [f"what is the weather like in town {number}"])
        seconds.append(time.perf_counter() - began)
    return 1000 * float(np.median(seconds))


def _report(found: list[tuple[float, int, list[str], Any]], url: str) -> None:
    failed = [answer for _, status, _, answer in found if status != 200]
    texts = [text for _, status, asked, _ in found if status == 200 for text in asked][:CHECKED]
    rows = np.concatenate([answer for _, status, _, answer in found if status == 200])[:CHECKED]
    truth = np.concatenate([_post(url, texts[at : at + 64])[1] for at in range(0, len(texts), 64)])
    least = cosines(rows, truth)
    print(
        f"{len(found)} requests, {len(failed)} failed, the longest took {max(took for took, *_ in found):.1f} s; of "
        f"{len(texts)} texts checked {int((least < LEAST_COSINE).sum())} have a wrong vector, least cosine {least.min():.6f}"
    )
    for answer in failed[:3]:
        print(f"  {answer}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--llama-server", required=True)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--pooling", default="mean")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--away", type=float, default=2.0)
    parser.add_argument("--wait", type=float, default=20.0)
    parser.add_argument("--fallback")
    return parser.parse_args()


if __name__ == "__main__":
    main()
