"""A real HAProxy with the chart's configuration, and a name server in place of the cluster's."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.installers.kubernetes_tools import of_kind, render
from tests.installers.name_server import NameServer
from tests.ports import free_port
from tests.waiting import until_async

HAPROXY = shutil.which("haproxy", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


def configuration(*values: str) -> str:
    """Return HAProxy's configuration for values of the chart."""
    return str(of_kind("ConfigMap", render(*values))["data"]["haproxy.cfg"])


def name_of(number: int) -> str:
    """Return the name of a box in the cluster's DNS."""
    return f"edgeembed-{number}.edgeembed-boxes.here.svc.cluster.local"


class Cluster:
    """Names of boxes, and balancers that ask for them. All boxes have the same port, and addresses of their own."""

    def __init__(self, folder: Path, configured: str) -> None:
        """configured: the chart's configuration of HAProxy; `folder` gets what is made of it, and logs."""
        self.folder, self.port = folder, free_port()
        self.names = NameServer()
        self.session = aiohttp.ClientSession()
        self._configured = configured
        self._name_port = 0
        self._stack = contextlib.ExitStack()

    async def start(self) -> None:
        """Start the name server."""
        self._name_port = await self.names.start()

    async def close(self) -> None:
        """End what was started."""
        self._stack.close()
        self.names.stop()
        await self.session.close()

    def balancer(self) -> Balancer:
        """Start HAProxy with the chart's configuration."""
        front, metrics = free_port(), free_port()
        text = self._configured
        for old, new in (
            ("parse-resolv-conf", f"nameserver test 127.0.0.1:{self._name_port}"),
            ("bind :8327", f"bind 127.0.0.1:{front}"),
            ("bind :8404", f"bind 127.0.0.1:{metrics}"),
            (".svc.cluster.local:8327", f".svc.cluster.local:{self.port}"),
            (" slowstart 30s", ""),  # it would be half a minute until a box has all of its texts
            ("hold nx 3s", "hold nx 1s"),
        ):
            assert old in text
            text = text.replace(old, new)
        file = self.folder / f"{front}.cfg"
        file.write_text(text, encoding="utf-8")
        self._stack.enter_context(_running(file))
        return Balancer(f"http://127.0.0.1:{front}", f"http://127.0.0.1:{metrics}", self.session)


@contextlib.contextmanager
def _running(file: Path) -> Iterator[None]:
    with file.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen([str(HAPROXY), "-db", "-f", str(file)], stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@dataclass
class Balancer:
    """A running HAProxy."""

    url: str
    metrics: str
    session: aiohttp.ClientSession

    async def ask(self, body: bytes, **headers: str) -> int:
        """Return the number of the box that answered."""
        head = {"Content-Type": "application/json", **headers}
        async with self.session.post(f"{self.url}/v1/embeddings", data=body, headers=head) as answer:
            assert answer.status == 200, f"{answer.status} {await answer.text()}"
            return int((await answer.json())["box"])

    async def homes(self, texts: list[str]) -> dict[str, int]:
        """Return the box of each text."""
        return {text: await self.ask(json.dumps({"input": text}).encode()) for text in texts}

    def up(self) -> set[int]:
        """Return the boxes to which it sends requests."""
        try:
            with urllib.request.urlopen(f"{self.metrics}/metrics", timeout=5) as answer:
                found = re.findall(
                    r'haproxy_server_status\{.*server="edgeembed-(\d+)",state="UP"\} 1', answer.read().decode()
                )
        except OSError:  # it has not started yet
            return set()
        return {int(number) for number in found}

    async def until_up(self, numbers: set[int]) -> None:
        """Wait until exactly these boxes are up."""
        await until_async(lambda: self.up() == numbers, interval=0.05)
