"""A daemon to measure: on a free port, with its own home folder, and always stopped at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgeembed.common.trace import VARIABLE as TRACE
from edgeembed.config.file import write_setting
from edgeembed.config.paths import HOME_VARIABLE
from edgeembed.config.resolution import Resolved
from edgeembed.config.secrets import ENV_PREFIX
from edgeembed.diagnostics.bench.load import Client
from edgeembed.errors import EngineUnavailableError

STOP_SECONDS = 15.0
SAMPLE_SECONDS = 0.2

# Settings that affect speed and limits. The address, keys and other models do not concern a daemon for measuring.
_COPIED = (
    "threads",
    "context_tokens",
    "batch_tokens",
    "load_timeout",
    "cache_memory_mib",
    "cache_disk_mib",
    "clean_text",
    "max_queue_tokens",
    "max_body_mib",
    "request_timeout",
    "offline",
)


@dataclass
class PeakMemory:
    """Highest resident memory of all samples, in bytes, including pages of the mapped model file."""

    daemon: int = 0
    workers: int = 0


@dataclass(frozen=True)
class OwnDaemon:
    """A running daemon."""

    url: str
    memory: PeakMemory


@contextlib.asynccontextmanager
async def own_daemon(
    resolved: Resolved, model: Path, *, cache: bool, memory: PeakMemory | None = None, trace: Path | None = None
) -> AsyncIterator[OwnDaemon]:
    """Run `edgeembed serve` with a model file and the user's settings; yield it once it is ready, and stop it afterwards.

    What is known about this machine (failed execution modes, run profiles) is copied, the cache is not. memory: updated with
    the peak, so that several daemons can share one. trace: a folder for the stamps of `common.trace`. Raises
    EngineUnavailableError when the daemon does not become ready.
    """
    memory = PeakMemory() if memory is None else memory
    with tempfile.TemporaryDirectory(prefix="edgeembed-bench-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        _prepare_home(home, resolved)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "edgeembed", "serve"),
            *("--model", str(model), "--host", "127.0.0.1", "--port", "0", "--cache" if cache else "--no-cache"),
            *("--log-level", "warning"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=home,
            env=_environment(home, trace),
        )
        log: deque[str] = deque(maxlen=20)
        listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        listener = asyncio.create_task(_listen(process, log, listening))
        watcher: asyncio.Task[None] | None = None
        try:
            try:
                async with asyncio.timeout(resolved.settings.load_timeout + 60):
                    url = await listening
                    pid = await _ready(process, url)
            except (TimeoutError, ChildProcessError, EngineUnavailableError) as error:
                raise EngineUnavailableError(f"the daemon to be measured did not start:\n{_tail(log)}") from error
            watcher = asyncio.create_task(_watch(pid, memory))
            yield OwnDaemon(url, memory)
        finally:
            if watcher:
                watcher.cancel()
            await _stop(process)
            listener.cancel()


def _prepare_home(home: Path, resolved: Resolved) -> None:
    """Write the settings in force and the state of this machine to a home folder."""
    for name, origin in resolved.origins.items():
        if origin != "default" and name in _COPIED:
            write_setting(home / "config.toml", name, getattr(resolved.settings, name))
    if resolved.paths.state.is_dir():
        shutil.copytree(resolved.paths.state, home / "state", dirs_exist_ok=True)


def _environment(home: Path, trace: Path | None) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    return {**ours, HOME_VARIABLE: str(home), "PYTHONUNBUFFERED": "1", **({TRACE: str(trace)} if trace else {})}


async def _listen(process: asyncio.subprocess.Process, log: deque[str], listening: asyncio.Future[str]) -> None:
    """Read the daemon's log until it ends, because a full pipe would block it; set its address when it listens."""
    assert process.stderr is not None
    while line := await process.stderr.readline():
        text = line.decode("utf-8", "replace").rstrip()
        log.append(text)
        if not listening.done() and (found := re.search(r"listens on (http://[^\s,]+)", text)):
            listening.set_result(found[1])
    await process.wait()
    if not listening.done():
        listening.set_exception(ChildProcessError("it ended"))


async def _ready(process: asyncio.subprocess.Process, url: str) -> int:
    """Wait until the daemon can embed and return its process id; on Windows the started process is a launcher."""
    async with Client(url) as client:
        while (await client.get("health"))[0] != 200:
            if process.returncode is not None:
                raise ChildProcessError("it ended")
            await asyncio.sleep(0.05)
        _, status, _ = await client.get("v1/status")
        return int(status.get("pid", process.pid))


async def _watch(pid: int, memory: PeakMemory) -> None:
    """Sample the memory of the daemon and of its workers."""
    while True:
        with contextlib.suppress(psutil.Error):  # a worker may end meanwhile
            daemon = psutil.Process(pid)
            memory.daemon = max(memory.daemon, daemon.memory_info().rss)
            workers = sum(child.memory_info().rss for child in daemon.children(recursive=True))
            memory.workers = max(memory.workers, workers)
        await asyncio.sleep(SAMPLE_SECONDS)


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Terminate the daemon and its children; kill them on a timeout or a second interrupt."""
    children: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
    try:
        if process.returncode is None:
            process.terminate()
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
    except (TimeoutError, ProcessLookupError):
        pass
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()


def _tail(log: deque[str]) -> str:
    return "\n".join(f"  {line}" for line in log) or "  (no output)"
