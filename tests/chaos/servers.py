"""The daemons, their small disk, their clock, and the server from which one of them has its vectors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.ports import free_port
from tests.waiting import until_async

START_SECONDS = 120.0
DISK_BYTES = 64 * 2**20

# The daemon, whose workers' next computations are NaN after each SIGUSR1, as on a card with a broken memory.
BREAKABLE = """
import signal, sys
from edgeembed.engine.llama.context import Context
from edgeembed.engine.worker import main as worker
left = 0
def break_(number, frame):
    global left
    left = 3
signal.signal(signal.SIGUSR1, break_)
compute = Context.compute
def sometimes_nan(self, *arguments, **more):
    global left
    rows = compute(self, *arguments, **more)
    if left:
        left -= 1
        rows[:] = float("nan")
    return rows
Context.compute = sometimes_nan
sys.exit(worker.main(sys.argv))
"""
DAEMON = f"""
import sys
from edgeembed.engine.supervisor import process
process.WORKER_COMMAND = (sys.executable, "-P", "-c", {BREAKABLE!r})
from edgeembed.cli.main import main
sys.argv[0] = "edgeembed"
main()
"""


class Clock:
    """The wall clock of the daemons. Needs a C compiler."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self._file.write_bytes(struct.pack("q", 0))
        self.library = folder / "clock.so"
        source = Path(__file__).with_name("clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(self.library), str(source), "-ldl"], check=True)

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "CHAOS_CLOCK": str(self._file)}

    def move(self, seconds: int) -> None:
        """Let the clock be ahead by so many seconds."""
        with self._file.open("r+b") as file:  # in place: the daemons have it mapped
            file.write(struct.pack("q", seconds))


class Disk:
    """A file system of 64 MiB for what the daemons write. Needs root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "edgeembed-chaos", str(folder)],
            check=True,
            capture_output=True,
        )

    def fill(self) -> None:
        with contextlib.suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while file.write(bytes(2**16)):
                pass

    def empty(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=False)


class Server:
    """A daemon that keeps its port when it is killed and started again."""

    def __init__(self, name: str, home: Path, flags: list[str], environment: dict[str, str]) -> None:
        self.name = name
        self.port = free_port()
        self.log = home.parent / f"{name}.log"
        home.mkdir(parents=True, exist_ok=True)
        variables = {key: value for key, value in os.environ.items() if not key.startswith("EDGEEMBED_")}
        self._environment = variables | {"EDGEEMBED_HOME": str(home), **environment}
        self._flags = [*flags, "--port", str(self.port)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, session: aiohttp.ClientSession) -> None:
        """Start it and wait until it is healthy."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", DAEMON, "serve", *self._flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=self._environment,
            )
        end = time.monotonic() + START_SECONDS
        while not await self._is_healthy(session):
            assert time.monotonic() < end, f"the {self.name} daemon is not healthy after {START_SECONDS:g} s; see {self.log}"
            await asyncio.sleep(0.1)  # between two requests

    async def _is_healthy(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"{self.url}/health", timeout=aiohttp.ClientTimeout(total=10)) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def status(self, session: aiohttp.ClientSession) -> dict[str, Any]:
        async with session.get(f"{self.url}/v1/status", timeout=aiohttp.ClientTimeout(total=10)) as response:
            found: dict[str, Any] = await response.json()
            return found

    def signal(self, number: int) -> None:
        """Send a signal to the daemon itself."""
        assert self._process is not None
        self._process.send_signal(number)

    async def worker(self) -> psutil.Process:
        """Return the process that computes; waits until there is one."""

        def found() -> list[psutil.Process]:
            assert self._process is not None
            children = psutil.Process(self._process.pid).children()
            with contextlib.suppress(psutil.NoSuchProcess):
                return [child for child in children if "sometimes_nan" in " ".join(child.cmdline())]
            return []

        return (await until_async(found, 60.0))[-1]

    def kill(self) -> None:
        """Kill the daemon and what is left of it."""
        if self._process is None:
            return
        left = psutil.Process(self._process.pid).children(recursive=True) if self._process.poll() is None else []
        self._process.kill()
        self._process.wait(20)
        for child in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
