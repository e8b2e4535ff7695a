"""Servers and loops in separate processes: start, wait until they answer, freeze while others are measured, end."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import psutil

from tests.benchmarks.driver import Job, Outcome

ROOT = Path(__file__).parents[2]
START_SECONDS = 300.0


class Running:
    """A started process and everything that it started."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path, *, pipes: bool = False
    ) -> None:
        """Start it. log: the file for its output. pipes: its standard input and output are ours."""
        self.name = name
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else out,
                stderr=out,
                env={**os.environ, **environment},
                cwd=log.parent,
            )

    def cache_hits(self) -> int:
        """Return how many texts its cache has answered so far."""
        return 0

    def freeze(self) -> None:
        """Stop all its processes, so that they take nothing from the one that is measured."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        """Resume it."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def end(self) -> None:
        """Kill it and everything that it started."""
        family = self._family()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=10)

    @property
    def resident_bytes(self) -> int:
        """Resident memory now, pages of mapped files included."""
        total = 0
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def failure(self, what: str) -> RuntimeError:
        """Make an error that quotes the end of its log."""
        with contextlib.suppress(OSError):
            what += "\n" + "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
        return RuntimeError(f"{self.name}: {what}")

    def _family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        return []


class Server(Running):
    """One that answers /v1/embeddings."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        port: int,
        body: Mapping[str, Any],
        query_body: Mapping[str, Any] | None = None,
    ) -> None:
        """Start. body: fields that every request carries beside the texts. query_body: fields that make the server put the
        model's own instruction in front of the texts; without them the driver does it.
        """
        super().__init__(name, command, environment, log)
        self.port = port
        self._body = dict(body)
        self._query_body = query_body

    def wait(self) -> None:
        """Wait until it embeds a text. Raises RuntimeError when it ends, or takes too long."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise self.failure(f"ended with status {self.process.returncode} while starting")
            with contextlib.suppress(OSError, urllib.error.URLError):
                self.embed(["hello"])
                return
            time.sleep(0.2)
        raise self.failure(f"does not answer after {START_SECONDS:g} s")

    def embed(self, texts: Sequence[str], **fields: Any) -> list[list[float]]:
        """Embed texts and return their rows. fields: further ones of the request. Raises OSError."""
        body = json.dumps({"input": list(texts), **self._body, **fields}).encode()
        url = f"http://127.0.0.1:{self.port}/v1/embeddings"
        request = urllib.request.Request(url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as response:
            return [item["embedding"] for item in json.load(response)["data"]]

    def do(self, job: Job) -> tuple[dict[str, Outcome], float]:
        """Send a load from a driver in a separate process; return the outcomes and the driver's processor seconds."""
        body = self._body
        if self._query_body is not None and any(group.prefix for group in job.groups):
            job = replace(job, groups=tuple(replace(group, prefix="") for group in job.groups))
            body = {**body, **self._query_body}
        job = replace(job, port=self.port, body=body)
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.driver"],
            input=json.dumps(asdict(job)),
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        if done.returncode:
            raise self.failure(done.stderr.strip()[-800:])
        return _read(done.stdout)


class Loop(Running):
    """One that takes jobs on its standard input; see raw_peer."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        super().__init__(name, command, environment, log, pipes=True)

    def wait(self) -> None:
        """Wait until the model is loaded. Raises RuntimeError when the process ends instead."""
        self._answer()

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed texts and return their rows."""
        rows: list[list[float]] = json.loads(self._ask({"embed": list(texts)}))["rows"]
        return rows

    def do(self, job: Job) -> tuple[dict[str, Outcome], float]:
        """Do a job inside the process."""
        return _read(self._ask(asdict(job)))

    def _ask(self, asked: Mapping[str, Any]) -> str:
        pipe: IO[bytes] | None = self.process.stdin
        assert pipe is not None
        pipe.write(json.dumps(asked).encode() + b"\n")
        pipe.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line: bytes = self.process.stdout.readline()
        if not line:
            raise self.failure("ended")
        return line.decode()


def _read(raw: str) -> tuple[dict[str, Outcome], float]:
    found = json.loads(raw)
    return {name: Outcome(**outcome) for name, outcome in found["outcomes"].items()}, found["driver_seconds"]
