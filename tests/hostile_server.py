"""A server whose answers do not end, or are larger, deeper or slower than anybody expects."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

GZIP = 31
"""The `wbits` of gzip."""
BOMB_BYTES = 2**26


class HostileServer:
    """Answers every request with `head`, then with pieces of `body` while the client takes them."""

    def __init__(self) -> None:
        self.head = b""
        self.body: Callable[[], AsyncIterator[bytes]] = nothing
        self.sent = 0
        """Bytes of bodies that the client, or the buffers between, took."""
        self.requests = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def answer(self, body: bytes, *headers: str, status: str = "200 OK") -> None:
        """Send a body as it is."""

        async def once() -> AsyncIterator[bytes]:
            yield body

        self.stream(once, f"Content-Length: {len(body)}", *headers, status=status)

    def stream(self, body: Callable[[], AsyncIterator[bytes]], *headers: str, status: str = "200 OK") -> None:
        """Send pieces of a body; without a Content-Length its end is that of the connection."""
        lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", "Connection: close", *headers]
        self.head, self.body = ("\r\n".join(lines) + "\r\n\r\n").encode(), body

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.head)
            async for piece in self.body():
                writer.write(piece)
                await writer.drain()
                self.sent += len(piece)
        except ConnectionError:
            pass
        finally:
            writer.close()


async def nothing() -> AsyncIterator[bytes]:
    """An empty body."""
    for piece in ():
        yield piece


async def endless() -> AsyncIterator[bytes]:
    """Spaces without an end."""
    while True:
        yield b" " * 65_536


async def dripping() -> AsyncIterator[bytes]:
    """A space now and then, without an end."""
    while True:
        yield b" "
        await asyncio.sleep(0.01)  # a slow line


def bomb() -> bytes:
    """Return 64 kB that are 64 MiB when they are decompressed."""
    compressor, block = zlib.compressobj(9, zlib.DEFLATED, GZIP), b" " * 2**20
    return b"".join([compressor.compress(block) for _ in range(BOMB_BYTES // 2**20)]) + compressor.flush()


@asynccontextmanager
async def hostile_server() -> AsyncIterator[HostileServer]:
    """Run the server."""
    server = HostileServer()
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
