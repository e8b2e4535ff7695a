"""A worker's end of the pipe to the daemon."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import IO

from edgeembed.engine.protocol import LENGTH_BYTES, FromWorker, ToWorker, frame, frame_length, to_worker_decoder


class Pipe:
    """Frames to and from the daemon; writes go through a thread, so that computing never waits for a full pipe."""

    def __init__(self, source: IO[bytes], sink: IO[bytes]) -> None:
        self._source = source
        self._sink = sink
        self._lock = threading.Lock()
        self._outgoing: deque[FromWorker] = deque()
        self._wake = threading.Event()
        self._finished = False
        self._writer = threading.Thread(target=self._write_queued, name="writer", daemon=True)
        self._writer.start()

    def send(self, message: FromWorker) -> None:
        """Queue a message for the writer."""
        self._outgoing.append(message)
        self._wake.set()

    def send_now(self, message: FromWorker) -> None:
        """Write a message before returning, so that it arrives even if the process dies in its next step.

        What was queued before goes first: a batch's rows must not arrive behind the start of the next one.
        """
        self._outgoing.append(message)
        self._write()

    def read(self) -> ToWorker | None:
        """Wait for the next message; None when the daemon is gone."""
        header = self._source.read(LENGTH_BYTES)
        if len(header) < LENGTH_BYTES:
            return None
        length = frame_length(header)
        body = self._source.read(length)
        if len(body) < length:  # it went in the middle of a sentence
            return None
        return to_worker_decoder.decode(body)

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
        try:
            with self._lock:
                while self._outgoing:
                    self._sink.write(frame(self._outgoing.popleft()))
                self._sink.flush()
        except OSError:  # the daemon is gone
            os._exit(0)
