"""The contract with aiohttp's undocumented parts: each is used against a real server."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web, web_protocol
from aiohttp.test_utils import make_mocked_request

from edgeembed.server.aiohttp_internals import Handle, RawResponse, abort_connections, takes_raw, wrap_handler, wrap_urls

RAW = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nraw"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def serving(runner: web.AppRunner) -> AsyncIterator[Connection]:
    """Serve, with one client connected."""
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
    try:
        async with asyncio.timeout(20):
            yield reader, writer
    finally:
        writer.close()
        await runner.cleanup()


async def ask(connection: Connection, path: str, version: str = "1.1", body: bytes = b"") -> bytes:
    """Send a request; return the head and the three bytes of the body that comes back."""
    reader, writer = connection
    head = f"POST {path} HTTP/{version}\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    return await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(3)


def application() -> web.Application:
    async def usual(request: web.Request) -> web.Response:
        return web.Response(text=(await request.text())[:3] or "app")

    app = web.Application()
    app.router.add_post("/{tail:.*}", usual)
    return app


async def test_the_wrapped_handler_answers_or_passes_on() -> None:
    """Both on one connection, and with a body that the wrapper has read."""
    runner = web.AppRunner(application(), access_log=None)
    await runner.setup()

    def wrap(usual: Handle) -> Handle:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            assert await request.read() == b"abc"
            return RawResponse(RAW, 3) if request.path == "/raw" and takes_raw(request) else await usual(request)

        return handle

    wrap_handler(runner, wrap)
    async with serving(runner) as connection:
        assert await ask(connection, "/raw", body=b"abc") == RAW
        assert (await ask(connection, "/other", body=b"abc")).endswith(b"\r\n\r\nabc")
        assert await ask(connection, "/raw", body=b"abc") == RAW, "the connection stays open"
        assert (await ask(connection, "/raw", "1.0", b"abc")).endswith(b"\r\n\r\nabc"), "HTTP/1.0 gets aiohttp's own"


async def test_aborted_connections_end_at_once() -> None:
    began = asyncio.Event()

    async def endless(_request: web.Request) -> web.Response:
        began.set()
        await asyncio.Event().wait()
        return web.Response()

    app = web.Application()
    app.router.add_get("/", endless)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    async with serving(runner) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await began.wait()
        abort_connections(runner)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await reader.readexactly(1)


async def test_paths_are_replaced_before_the_application_sees_them() -> None:
    """Those that are not plain; the query stays."""
    app, seen = web.Application(), []

    async def note(request: web.Request) -> web.Response:
        seen.append((request.path, request.rel_url.raw_path, request.query_string))
        return web.Response(text="abc")

    app.router.add_post("/new", note)
    app.router.add_post("/plain", note)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    wrap_urls(runner, {"/plain"}, lambda path: "/new" if path in ("/plain", "//old") else None)
    async with serving(runner) as connection:
        for path in ("/plain", "/plain?a=1", "//old", "//old?a=%20b", "http://x//old?a=1"):
            assert (await ask(connection, path)).endswith(b"abc")
        assert b" 404 " in (await ask(connection, "/other"))
    new = ("/new", "/new")
    assert seen == [("/plain", "/plain", ""), (*new, "a=1"), (*new, ""), (*new, "a= b"), (*new, "a=1")]


async def test_a_raw_response_to_a_client_that_has_gone_is_a_connection_error() -> None:
    request = make_mocked_request("POST", "/")
    request.protocol.transport = None
    assert not takes_raw(request)
    with pytest.raises(ConnectionResetError):
        await RawResponse(RAW, 3).prepare(request)


def test_aiohttp_calls_what_raw_responses_override() -> None:
    """After the handler, aiohttp calls prepare and write_eof, and reads keep_alive."""
    finish = inspect.getsource(web_protocol.RequestHandler.finish_response)
    start = inspect.getsource(web_protocol.RequestHandler.start)
    assert "resp.prepare" in finish and "await resp.write_eof()" in finish
    assert "resp.keep_alive" in start
