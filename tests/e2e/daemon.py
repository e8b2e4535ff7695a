"""A real daemon in its own process, started as users start it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from edgeembed.config.file import read_config
from tests.signals import listening_to_sigint

ROOT = Path(__file__).parents[2]
START_SECONDS = 120.0


class Daemon:
    """A running `edgeembed serve`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    @property
    def log(self) -> str:
        """The log so far."""
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, seconds: float = START_SECONDS) -> re.Match[str]:
        """Wait for a line of the log."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := re.search(pattern, self.log):
                return found
            if self.process.poll() is not None:
                self._reader.join(5)
                if found := re.search(pattern, self.log):
                    return found
                break
            time.sleep(0.02)  # the log comes in a thread
        raise AssertionError(f"no line like {pattern!r} (status {self.process.poll()}):\n{self.log}")

    @property
    def url(self) -> str:
        return self.wait_for(r"listens on (http://\S+),")[1]

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Return status and JSON body of a GET request."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def embed(self, texts: str | Sequence[str], seconds: float = 120, **more: Any) -> npt.NDArray[np.float32]:
        """Embed texts and return their rows, shape (texts, dimensions)."""
        body = json.dumps({"input": texts, **more}).encode()
        request = urllib.request.Request(f"{self.url}/v1/embeddings", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=seconds) as response:
            answer = json.load(response)
        assert [item["index"] for item in answer["data"]] == list(range(len(answer["data"])))
        return np.array([item["embedding"] for item in answer["data"]], dtype=np.float32)

    @property
    def worker_pid(self) -> int | None:
        """Process id of the current worker."""
        pid: int | None = self.get("/v1/status")[1]["engine"]["worker_pid"]
        return pid

    def wait_until_ok(self, seconds: float = START_SECONDS) -> dict[str, Any]:
        """Wait until /health is ok, and return its body."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            status, answer = self.get("/health")
            if status == 200:
                return answer
            time.sleep(0.05)  # between two requests
        raise AssertionError(f"/health stays at {answer}:\n{self.log}")

    def stop(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        status = self.process.wait(seconds)
        self._reader.join(5)
        return status


@contextmanager
def running(*flags: str, home: Path, ready: bool = True, **environment: str) -> Iterator[Daemon]:
    """Run `edgeembed serve` with flags; remaining processes are killed at the end.

    Without a port among the flags or in config.toml, the system chooses one.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith("EDGEEMBED_")}
    variables |= {"EDGEEMBED_HOME": str(home), "PYTHONUNBUFFERED": "1", **environment}
    if "--port" not in flags and "port" not in read_config(home / "config.toml"):
        flags = (*flags, "--port", "0")
    with listening_to_sigint():
        process = subprocess.Popen(
            [sys.executable, "-m", "edgeembed", "serve", *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=variables,
            cwd=home.parent,
        )
    daemon = Daemon(process)
    try:
        if ready:
            daemon.wait_for("ready: ")
        yield daemon
    finally:
        left = [process, *_children(process.pid)]
        for each in left:
            try:
                each.kill()
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        process.wait(10)


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def cosines(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the cosine of each pair of rows, shape (rows,)."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    result: npt.NDArray[np.float64] = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return result


def post(daemon: Daemon, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(daemon.url + path, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
