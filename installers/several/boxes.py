"""Daemons and balancers for check.py: processes, and the configurations in this folder with changed addresses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import aiohttp

HERE = Path(__file__).parent
RETURN_SECONDS = 5
"""Replaces `slowstart 30s` of haproxy.cfg; similar to nginx's fail_timeout."""


def free_ports(number: int) -> list[int]:
    """Return unused ports."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Box:
    """One daemon with its own home, restarted on the same port."""

    def __init__(self, number: int, port: int, model: Path, work: Path, threads: int) -> None:
        self.name, self.port = f"box{number}", port
        self._home, self._log = work / self.name, work / f"{self.name}.log"
        self._flags = ["--model", str(model), "--port", str(port), "--threads", str(threads), "--offline"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it in its own process group."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGEEMBED_")}
        command = [sys.executable, "-m", "edgeembed", "serve", *self._flags]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env={**kept, "EDGEEMBED_HOME": str(self._home)}, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """Kill daemon and worker with SIGKILL, as a power cut would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    async def ready(self, session: aiohttp.ClientSession, seconds: float = 180.0) -> None:
        """Wait until /readyz returns 200. Raises RuntimeError with the end of the log."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{self.port}/readyz") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)
        raise RuntimeError(f"{self.name} is not ready:\n{self._log.read_text()[-2000:]}")


def configuration(kind: str, hashed: bool, boxes: Sequence[Box], port: int, other_port: int) -> str:
    """Return this folder's configuration with changed addresses; round robin unless `hashed`."""
    text = (HERE / ("haproxy.cfg" if kind == "haproxy" else "nginx.conf")).read_text(encoding="utf-8")
    for box in boxes:
        text = text.replace(f"{box.name}:8327", f"127.0.0.1:{box.port}")
    unused = r"^ *server box\d+(:| box\d+:).*\n"  # fewer boxes than the configuration has
    text = re.sub(unused, "", text, flags=re.MULTILINE)
    # The listening address may be the default of a variable, followed by a brace.
    text = re.sub(r"(127\.0\.0\.1}?):8327", rf"\g<1>:{port}", text).replace(":8404", f":{other_port}")
    text = text.replace("slowstart 30s", f"slowstart {RETURN_SECONDS}s")
    if not hashed:
        text = re.sub(r"^ *(hash|hash-type) .*\n", "", text, flags=re.MULTILINE)
        text = text.replace("balance hash var(txn.key)", "balance roundrobin")
    return text


@contextlib.contextmanager
def balancer(kind: str, hashed: bool, boxes: Sequence[Box], work: Path, programs: dict[str, str]) -> Iterator[str]:
    """Run HAProxy or nginx in front of the boxes; yield its base URL."""
    port, other_port = free_ports(2)
    file = work / f"{kind}.conf"
    file.write_text(configuration(kind, hashed, boxes, port, other_port), encoding="utf-8")
    command = [programs[kind], "-db", "-f", str(file)]
    if kind == "nginx":
        main = work / "nginx-main.conf"
        # As root, nginx would switch to a user who cannot write to this folder.
        user = "user root;" if os.geteuid() == 0 else ""
        main.write_text(
            f"{user} daemon off; pid {work}/nginx.pid; error_log {work}/nginx.log; events {{}}\n"
            f"http {{ access_log off; client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; include {file};\n"
            f"fastcgi_temp_path {work}/f; uwsgi_temp_path {work}/u; scgi_temp_path {work}/s; }}\n",
            encoding="utf-8",
        )
        command = [programs[kind], "-c", str(main), "-p", str(work), "-e", f"{work}/nginx.log"]
    with (work / f"{kind}.out").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(15)


async def answering(session: aiohttp.ClientSession, url: str) -> None:
    """Wait until the balancer forwards requests."""
    for _ in range(200):
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(f"{url}/readyz") as answer:
                if answer.status == 200:
                    return
        await asyncio.sleep(0.1)
    raise RuntimeError("the balancer does not forward requests")
