"""One worker process as the daemon sees it: frames to it, frames from it, and the last lines of its stderr."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgeembed.common.log_content import describe_error
from edgeembed.common.trace import traced
from edgeembed.engine.causes import Cause, cause_in_foreign_text
from edgeembed.engine.child_environment import child_environment
from edgeembed.engine.ipc.messages import (
    LENGTH_BYTES,
    Embed,
    EmbedItem,
    FromWorker,
    Stop,
    ToWorker,
    frame,
    frame_length,
    from_worker_decoder,
)
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

# Ctrl-C in a terminal reaches only the daemon, which lets the worker finish requests in flight.
if sys.platform == "win32":
    _OWN_GROUP: dict[str, Any] = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
else:
    _OWN_GROUP: dict[str, Any] = {"start_new_session": True}


class WorkerProcess:
    """A started worker. Everything runs on the event loop's thread."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """process: its stdin, stdout and stderr are pipes."""
        self._process = process
        self._last_lines: deque[str] = deque(maxlen=40)
        self._unsent: deque[ToWorker] = deque()
        """What waits for the pipe, behind a large message."""
        self._sending: asyncio.Task[None] | None = None
        self._listener = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, command: Sequence[str], options: WorkerOptions) -> WorkerProcess:
        """Start a worker: command, name of the mode, options as JSON. Raises OSError."""
        process = await asyncio.create_subprocess_exec(
            *command,
            options.mode,
            msgspec.json.encode(options).decode(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(),
            **_OWN_GROUP,
        )
        _offer_to_the_oom_killer(process.pid)
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def killed_from_outside(self) -> bool:
        """Whether a signal such as SIGKILL or SIGTERM ended it, and not a crash of its own. False while it runs."""
        return -(self._process.returncode or 0) in _OUTSIDE_SIGNALS

    def send(self, message: ToWorker) -> None:
        """Send a message; it is lost when the process has ended.

        A large one is sent in parts, as the pipe takes them, and so are those behind it.
        """
        parts = _parts(message)
        if self._unsent or len(parts) > 1:
            self._unsent.extend(parts)
            if self._sending is None or self._sending.done():
                self._sending = asyncio.create_task(self._send_unsent())
        else:
            self._write(message)

    async def _send_unsent(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):  # the process has ended
            while self._unsent:
                try:
                    self._write(self._unsent.popleft())
                except ValueError as error:  # a bug; it must not hold up those behind it
                    log.error("a message to worker %d cannot be encoded: %s", self.pid, describe_error(error))
                await self._process.stdin.drain()
                await asyncio.sleep(0)  # `drain` returns at once while the pipe's buffer is not full
        self._unsent.clear()

    @traced(within="send to the worker")
    def _write(self, message: ToWorker) -> None:
        pipe = self._process.stdin
        if pipe and not pipe.is_closing():
            pipe.write(frame(message))

    async def receive(self) -> FromWorker | None:
        """Wait for the next message and return it; None when the process has closed its end.

        Raises ValueError or msgspec.DecodeError for bytes that are not a message.
        """
        assert self._process.stdout is not None
        try:
            header = await self._process.stdout.readexactly(LENGTH_BYTES)
            return from_worker_decoder.decode(await self._process.stdout.readexactly(frame_length(header)))
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return None

    def kill(self) -> None:
        """Kill the process; `end` has to follow."""
        if self._process.returncode is None:
            self._process.kill()

    async def end(self, *, politely: bool) -> None:
        """End the process and read the rest of its stderr. politely: send Stop first, and wait for it."""
        # asyncio's `wait` returns only when the pipes are closed too: read whatever is left in them.
        draining = asyncio.create_task(self._drain())
        if politely and self._process.returncode is None:
            self.send(Stop())
            if not await self._gone_within(STOP_SECONDS):
                log.info("the worker did not stop in time and is killed")
        # When its pipe has just closed, it gets a moment to exit with its own status.
        if not await self._gone_within(0.5):
            self.kill()
        if not await self._gone_within(UNKILLABLE_SECONDS):  # stuck inside a driver
            log.error("worker %d cannot be killed and is left running", self.pid)
        await asyncio.wait([self._listener, draining], timeout=1.0)
        self._listener.cancel()
        if self._sending:
            self._sending.cancel()
        draining.cancel()

    @property
    def exit_cause(self) -> Cause:
        """What its most telling line names; otherwise a kill from outside, or a crash."""
        telling = _telling_line(self._last_lines)
        named = cause_in_foreign_text(telling) if telling else None
        return named or ("killed" if self.killed_from_outside else "crash")

    def exit_report(self, activity: str) -> str:
        """Return how the process ended, what it was doing, and the most telling line of its log, for a person."""
        code = self._process.returncode or 0
        if code < 0:
            try:
                how = f"ended by {signal.Signals(-code).name} while {activity}"
            except ValueError:
                how = f"ended by signal {-code} while {activity}"
        else:
            how = f"ended with exit status {code} while {activity}"
        telling = _telling_line(self._last_lines)
        return f"{how}: {telling}" if telling else how

    async def _gone_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._process.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _drain(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ConnectionResetError):  # the process has ended
            while await self._process.stdout.read(1 << 16):
                pass

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        while True:
            try:
                line = await self._process.stderr.readline()
            except ValueError:  # longer than the buffer: the line was skipped
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                self._last_lines.append(text)
                log.debug("worker %d: %s", self.pid, text)


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
