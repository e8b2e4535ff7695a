"""Installs models while the server runs, with `edgeembed pull` in child processes.

So the memory that a conversion takes, the long calls in which it keeps other threads waiting, and a crash do not touch the
daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field

import msgspec

from edgeembed.common.program import command
from edgeembed.common.pull_lines import PullLine
from edgeembed.config.secrets import HUB_TOKENS, without_secrets
from edgeembed.config.settings import Settings

log = logging.getLogger(__name__)

MOST_AT_ONCE = 2
"""Further pulls wait, so that no client fills the machine with processes."""
STOP_SECONDS = 5.0
"""After which a pull that was interrupted is killed."""
NICENESS = 10
"""A conversion computes for minutes; requests go first."""
_line_decoder = msgspec.json.Decoder(PullLine)


@dataclass(eq=False)
class _Pull:
    """A running pull, and the queues of those who follow it. latest: the last line, for who joins later."""

    followers: set[asyncio.Queue[PullLine]] = field(default_factory=set)
    latest: PullLine | None = None
    task: asyncio.Task[None] = field(init=False)

    def put(self, line: PullLine) -> None:
        """Send a line to all followers."""
        self.latest = line
        for queue in self.followers:
            queue.put_nowait(line)


class Pulls:
    """The running pulls, one for each name. Everything runs on one event loop."""

    def __init__(self, settings: Settings) -> None:
        """settings: those of the daemon, which the pulls have, too."""
        self._environment = _environment(settings, os.environ)
        self._running: dict[str, _Pull] = {}
        self._places = asyncio.Semaphore(MOST_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        """Of the running pulls, and of those that are being interrupted."""

    async def follow(self, spec: str) -> AsyncGenerator[PullLine, None]:
        """Pull a model, or join the pull of it, and yield what `edgeembed pull --json` prints; the last line is a result.

        The pull is interrupted when nobody follows it any more; the next one resumes its downloads.
        """
        pull = self._running.get(spec.lower())
        if pull is None:
            pull = self._running[spec.lower()] = _Pull()
            pull.task = asyncio.create_task(self._run(spec, pull), name=_task_name(spec))
            self._tasks.add(pull.task)
            pull.task.add_done_callback(self._tasks.discard)
        queue: asyncio.Queue[PullLine] = asyncio.Queue()
        pull.followers.add(queue)
        try:
            if pull.latest is not None:
                yield pull.latest
            while True:
                line = await queue.get()
                yield line
                if line.installed or line.error:
                    return
        finally:
            pull.followers.discard(queue)
            if not pull.followers:
                self._forget(spec, pull)
                pull.task.cancel()

    async def ended(self, spec: str) -> None:
        """Wait until the process of a pull that nobody follows any more has ended."""
        tasks = [task for task in self._tasks if task.get_name() == _task_name(spec) and task.cancelling()]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Interrupt all pulls, and wait until their processes have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            if not task.cancelling():  # a second time would leave its process behind
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, spec: str, pull: _Pull) -> None:
        if self._running.get(spec.lower()) is pull:
            del self._running[spec.lower()]

    async def _run(self, spec: str, pull: _Pull) -> None:
        """Run the process, and send its lines to the followers; the last one is a result, whatever happens."""
        result = PullLine(error="the server is stopping")
        try:
            if self._places.locked():
                pull.put(PullLine(message="waiting for other pulls", waits=True))
            async with self._places:
                result = await self._result(spec, pull)
        except OSError as error:
            result = PullLine(error=f"edgeembed pull cannot be started: {error.strerror}")
        except (msgspec.DecodeError, ValueError):
            result = PullLine(error="edgeembed pull printed something that is no line of its own")
        finally:
            self._forget(spec, pull)
            pull.put(result)

    async def _result(self, spec: str, pull: _Pull) -> PullLine:
        # Its messages come as JSON; what other software prints must not get into the daemon's log.
        process = await asyncio.create_subprocess_exec(
            *command("pull", "--json", "--", spec),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=self._environment,
        )
        try:
            _make_nice(process.pid)
            assert process.stdout is not None
            async for raw in process.stdout:
                line = _line_decoder.decode(raw)
                if line.installed or line.error:
                    await _gone(process)
                    return line
                pull.put(line)
            status = await process.wait()
            return PullLine(error=f"edgeembed pull ended with status {status}; run it in a terminal to see why")
        finally:
            await _end(process)


def _task_name(spec: str) -> str:
    return f"pull {spec.lower()}"


async def _end(process: asyncio.subprocess.Process) -> None:
    """Interrupt a process that still runs, as Ctrl-C does; kill it if it runs on."""
    for stop in (_interrupt, asyncio.subprocess.Process.kill):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                stop(process)
            await _gone(process)


async def _gone(process: asyncio.subprocess.Process) -> None:
    """Wait until a process has ended, for a while."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()


def _interrupt(process: asyncio.subprocess.Process) -> None:
    if sys.platform == "win32":
        process.terminate()
    else:
        process.send_signal(signal.SIGINT)


def _make_nice(pid: int) -> None:
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # it has ended
            os.setpriority(os.PRIO_PROCESS, pid, NICENESS)


def _environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a pull: no key of this server, the hub's token, and the settings that flags may have set."""
    tokens = {name: environ[name] for name in HUB_TOKENS if name in environ}
    chosen = {
        "EDGEEMBED_OFFLINE": str(settings.offline).lower(),
        "EDGEEMBED_SANDBOX": settings.sandbox,
        "EDGEEMBED_HUB_TIMEOUT": str(settings.hub_timeout),
    }
    return {**without_secrets(environ), **tokens, **chosen}
