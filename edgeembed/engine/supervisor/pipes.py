"""The pipes of a worker process, in the daemon: messages from it, lines of its stderr, bytes to it."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

from edgeembed.engine.child_environment import child_environment
from edgeembed.engine.ipc.messages import Frames, FromWorker, from_worker_decoder

log = logging.getLogger(__name__)

_LONGEST_LINE = 64 * 1024
"""Bytes of a line of stderr; longer ones are cut."""

# Ctrl-C in a terminal reaches only the daemon, which lets the worker finish requests in flight.
if sys.platform == "win32":
    _OWN_GROUP: dict[str, Any] = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
else:
    _OWN_GROUP: dict[str, Any] = {"start_new_session": True}


class WorkerPipes(asyncio.SubprocessProtocol):
    """What the event loop calls for a process. Everything runs on its thread.

    Messages are decoded and handled in the callback that reads them: to wake a task that reads a stream takes twice as long.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._transport: asyncio.SubprocessTransport | None = None
        self._frames = Frames()
        self._messages: deque[FromWorker] = deque()
        """Those that `receive` has not returned yet."""
        self._handle: Callable[[FromWorker], None] | None = None
        self._failure: Exception | None = None
        """Why the messages cannot be read any more."""
        self._arrived = asyncio.Event()
        """There is a message, a failure, or the end of the pipe."""
        self._writable = asyncio.Event()
        self._writable.set()
        self._exited = loop.create_future()
        self._open = {0, 1, 2}
        self._errors_ended = loop.create_future()
        self._line = bytearray()
        self.last_lines: deque[str] = deque(maxlen=40)
        """Of stderr."""

    @classmethod
    async def start(cls, command: Sequence[str]) -> WorkerPipes:
        """Start a process. Raises OSError."""
        _, protocol = await asyncio.get_running_loop().subprocess_exec(
            cls,
            *command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(),
            **_OWN_GROUP,
        )
        return protocol

    @property
    def pid(self) -> int:
        return self._process.get_pid()

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.get_returncode()

    # --- to the process -----------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Write, without waiting; nothing happens when the process has ended."""
        pipe = self._stdin
        if pipe is not None and not pipe.is_closing():
            pipe.write(data)

    async def drain(self) -> None:
        """Wait until the process has read most of what was written, or has ended."""
        await self._writable.wait()

    def kill(self) -> None:
        """Kill the process, if it runs."""
        if self.returncode is None:
            self._process.kill()

    # --- from the process ---------------------------------------------------------------------------------------------

    async def receive(self) -> FromWorker | None:
        """Wait for the next message and return it; None when the process has closed its end.

        Raises ValueError or msgspec.DecodeError for bytes that are not a message.
        """
        while not self._messages and self._failure is None and 1 in self._open:
            self._arrived.clear()
            await self._arrived.wait()
        if self._messages:
            return self._messages.popleft()
        if self._failure is not None:
            raise self._failure
        return None

    async def deliver(self, handle: Callable[[FromWorker], None]) -> None:
        """Call a function with each message from now on, until the process has closed its end.

        Raises what the function raises, and what `receive` does.
        """
        while self._messages:
            handle(self._messages.popleft())
        self._handle = handle
        try:
            await self.receive()
        finally:
            self._handle = None

    async def exited_within(self, seconds: float) -> bool:
        """Wait until the process has exited, so many seconds at most; return whether it has."""
        await asyncio.wait([self._exited], timeout=seconds)
        return self._exited.done()

    async def close(self, seconds: float) -> None:
        """Wait for the rest of stderr, so many seconds at most, and close all pipes."""
        await asyncio.wait([self._errors_ended], timeout=seconds)
        self._process.close()

    # --- called by the event loop -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._read_lines(data)
        elif self._failure is None:
            try:
                for body in self._frames.feed(data):
                    self._take(from_worker_decoder.decode(body))
            except Exception as error:  # raised by `receive`
                self._failure = error
                self._arrived.set()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open.discard(fd)
        self._arrived.set()
        if fd == 0:
            self._writable.set()
        if fd == 2 and not self._errors_ended.done():
            self._end_line()
            self._errors_ended.set_result(None)

    def process_exited(self) -> None:
        if not self._exited.done():
            self._exited.set_result(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _take(self, message: FromWorker) -> None:
        if self._handle is not None:
            self._handle(message)
        else:
            self._messages.append(message)
            self._arrived.set()

    def _read_lines(self, data: bytes) -> None:
        first, *lines = data.split(b"\n")
        self._line += first
        for line in lines:
            self._end_line()
            self._line += line
        del self._line[_LONGEST_LINE:]

    def _end_line(self) -> None:
        text = self._line.decode("utf-8", "replace").rstrip()
        self._line.clear()
        if text:
            self.last_lines.append(text)
            log.debug("worker %d: %s", self.pid, text)

    @property
    def _process(self) -> asyncio.SubprocessTransport:
        assert self._transport is not None, "the event loop has called connection_made"
        return self._transport

    @property
    def _stdin(self) -> asyncio.WriteTransport | None:
        return cast("asyncio.WriteTransport | None", self._process.get_pipe_transport(0))
