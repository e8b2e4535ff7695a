"""Downloads that the daemon's owner starts: they go on while nobody watches, can be paused, and are remembered.

A pull of a client, as of Ollama's route, ends when the client disconnects. These are followed by the server itself, until
they are done, paused or cancelled. What was fetched stays on the disk meanwhile; a pull that goes on resumes it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edgeembed.common.admin_status import PullStatus
from edgeembed.common.files import read_json_or_warn, write_json
from edgeembed.common.pull_lines import PullLine
from edgeembed.errors import HubError, ModelNotFoundError
from edgeembed.server.pulls import Pulls

log = logging.getLogger(__name__)

FILE = "pulls.json"
FORGET_SECONDS = 600.0
"""After which a pull that is done or failed is no longer listed."""
SPEED_SECONDS = 5.0
"""The speed of a download is that of so many last seconds."""
_OVER = ("failed", "done")


@dataclass(eq=False)
class _Owned:
    """A pull of the owner. task: follows it; None if it is paused or over."""

    spec: str
    state: str = "waiting"
    line: PullLine = field(default_factory=PullLine)
    message: str = ""
    error: str | None = None
    installed: str | None = None
    ended_at: float = 0.0
    task: asyncio.Task[None] | None = None
    seen: deque[tuple[float, int]] = field(default_factory=deque)
    """The latest steps of the same work: a time, and the bytes done by then."""

    def put(self, line: PullLine, now: float) -> None:
        """Take a line of progress."""
        if line.message:
            self.message = line.message
            self.state = "waiting" if line.waits else "running"
            return
        self.state = "running"
        if line.what != self.line.what or line.done < self.line.done:
            self.seen.clear()
        self.line = line
        self.seen.append((now, line.done))
        while len(self.seen) > 2 and now - self.seen[0][0] > SPEED_SECONDS:
            self.seen.popleft()

    def speed(self, now: float) -> float | None:
        """Return the bytes per second; None if it is not running, or there is too little to measure."""
        if self.state != "running" or len(self.seen) < 2:
            return None
        (began, before), (_, done) = self.seen[0], self.seen[-1]
        return (done - before) / (now - began) if now - began >= 0.2 else None

    def describe(self, now: float) -> PullStatus:
        """Return what the owner sees of it."""
        return PullStatus(
            spec=self.spec,
            state=self.state,
            message=self.message,
            what=self.line.what,
            done_bytes=self.line.done,
            total_bytes=self.line.total,
            bytes_per_second=self.speed(now),
            error=self.error,
            installed=self.installed,
        )


class _Remembered(msgspec.Struct):
    """A pull that was not over when the daemon ended."""

    spec: str
    what: str = ""
    done: int = 0
    total: int = 0


class OwnedPulls:
    """The pulls of the owner, by name. Everything runs on one event loop."""

    def __init__(
        self,
        pulls: Pulls,
        state: Path,
        *,
        installed: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Know those that a daemon before left unfinished, as paused ones.

        state: the folder in which they are remembered. installed: called when one is done.
        """
        self._pulls = pulls
        self._file = state / FILE
        self._installed = installed
        self._clock = clock
        self._owned: dict[str, _Owned] = {}
        for left in read_json_or_warn(self._file, list[_Remembered], "unfinished downloads are forgotten") or []:
            line = PullLine(what=left.what, done=left.done, total=left.total)
            self._owned[left.spec.lower()] = _Owned(left.spec, "paused", line)

    def describe(self) -> tuple[PullStatus, ...]:
        """Return all pulls, and forget those that have been over for a while."""
        now = self._clock()
        for key, each in list(self._owned.items()):
            if each.state in _OVER and now - each.ended_at > FORGET_SECONDS:
                del self._owned[key]
        return tuple(each.describe(now) for each in self._owned.values())

    async def start(self, spec: str) -> PullStatus:
        """Start a pull, or go on with one that was paused or failed; one that runs is left alone."""
        found = self._owned.get(spec.lower())
        if found is None or found.task is None:
            before = found.line if found and found.state != "done" else PullLine()
            # A new place in the list: the last one started is the last one shown.
            self._owned.pop(spec.lower(), None)
            found = self._owned[spec.lower()] = _Owned(found.spec if found else spec, line=before)
            found.task = asyncio.create_task(self._follow(found), name="owner's pull")
            log.info("a download was started over HTTP")
            await self._remember()
        return found.describe(self._clock())

    async def pause(self, spec: str) -> PullStatus:
        """Interrupt a pull, and keep what it has fetched. Raises ModelNotFoundError."""
        found = self._find(spec)
        if found.state not in _OVER:
            await self._interrupt(found)
            found.state, found.message = "paused", ""
            await self._remember()
        return found.describe(self._clock())

    async def cancel(self, spec: str) -> PullStatus:
        """Interrupt a pull and forget it; the caller removes what it has fetched. Raises ModelNotFoundError."""
        found = self._find(spec)
        await self._interrupt(found)
        self._owned.pop(spec.lower(), None)
        await self._remember()
        return found.describe(self._clock())

    async def close(self) -> None:
        """Follow no pull any more; those that are not over are remembered as paused."""
        await self._remember()
        await asyncio.gather(*(self._interrupt(each) for each in self._owned.values()))

    def _find(self, spec: str) -> _Owned:
        if (found := self._owned.get(spec.lower())) is None:
            raise ModelNotFoundError(f"there is no download of {spec!r}", param="model")
        return found

    async def _interrupt(self, pull: _Owned) -> None:
        """Stop following a pull, and wait until its process has ended unless somebody else follows it."""
        task, pull.task = pull.task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._pulls.ended(pull.spec)

    async def _follow(self, pull: _Owned) -> None:
        line = PullLine(error="the server is stopping")
        async with aclosing(self._pulls.follow(pull.spec)) as lines:
            async for line in lines:
                if not (line.installed or line.error):
                    pull.put(line, self._clock())
        pull.task, pull.ended_at = None, self._clock()
        pull.state, pull.error = ("failed", line.error) if line.error else ("done", None)
        pull.message, pull.installed = "", line.installed or None
        if line.error:
            log.warning("a download that was started over HTTP failed; GET /v1/admin/models says why")
        else:
            log.info("%s is installed", line.installed)
            try:
                await self._installed()
            except HubError as error:
                log.warning("%s: %s", line.installed, error.message)
        await self._remember()

    async def _remember(self) -> None:
        left = [
            _Remembered(each.spec, each.line.what, each.line.done, each.line.total)
            for each in self._owned.values()
            if each.state not in _OVER
        ]
        try:
            await asyncio.to_thread(_write, self._file, left)
        except OSError as error:
            log.warning("unfinished downloads cannot be remembered: %s", error.strerror)


def _write(file: Path, left: list[_Remembered]) -> None:
    if left:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, left)
    else:
        file.unlink(missing_ok=True)
