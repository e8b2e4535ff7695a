"""A TCP relay between a client and the daemon that keeps what both sent, so that a failure can be shown as it went by."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SHOWN = 900
"""Bytes of each message that are shown."""


class Recorder:
    """Relays bytes unchanged: what a client's transport does reaches the daemon as it is."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self._daemon = port
        self._pieces: list[tuple[str, bytearray]] = []
        self._lock = threading.Lock()

    def forget(self) -> None:
        with self._lock:
            self._pieces.clear()

    def shown(self) -> list[str]:
        """Return what was sent since `forget`: requests after `>`, answers after `<`, each cut."""
        with self._lock:
            return [f"{side} {_text(bytes(piece))}" for side, piece in self._pieces]

    def _keep(self, side: str, data: bytes) -> None:
        with self._lock:
            if not self._pieces or self._pieces[-1][0] != side:
                self._pieces.append((side, bytearray()))
            if len(self._pieces[-1][1]) < 4 * SHOWN:
                self._pieces[-1][1].extend(data[: 4 * SHOWN])

    async def _copy(self, side: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                self._keep(side, data)
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
        except OSError:
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._daemon)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(">", reader, back))
                group.create_task(self._copy("<", there, writer))
        except asyncio.CancelledError:
            pass  # the recording ends: asyncio reports a connection's cancelled task as an error
        finally:
            back.close()
            writer.close()

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()


async def _cancel_all() -> None:
    while left := asyncio.all_tasks() - {asyncio.current_task()}:  # one that is cancelled may have started another
        for task in left:
            task.cancel()
        await asyncio.wait(left)


def _text(data: bytes) -> str:
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    kept = [
        line for line in lines[1:] if line.lower().startswith(("content-", "authorization", "accept:", "host", "x-edge"))
    ]
    text = body.decode("utf-8", "replace")
    return "\n    ".join([lines[0], *kept, text if len(text) <= SHOWN else f"{text[:SHOWN]}…"])


@contextmanager
def recording(port: int) -> Iterator[Recorder]:
    """Relay a port of this machine to `port` of the daemon, in a thread."""
    recorder = Recorder(port)
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def run() -> None:
        loop.run_until_complete(recorder.serve(ready, stop))
        loop.run_until_complete(_cancel_all())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield recorder
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
