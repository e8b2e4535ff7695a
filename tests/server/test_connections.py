"""Limits on connections and on slow clients, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web

from edgeembed.server import connections, reading, responses
from edgeembed.server.auth import Access
from edgeembed.server.connections import KEEP_ALIVE_SECONDS, ConnectionLimit
from edgeembed.server.reading import BodyRoom
from edgeembed.server.responses import json_bytes
from tests.server.dialect_requests import Server

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Connection]]


@asynccontextmanager
async def serving(app: web.Application, most: int = 100) -> AsyncIterator[Connect]:
    """Serve with a limit on connections; yield what opens one."""
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, keepalive_timeout=KEEP_ALIVE_SECONDS, shutdown_timeout=1
    )
    await runner.setup()
    ConnectionLimit(runner, most)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    opened: list[Connection] = []

    async def connect() -> Connection:
        opened.append(await asyncio.open_connection(*runner.addresses[0][:2]))
        return opened[-1]

    try:
        async with asyncio.timeout(30):
            yield connect
    finally:
        for _, writer in opened:
            writer.close()
        await runner.cleanup()


def send(connection: Connection, path: str, *, length: int | None = None, body: bytes = b"") -> None:
    """Send a request, of which the body may be incomplete."""
    head = f"{'POST' if length is not None else 'GET'} {path} HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n" if length is not None else "\r\n"
    connection[1].write(head.encode() + body)


async def answer(connection: Connection) -> tuple[int, bytes]:
    """Return status and body of a response."""
    head = (await connection[0].readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
    return int(head.split()[1]), await connection[0].readexactly(length)


async def is_closed(connection: Connection) -> bool:
    """Wait until the server has closed a connection."""
    with suppress(ConnectionResetError):
        await connection[0].read()
    return connection[0].at_eof()


async def test_a_connection_without_a_whole_head_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    async with serving(Server().app) as connect:
        used, silent, unfinished = [await connect() for _ in range(3)]
        send(used, "/livez")
        assert (await answer(used))[0] == 200
        unfinished[1].write(b"GET /livez HTTP/1.1\r\nHost: ")
        assert await is_closed(silent) and await is_closed(unfinished)
        send(used, "/livez")
        assert (await answer(used))[0] == 200, "an idle connection that was used stays open for longer"


async def test_a_new_connection_takes_the_place_of_an_idle_one() -> None:
    async with serving(Server().app, most=3) as connect:
        unfinished = [await connect() for _ in range(3)]
        for each in unfinished:
            each[1].write(b"GET /livez HTTP/1.1\r\n")
        later = await connect()
        send(later, "/livez")
        assert (await answer(later))[0] == 200
        assert await is_closed(unfinished[0])


async def test_only_probes_are_answered_when_all_connections_are_in_use() -> None:
    server = Server(access=Access(check_host=False, origins=["https://friend.example"]))
    server.embedder.paused = True
    body = b'{"input": "a"}'
    async with serving(server.app, most=2) as connect:
        busy = [await connect() for _ in range(2)]
        for number, each in enumerate(busy, start=1):
            send(each, "/v1/embeddings", length=len(body), body=body.replace(b"a", b"%d" % number))
            await server.embedder.until(lambda number=number: len(server.embedder.waiting) == number)
        probe = await connect()
        send(probe, "/livez")
        assert (await answer(probe))[0] == 200
        other = await connect()
        assert await is_closed(probe), "it is idle"
        fields = f"Origin: https://friend.example\r\nContent-Length: {len(body)}\r\n"
        other[1].write(f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode() + body)
        head = await other[0].readuntil(b"\r\n\r\n")
        assert b" 503 " in head and b"Access-Control-Allow-Origin: https://friend.example" in head, "a page can read it"
        assert b"too_many_connections" in await other[0].read()
        assert await is_closed(other)
        server.embedder.paused = False
        server.embedder.resume()
        assert [(await answer(each))[0] for each in busy] == [200, 200]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed", "/v1/admin/none"])
async def test_a_body_that_does_not_arrive_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(reading, "STEP_SECONDS", 0.2)
    async with serving(Server().app) as connect:
        slow = await connect()
        send(slow, path, length=50_000, body=b'{"input": ')
        assert (await answer(slow))[0] in (404, 408)
        assert await is_closed(slow)


async def test_large_bodies_wait_until_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SMALL_BYTES", 1000)
    monkeypatch.setattr(reading, "_FIRST_STEP", 1000)
    room = BodyRoom(100_000)
    app = Server().app
    app[reading.ROOM] = room
    texts = b'{"input": "%b", "truncate": "end"}' % (b"a " * 40_000)
    async with serving(app) as connect:
        unfinished = await connect()
        send(unfinished, "/v1/embeddings", length=len(texts), body=texts[:50_000])
        while not room.used:
            await asyncio.sleep(0)
        large, small = await connect(), await connect()
        send(large, "/v1/embeddings", length=len(texts), body=texts)
        send(small, "/v1/embeddings", length=14, body=b'{"input": "a"}')
        assert (await answer(small))[0] == 200
        assert room.used == len(texts)
        unfinished[1].write(texts[50_000:])
        assert (await answer(unfinished))[0] == (await answer(large))[0] == 200
        gone = await connect()
        send(gone, "/v1/embeddings", length=len(texts), body=texts[:50_000])
        while not room.used:
            await asyncio.sleep(0)
        gone[1].close()
        while room.used:
            await asyncio.sleep(0)


async def test_room_is_given_in_order_and_comes_back_from_who_does_not_wait_any_more() -> None:
    room = BodyRoom(10)
    await room.reserve(50)
    assert room.used == 50, "a single body may be larger"
    waiting = [asyncio.create_task(room.reserve(size)) for size in (6, 5, 4)]
    await asyncio.sleep(0)
    room.release(50)
    await waiting[0]
    assert room.used == 6 and not waiting[2].done(), "the third would fit, but it is not its turn"
    waiting[1].cancel()
    await asyncio.gather(waiting[1], return_exceptions=True)
    await waiting[2]
    assert room.used == 10
    late = asyncio.create_task(room.reserve(1))
    await asyncio.sleep(0)
    room.release(10)
    late.cancel()  # after its turn came
    await asyncio.gather(late, return_exceptions=True)
    assert room.used == 0


async def test_who_does_not_read_a_large_response_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "READ_SECONDS", 0.2)
    ended = asyncio.Event()

    class Watched(responses.LargeResponse):
        async def write_eof(self, data: bytes = b"") -> None:
            try:
                await super().write_eof(data)
            except ConnectionResetError:
                ended.set()
                raise

    async def large(_request: web.Request) -> web.Response:
        return Watched(b"1" * 50_000_000, {})

    async def of_unknown_length(_request: web.Request) -> web.Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"[1"
            yield b",2]"

        return responses.PartedResponse(parts(), {"Content-Type": "application/json"})

    async def whole(_request: web.Request) -> web.Response:
        return json_bytes(b"[%b]" % (b"1," * 1_000_000), {})

    app = web.Application()
    app.router.add_get("/large", large)
    app.router.add_get("/whole", whole)
    app.router.add_get("/parts", of_unknown_length)
    async with serving(app) as connect:
        reader = await connect()
        reader[1].write(b"GET /parts HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader[0].readuntil(b"0\r\n\r\n")).endswith(b"\r\n\r\n2\r\n[1\r\n3\r\n,2]\r\n0\r\n\r\n")
        old = await connect()
        old[1].write(b"GET /parts HTTP/1.0\r\nHost: x\r\n\r\n")
        assert (await old[0].read()).endswith(b"\r\n\r\n[1,2]")
        send(reader, "/whole")
        assert (await answer(reader))[1] == b"[%b]" % (b"1," * 1_000_000)
        reader[1].write(b"HEAD /whole HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"2000002" in await reader[0].readuntil(b"\r\n\r\n")
        send(reader, "/whole")
        assert (await answer(reader))[0] == 200
        send(await connect(), "/large")
        await ended.wait()
