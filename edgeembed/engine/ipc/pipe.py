"""A worker's end of the pipe to the daemon."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import IO

from edgeembed.common.trace import traced
from edgeembed.engine.ipc.messages import LENGTH_BYTES, FromWorker, ToWorker, frame, frame_length, to_worker_decoder


class Pipe:
    """Frames to and from the daemon. A thread writes what the pipe cannot take at once, so that computing never waits."""

    def __init__(self, source: IO[bytes], sink: IO[bytes]) -> None:
        self._source = source
        self._sink = sink
        self._takes = _taker(sink)
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

    def read(self) -> ToWorker | None:
        """Wait for the next message and return it; None when the daemon is gone."""
        body = self._next_frame()
        return None if body is None else to_worker_decoder.decode(body)

    @traced(within="reach the worker")
    def _next_frame(self) -> bytes | None:
        header = self._source.read(LENGTH_BYTES)
        if len(header) < LENGTH_BYTES:
            return None
        length = frame_length(header)
        body = self._source.read(length)
        return body if len(body) == length else None  # it died in the middle of a message

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


def _taker(sink: IO[bytes]) -> Callable[[int], bool]:
    """Return a function that tells whether this many bytes can be written now without blocking."""
    if not hasattr(select, "poll"):  # Windows has no poll for pipes
        return lambda size: False
    poll = select.poll()
    try:
        poll.register(sink, select.POLLOUT)
    except OSError:  # not a file descriptor that can be polled
        return lambda size: False
    # POSIX: a pipe that is writable takes at least this much at once.
    return lambda size: size <= select.PIPE_BUF and bool(poll.poll(0))
