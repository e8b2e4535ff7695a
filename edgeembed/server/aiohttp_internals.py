"""The parts of aiohttp's server that its documentation does not cover: only this module uses them.

Written for aiohttp 3.14; what is used has been the same since 3.11. The contract tests, test_aiohttp_internals.py and
test_connections.py, run each function against a real server and fail when aiohttp changes. Source: aiohttp/web_server.py,
web_protocol.py (`RequestHandler.start` and `finish_response`) and web_response.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container
from typing import Any

from aiohttp import HttpVersion11, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def wrap_handler(runner: web.AppRunner, wrap: Callable[[Handle], Handle]) -> None:
    """Replace the handler of all requests, which calls the application, by what `wrap` makes of it.

    The runner must be set up. Each connection keeps the handler that it began with, so call this before the first one.
    """
    server = runner.server
    assert server is not None, "call runner.setup() first"
    server.request_handler = wrap(server.request_handler)


def wrap_urls(runner: web.AppRunner, plain: Container[str], replacement: Callable[[str], str | None]) -> None:
    """Let requests have the path that `replacement` returns for theirs, unless it returns None; the query stays.

    plain: request targets that stay as they are, which costs nothing but the lookup. The runner must be set up. Each
    connection keeps what it began with, so call this before the first one.
    """
    server = runner.server
    assert server is not None, "call runner.setup() first"
    usual = server.request_factory

    def make(message: RawRequestMessage, *more: Any) -> web.BaseRequest:
        if message.path not in plain and (path := replacement(message.url.raw_path)) is not None:
            message = message._replace(url=message.url.with_path(path, encoded=True, keep_query=True))
        return usual(message, *more)

    server.request_factory = make


def watch_connections(
    runner: web.AppRunner, opened: Callable[[web.RequestHandler], None], closed: Callable[[web.RequestHandler], None]
) -> None:
    """Let two functions be called with each connection, after it was opened and before it is forgotten.

    The runner must be set up.
    """
    server = runner.server
    assert server is not None, "call runner.setup() first"
    usual_made, usual_lost = server.connection_made, server.connection_lost

    def made(handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        usual_made(handler, transport)
        opened(handler)

    def lost(handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        closed(handler)
        usual_lost(handler, exc)

    setattr(server, "connection_made", made)  # noqa: B010 - a type checker refuses to replace a method
    setattr(server, "connection_lost", lost)  # noqa: B010


def count_connections(runner: web.AppRunner) -> int:
    """Return the number of open connections."""
    return len(runner.server._connections) if runner.server else 0


def next_idle(runner: web.AppRunner, *, besides: web.RequestHandler) -> web.RequestHandler | None:
    """Return the connection that has been idle for longest; if there is none, one whose response is being sent.

    A connection is idle before the head of a request is complete.
    """
    idle = [
        connection
        for connection in (runner.server.connections if runner.server else ())
        if connection._current_request is None and connection.transport is not None and connection is not besides
    ]
    return min(
        idle,
        key=lambda connection: (connection._waiter is None, connection._next_keepalive_close_time),
        default=None,
    )


def has_sent_head(connection: web.RequestHandler) -> bool:
    """Return whether the head of a request has arrived on a connection, ever."""
    return connection._request_count > 0


def read_no_rest(request: web.BaseRequest) -> None:
    """Let the rest of the body be neither read nor decompressed after the response, which closes the connection."""
    request.protocol._lingering_time = 0.0


def abort_connections(runner: web.AppRunner) -> None:
    """Close every connection at once, without sending what is still buffered."""
    for connection in runner.server.connections if runner.server else ():
        if connection.transport is not None:
            connection.transport.abort()


def cannot_be_read(error: BaseException) -> bool:
    """Return whether an error of aiohttp's server is the client's fault: a head or body that breaks the rules of HTTP."""
    return isinstance(error, HttpProcessingError | web.RequestPayloadError)


def takes_raw(request: web.BaseRequest) -> bool:
    """Return whether a `RawResponse` may answer: HTTP/1.1, kept open, and nothing is still waiting to be sent."""
    transport = request.transport
    return (
        request.version == HttpVersion11
        and request.keep_alive
        and transport is not None
        and not transport.get_write_buffer_size()
    )


class RawResponse(web.StreamResponse):
    """A response whose head and body are already bytes. Building the head in aiohttp takes as long as a cache lookup."""

    def __init__(self, written: bytes) -> None:
        super().__init__()
        self._written = written

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open: always, see `takes_raw`."""
        return True

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write everything. Raises ConnectionResetError when the client has closed the connection."""
        if request.transport is None:
            raise ConnectionResetError("the client closed the connection")
        request.transport.write(self._written)

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` has written everything."""
