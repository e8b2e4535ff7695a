"""The parts of aiohttp's server that its documentation does not cover: only this module uses them.

Written for aiohttp 3.14; what is used has been the same since 3.11. The contract tests, test_aiohttp_internals.py,
test_connections.py and test_transport.py, run each function against a real server and fail when aiohttp changes. Source:
aiohttp/web_server.py, web_protocol.py (`RequestHandler.start` and `finish_response`), web_response.py, _http_parser.pyx.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Sequence
from typing import Any

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy

from edgeembed.common.trace import traced

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


def take_no_upgrades(runner: web.AppRunner) -> None:
    """Answer requests with an `Upgrade`, such as to HTTP/2, as if they had none, and lose nothing that follows them.

    The runner must be set up; call this before its first connection.
    """

    def opened(connection: web.RequestHandler) -> None:
        setattr(connection, "_parser", _StepByStep(connection, connection._parser))  # noqa: B010 - another type

    watch_connections(runner, opened, lambda _connection: None)


_WORD = b"pgrade"
"""In every head with an `Upgrade`."""
_SCANNED = 4 * 1024
"""Bytes in which the word is looked for: those of most heads. Behind them are bodies, which would take long."""
_EMPTY_LINE = b"\r\n\r\n"


class _StepByStep:
    """aiohttp's parser of requests, fed in a way that it loses nothing.

    Its C code stops behind a request with an `Upgrade`, and then forgets the rest of the bytes that it was fed with. So on a
    connection with such a request, no call goes beyond the end of a request: each ends behind an empty line, which ends a
    head or a chunked body, or behind a body whose length is known. Where that fails, the connection is closed after the
    response, which tells the client to send again what it has sent ahead.
    """

    _MOST_STEPS = 64
    """For the bytes of one call; the rest goes into one step."""

    def __init__(self, connection: web.RequestHandler, parser: Any) -> None:
        self._connection = connection
        self._feed = parser.feed_data
        self._upgrades = False
        self._before = b""
        """The end of what was fed last, if that was no whole head."""
        self._body_left = 0
        """Bytes of the body of a request with an `Upgrade`, which are still to come."""
        self._rest = b""
        """What arrived while the reader of a body wanted no more of it."""
        self.feed_eof, self.pause_reading = parser.feed_eof, parser.pause_reading
        self.set_upgraded = parser.set_upgraded
        # Since aiohttp 3.14.
        self.message_consumed = getattr(parser, "message_consumed", None)

    @traced(before="arrive", within="parse HTTP")
    def feed_data(self, data: bytes) -> Any:
        """Return the requests whose heads are complete, whether the connection is a WebSocket now, and the rest."""
        if not self._upgrades:
            if _WORD not in data[:_SCANNED].lower() and not (self._before and self._goes_on(data)):
                fed = self._feed(data)
                if not fed[0]:
                    self._before = (self._before + data if len(data) < len(_WORD) else data)[-len(_WORD) :]
                elif self._before:
                    self._before = b""
                if fed[0] and fed[0][-1][0].upgrade and not fed[1]:
                    return _closing_upgrade(fed[0]), False, fed[2]
                return fed
            self._upgrades = True
        data = self._rest + data
        self._rest = b""
        requests: list[Any] = []
        begin = steps = 0
        while True:
            steps += 1
            exact = steps < self._MOST_STEPS
            end = self._end(data, begin) if exact else len(data)
            found, upgraded, rest = self._feed(data[begin:end])
            begin = end
            if upgraded:
                return [*requests, *found], True, rest + data[begin:]
            if found:
                requests += found if exact else _closing_upgrade(found)
                message, body = found[-1]
                if message.upgrade and not body.is_eof():
                    self._body_left = int(message.headers.get(hdrs.CONTENT_LENGTH, 0))
            if begin == len(data):
                return requests, False, b""
            if self._connection._reading_paused:
                self._rest = data[begin:]
                return requests, False, b""

    def _goes_on(self, data: bytes) -> bool:
        """Return whether the word began in what was fed last, and ends here."""
        return _WORD in (self._before + data[: len(_WORD)]).lower()

    def _end(self, data: bytes, begin: int) -> int:
        """Return where the next step ends; no request ends before."""
        if self._body_left:
            end = min(len(data), begin + self._body_left)
            self._body_left -= end - begin
            return end
        if begin < len(_EMPTY_LINE) and not data[: begin + 1].strip(_EMPTY_LINE):  # perhaps the second half of an empty line
            return begin + 1
        found = data.find(_EMPTY_LINE, begin)
        return len(data) if found < 0 else found + len(_EMPTY_LINE)


def _closing_upgrade(found: Sequence[Any]) -> Sequence[Any]:
    """Return requests of which the last, if it has an `Upgrade`, closes the connection."""
    message, body = found[-1]
    return [*found[:-1], (message._replace(should_close=True), body)] if message.upgrade else found


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


def hide_header(request: web.BaseRequest, name: str) -> None:
    """Remove a header from a request that the application has not seen yet."""
    headers = CIMultiDict(request.headers)
    headers.popall(name, None)
    request._headers = CIMultiDictProxy(headers)
    request._cache.pop("headers", None)


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

    def __init__(self, written: bytes, body_bytes: int) -> None:
        """written: head and body. body_bytes: the length of the body."""
        super().__init__()
        self._written = written
        self.body_bytes = body_bytes

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
