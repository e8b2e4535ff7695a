"""One worker process as the daemon sees it: frames to it, frames from it, and what it said before it died."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from edgeembed.engine.causes import Cause, cause_in_foreign_text
from edgeembed.engine.ipc.messages import LENGTH_BYTES, FromWorker, Stop, ToWorker, frame, frame_length, from_worker_decoder
from edgeembed.engine.worker_options import WorkerOptions

log = logging.getLogger(__name__)

WORKER_COMMAND = (sys.executable, "-P", "-m", "edgeembed.engine.worker.main")
STOP_SECONDS = 2.0
"""What a worker gets to leave by itself when it is told to stop."""
UNKILLABLE_SECONDS = 10.0
"""What the operating system gets to end one that was killed."""

_TELLING = (
    re.compile("CUDA error:|OutOfDeviceMemory|DeviceLost|bad_alloc"),
    re.compile("GGML_ASSERT|GGML_ABORT"),
    re.compile(r"\.(?:c|cpp|cu|cuh|h|m):\d+: "),  # where ggml gave up, and why
    re.compile("Fatal Python error"),
    re.compile("Error|error|failed"),
)
"""What the line of a dying process looks like that says most, the most telling first."""

_OUTSIDE_SIGNALS = {signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM), signal.SIGINT}

# Ctrl-C in a terminal is for the daemon, which lets the worker finish what is in flight.
if sys.platform == "win32":
    _OWN_GROUP: dict[str, Any] = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
else:
    _OWN_GROUP: dict[str, Any] = {"start_new_session": True}


class WorkerProcess:
    """A started worker. Everything runs on the event loop's thread."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Take over a process whose stdin, stdout and stderr are pipes."""
        self._process = process
        self._last_words: deque[str] = deque(maxlen=40)
        self._listener = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, command: Sequence[str], options: WorkerOptions) -> WorkerProcess:
        """Start a worker: the command, the mode's name, the options as JSON. Raises OSError."""
        return cls(
            await asyncio.create_subprocess_exec(
                *command,
                options.mode,
                msgspec.json.encode(options).decode(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # A crash must not start a debugger, as ggml would where it finds one.
                env={**os.environ, "GGML_NO_BACKTRACE": "1"},
                **_OWN_GROUP,
            )
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def killed_from_outside(self) -> bool:
        """Whether somebody else ended it, and not its own kernels. False while it runs."""
        return -(self._process.returncode or 0) in _OUTSIDE_SIGNALS

    def send(self, message: ToWorker) -> None:
        """Send a message; one to a process that is gone is lost."""
        pipe = self._process.stdin
        if pipe and not pipe.is_closing():
            pipe.write(frame(message))

    async def receive(self) -> FromWorker | None:
        """Wait for the next message; None when the process has closed its end.

        Raises ValueError or msgspec.DecodeError for bytes that are no message.
        """
        assert self._process.stdout is not None
        try:
            header = await self._process.stdout.readexactly(LENGTH_BYTES)
            return from_worker_decoder.decode(await self._process.stdout.readexactly(frame_length(header)))
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return None

    def kill(self) -> None:
        """End the process at once; `end` has to follow."""
        if self._process.returncode is None:
            self._process.kill()

    async def end(self, *, politely: bool) -> None:
        """See to it that the process is gone, and read what it said last. `politely`: let it leave by itself first."""
        # asyncio's `wait` ends when the pipes do, and one that is full of rows nobody reads any more never would.
        draining = asyncio.create_task(self._drain())
        if politely and self._process.returncode is None:
            self.send(Stop())
            if not await self._gone_within(STOP_SECONDS):
                log.info("the worker does not stop by itself")
        # One whose pipe has just ended gets a moment to leave its own exit status.
        if not await self._gone_within(0.5):
            self.kill()
        if not await self._gone_within(UNKILLABLE_SECONDS):  # inside a driver that does not come back
            log.error("worker %d cannot be ended; it is left behind", self.pid)
        await asyncio.wait([self._listener, draining], timeout=1.0)
        self._listener.cancel()
        draining.cancel()

    @property
    def exit_cause(self) -> Cause:
        """What ended the process: what its last words name, or else a kill from outside or a crash."""
        telling = _telling_line(self._last_words)
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
        telling = _telling_line(self._last_words)
        return f"{how}: {telling}" if telling else how

    async def _gone_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._process.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _drain(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ConnectionResetError):  # an end like any other
            while await self._process.stdout.read(1 << 16):
                pass

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        while True:
            try:
                line = await self._process.stderr.readline()
            except ValueError:  # longer than the buffer: it was skipped
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                self._last_words.append(text)
                log.debug("worker %d: %s", self.pid, text)


def _telling_line(lines: Sequence[str]) -> str | None:
    """Find the line of a dying process that says most."""
    for pattern in _TELLING:
        for line in reversed(lines):
            if pattern.search(line):
                return line.strip()
    return None
