"""One worker process as the daemon sees it: frames to it, frames from it, and the last lines of its stderr."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from edgeembed.common.log_content import describe_error
from edgeembed.common.trace import traced
from edgeembed.engine.causes import Cause, cause_in_foreign_text
from edgeembed.engine.ipc.messages import (
    Embed,
    EmbedItem,
    FromWorker,
    Stop,
    ToWorker,
    frame,
)
from edgeembed.engine.supervisor.pipes import WorkerPipes
from edgeembed.engine.text_sizes import characters_to_compute
from edgeembed.engine.worker_options import WorkerOptions

log = logging.getLogger(__name__)

WORKER_COMMAND = (sys.executable, "-P", "-m", "edgeembed.engine.worker.main")
PART_CHARACTERS = 256 * 1024
"""A message with more text is sent in parts: encoding and copying it at once would hold up the event loop."""
STOP_SECONDS = 2.0
"""A worker that was sent Stop is killed after this time."""
OOM_SCORE = 500
"""Added to a worker's oom_score_adj: the kernel kills it before the daemon, which loses no request when a worker dies."""
UNKILLABLE_SECONDS = 10.0
"""A worker that was killed and still exists after this time is left behind."""

_TELLING = (
    re.compile("CUDA error:|OutOfDeviceMemory|DeviceLost|bad_alloc"),
    re.compile("GGML_ASSERT|GGML_ABORT"),
    re.compile(r"\.(?:c|cpp|cu|cuh|h|m):\d+: "),  # where ggml gave up, and why
    re.compile("Fatal Python error"),
    re.compile("Error|error|failed"),
)
"""Lines that explain why a process died, the most telling first."""

_OUTSIDE_SIGNALS = {signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM), signal.SIGINT}


class WorkerProcess:
    """A started worker. Everything runs on the event loop's thread."""

    def __init__(self, pipes: WorkerPipes) -> None:
        """pipes: those of a process that was started with `WorkerPipes.start`."""
        self._pipes = pipes
        self._unsent: deque[ToWorker] = deque()
        """What waits for the pipe, behind a large message."""
        self._sending: asyncio.Task[None] | None = None
        self._soon: list[EmbedItem] = []
        """Items that are sent together when the event loop has run the other requests that are ready."""

    @classmethod
    async def start(cls, command: Sequence[str], options: WorkerOptions) -> WorkerProcess:
        """Start a worker: command, name of the mode, options as JSON. Raises OSError."""
        pipes = await WorkerPipes.start([*command, options.mode, msgspec.json.encode(options).decode()])
        _offer_to_the_oom_killer(pipes.pid)
        return cls(pipes)

    @property
    def pid(self) -> int:
        return self._pipes.pid

    @property
    def killed_from_outside(self) -> bool:
        """Whether a signal such as SIGKILL or SIGTERM ended it, and not a crash of its own. False while it runs."""
        return -(self._pipes.returncode or 0) in _OUTSIDE_SIGNALS

    def send(self, message: ToWorker) -> None:
        """Send a message; it is lost when the process has ended.

        A large one is sent in parts, as the pipe takes them, and so are those behind it.
        """
        self._send_soon()
        parts = _parts(message)
        if self._unsent or len(parts) > 1:
            self._unsent.extend(parts)
            if self._sending is None or self._sending.done():
                self._sending = asyncio.create_task(self._send_unsent())
        else:
            self._write(message)

    def send_items(self, items: Sequence[EmbedItem], *, soon: bool) -> None:
        """Send texts. soon: those of requests that are ready now go into one message, which costs less than one for each."""
        if not soon:
            self.send(Embed(list(items)))
            return
        if not self._soon:
            asyncio.get_running_loop().call_soon(self._send_soon)
        self._soon += items

    def _send_soon(self) -> None:
        if self._soon:
            items, self._soon = self._soon, []
            self.send(Embed(items))

    async def _send_unsent(self) -> None:
        while self._unsent:
            try:
                self._write(self._unsent.popleft())
            except ValueError as error:  # a bug; it must not hold up those behind it
                log.error("a message to worker %d cannot be encoded: %s", self.pid, describe_error(error))
            await self._pipes.drain()
            await asyncio.sleep(0)  # `drain` returns at once while the pipe's buffer is not full

    @traced(within="send to the worker")
    def _write(self, message: ToWorker) -> None:
        self._pipes.write(frame(message))

    async def receive(self) -> FromWorker | None:
        """Wait for the next message and return it; None when the process has closed its end.

        Raises ValueError or msgspec.DecodeError for bytes that are not a message.
        """
        return await self._pipes.receive()

    async def deliver(self, handle: Callable[[FromWorker], None]) -> None:
        """Call a function with each message as it arrives, until the process has closed its end.

        Raises what the function raises, and ValueError or msgspec.DecodeError for bytes that are not a message.
        """
        await self._pipes.deliver(handle)

    def kill(self) -> None:
        """Kill the process; `end` has to follow."""
        self._pipes.kill()

    async def end(self, *, politely: bool) -> None:
        """End the process and read the rest of its stderr. politely: send Stop first, and wait for it."""
        if politely and self._pipes.returncode is None:
            self.send(Stop())
            if not await self._pipes.exited_within(STOP_SECONDS):
                log.info("the worker did not stop in time and is killed")
        # When its pipe has just closed, it gets a moment to exit with its own status.
        if not await self._pipes.exited_within(0.5):
            self.kill()
        if not await self._pipes.exited_within(UNKILLABLE_SECONDS):  # stuck inside a driver
            log.error("worker %d cannot be killed and is left running", self.pid)
        await self._pipes.close(1.0)
        if self._sending:
            self._sending.cancel()

    @property
    def exit_cause(self) -> Cause:
        """What its most telling line names; otherwise a kill from outside, or a crash."""
        telling = _telling_line(self._pipes.last_lines)
        named = cause_in_foreign_text(telling) if telling else None
        return named or ("killed" if self.killed_from_outside else "crash")

    def exit_report(self, activity: str) -> str:
        """Return how the process ended, what it was doing, and the most telling line of its log, for a person."""
        code = self._pipes.returncode or 0
        if code < 0:
            try:
                how = f"ended by {signal.Signals(-code).name} while {activity}"
            except ValueError:
                how = f"ended by signal {-code} while {activity}"
        else:
            how = f"ended with exit status {code} while {activity}"
        telling = _telling_line(self._pipes.last_lines)
        return f"{how}: {telling}" if telling else how


def _offer_to_the_oom_killer(pid: int) -> None:
    """Let Linux choose a worker rather than the daemon when memory runs out."""
    with contextlib.suppress(OSError, ValueError):  # another system, or the process has ended
        file = Path(f"/proc/{pid}/oom_score_adj")
        file.write_text(str(min(1000, int(file.read_text()) + OOM_SCORE)))


def _parts(message: ToWorker) -> list[ToWorker]:
    """Return a message, or several with the same items where it is large."""
    if not isinstance(message, Embed) or len(message.items) == 1:
        return [message]
    parts: list[list[EmbedItem]] = [[]]
    characters = 0
    for item in message.items:
        characters += characters_to_compute(item.text)
        if characters > PART_CHARACTERS and parts[-1]:
            parts.append([])
            characters = characters_to_compute(item.text)
        parts[-1].append(item)
    return [Embed(part) for part in parts]


def _telling_line(lines: Sequence[str]) -> str | None:
    """Return the line that best explains why a process died; None when no line does."""
    for pattern in _TELLING:
        for line in reversed(lines):
            if pattern.search(line):
                return line.strip()
    return None
