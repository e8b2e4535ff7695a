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
        self.daemon_port = port
        self.transports: set[asyncio.Transport] = set()
        self.connecting: list[asyncio.Future[None]] = []
        self._pieces: list[tuple[str, bytearray]] = []
        self._lock = threading.Lock()

    def forget(self) -> None:
        with self._lock:
            self._pieces.clear()

    def shown(self) -> list[str]:
        """Return what was sent since `forget`: requests after `>`, answers after `<`, each cut."""
        with self._lock:
            return [f"{side} {_text(bytes(piece))}" for side, piece in self._pieces]

    def keep(self, side: str, data: bytes) -> None:
        with self._lock:
            if not self._pieces or self._pieces[-1][0] != side:
                self._pieces.append((side, bytearray()))
            if len(self._pieces[-1][1]) < 4 * SHOWN:
                self._pieces[-1][1].extend(data[: 4 * SHOWN])

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        """Relay until `stop`; `port` is set when `ready` is."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Side(self, ">"), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()
        await asyncio.gather(*self.connecting, return_exceptions=True)
        for transport in list(self.transports):
            transport.abort()
        while self.transports:
            await asyncio.sleep(0)


class _Side(asyncio.Protocol):
    """One of the two connections of a relay. Protocols and no streams: there is no task that could be left."""

    def __init__(self, recorder: Recorder, side: str, other: asyncio.Transport | None = None) -> None:
        self._recorder = recorder
        self._side = side
        self._other = other

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._recorder.transports.add(transport)
        if self._other is None:
            transport.pause_reading()
            self._recorder.connecting.append(asyncio.ensure_future(self._connect()))

    async def _connect(self) -> None:
        recorder = self._recorder
        try:
            self._other, _ = await asyncio.get_running_loop().create_connection(
                lambda: _Side(recorder, "<", self._transport), "127.0.0.1", recorder.daemon_port
            )
        except OSError:
            self._transport.abort()
            return
        if self._transport.is_closing():
            self._other.abort()
        else:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._recorder.keep(self._side, data)
        if self._other is not None:
            self._other.write(data)

    def eof_received(self) -> bool:
        if self._other is not None and self._other.can_write_eof():
            self._other.write_eof()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._recorder.transports.discard(self._transport)
        if self._other is not None:
            self._other.close()


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
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield recorder
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
