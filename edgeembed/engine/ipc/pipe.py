"""A worker's end of the pipe to the daemon."""

from __future__ import annotations

import io
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import IO

from edgeembed.common.trace import traced
from edgeembed.engine.ipc.messages import Frames, FromWorker, ToWorker, frame, to_worker_decoder

READ_BYTES = 1 << 16
"""What a pipe holds on Linux."""


class Pipe:
    """Frames to and from the daemon. A thread writes what the pipe cannot take at once, so that computing never waits."""

    def __init__(self, source: io.BufferedIOBase, sink: IO[bytes]) -> None:
        self._source = source
        self._sink = sink
        self._takes = _taker(sink)
        self._frames = Frames()
        self._has_more = _watcher(source)
        self._lock = threading.Lock()
        self._outgoing: deque[bytes] = deque()
        self._wake = threading.Event()
        self._finished = False
        self._writer = threading.Thread(target=self._write_queued, name="writer", daemon=True)
        self._writer.start()

    @traced(within="send the rows")
    def send(self, message: FromWorker) -> None:
        """Send a message without blocking: at once when it is short and nothing is queued, else by the writer thread."""
        framed = frame(message)
        # Waking the writer takes longer than writing the row of a lone query.
        if self._lock.acquire(blocking=False):
            try:
                if not self._outgoing and self._takes(len(framed)):
                    self._put(framed)
                    return
            finally:
                self._lock.release()
        self._outgoing.append(framed)
        self._wake.set()

    def send_now(self, message: FromWorker) -> None:
        """Write what is queued and then a message, so that it arrives even if the process dies right after."""
        self._outgoing.append(frame(message))
        self._write()

    def read(self) -> list[ToWorker]:
        """Wait for messages and return all that have arrived, in their order; none when the daemon is gone."""
        return [to_worker_decoder.decode(body) for body in self._next_bodies()]

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has arrived since the last `read`; False where that cannot be told."""
        return not self._has_more()

    @traced(within="reach the worker")
    def _next_bodies(self) -> list[bytes]:
        """Return the bodies of the frames that have arrived, at least one; none at the end of the pipe."""
        bodies: list[bytes] = []
        while not bodies:
            # One call of the system returns all that is in the pipe. The daemon may die in the middle of a message.
            if not (arrived := self._source.read1(READ_BYTES)):
                return []
            bodies = self._frames.feed(arrived)
        return bodies

    def finish(self) -> None:
        """Write what is queued, then stop writing."""
        self._finished = True
        self._wake.set()
        self._writer.join()

    def _write_queued(self) -> None:
        finished = False
        while not finished:
            self._wake.wait()
            self._wake.clear()
            finished = self._finished
            self._write()

    def _write(self) -> None:
        with self._lock:
            while self._outgoing:
                self._put(self._outgoing.popleft())

    def _put(self, framed: bytes) -> None:
        try:
            self._sink.write(framed)
            self._sink.flush()
        except OSError:  # the daemon is gone
            os._exit(0)


def _watcher(source: io.BufferedIOBase) -> Callable[[], bool]:
    """Return a function that tells whether there is something to read; it returns True where that cannot be told."""
    poll = _poll(source, "POLLIN")
    return (lambda: True) if poll is None else lambda: bool(poll(0))


def _poll(file: IO[bytes] | io.BufferedIOBase, event: str) -> Callable[[int], object] | None:
    """Return a function that waits for an event of a file, so many milliseconds at most; None if that is impossible."""
    if not hasattr(select, "poll"):  # Windows has no poll for pipes
        return None
    poll = select.poll()
    try:
        poll.register(file, getattr(select, event))
    except OSError:  # not a file descriptor that can be polled
        return None
    return poll.poll


def _taker(sink: IO[bytes]) -> Callable[[int], bool]:
    """Return a function that tells whether this many bytes can be written now without blocking."""
    poll = _poll(sink, "POLLOUT")
    if poll is None:
        return lambda size: False
    # POSIX: a pipe that is writable takes at least this much at once.
    return lambda size: size <= select.PIPE_BUF and bool(poll(0))
