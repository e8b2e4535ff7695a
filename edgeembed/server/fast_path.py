"""In front of everything: bodies of POST /v1/embeddings that were answered from memory before.

Routes, middlewares and handlers cost more than a look-up in the cache. A hit goes past them, with what they would do for it
done here: who may ask, the request id, the counts. Whatever is not plainly a hit takes the usual way.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate

from aiohttp import HttpVersion11, hdrs, web

from edgeembed.errors import EdgeEmbedError
from edgeembed.server.app_keys import ACCESS, SERVICE
from edgeembed.server.body import CACHE_HEADER
from edgeembed.server.embeddings_json import MOST_BODY_BYTES, known_answer
from edgeembed.server.middleware import REQUEST_ID, SERVER, log, request_id_of, sign
from edgeembed.server.ops.metrics import METRICS
from edgeembed.server.responses import JSON_TYPE

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

PATH = "/v1/embeddings"
_HEAD = (
    "HTTP/1.1 200 OK\r\n"
    f"{hdrs.CONTENT_TYPE}: {JSON_TYPE}\r\n{CACHE_HEADER}: hit\r\n{hdrs.SERVER}: {SERVER}\r\n"
    f"{REQUEST_ID}: %s\r\n{hdrs.DATE}: %s\r\n{hdrs.CONTENT_LENGTH}: %d\r\n\r\n"
)
_ASIDE = (CACHE_HEADER, hdrs.CONTENT_ENCODING, hdrs.EXPECT)
"""Headers that the usual way knows how to treat."""


def put_in_front(runner: web.AppRunner) -> None:
    """Let hits past the application of a runner that is set up, before its first connection comes."""
    server = runner.server
    assert server is not None
    server.request_handler = in_front(runner.app, server.request_handler)


def in_front(app: web.Application, usual: Handle) -> Handle:
    """Give a handler that answers hits, and hands all else to the usual one."""
    service, access, counts = app[SERVICE], app[ACCESS], app[METRICS].http

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if not _may_be_hit(request):
            return await usual(request)
        began = time.perf_counter()
        try:
            if access.check(request) is not None:
                return await usual(request)  # a web page, whose browser wants more headers
        except EdgeEmbedError:
            return await usual(request)  # which words the refusal
        body = known_answer(service, await request.read())
        if body is None:
            return await usual(request)  # the body that was read stays with the request
        response = _respond(request, body)
        counts.add(PATH, request.method, response.status, time.perf_counter() - began)
        return response

    return handle


class _InOnePiece(web.StreamResponse):
    """An answer whose head and body are written as they are: aiohttp takes as long to put a head together as a look-up."""

    def __init__(self, written: bytes) -> None:
        super().__init__()
        self._written = written

    @property
    def keep_alive(self) -> bool:
        return True

    async def prepare(self, request: web.BaseRequest) -> None:
        if request.transport is None:
            raise ConnectionResetError("the client has gone")
        request.transport.write(self._written)

    async def write_eof(self, data: bytes = b"") -> None:
        """There is nothing more to come."""


def _respond(request: web.BaseRequest, body: bytes) -> web.StreamResponse:
    transport = request.transport
    request_id = request_id_of(request)
    # A client that reads slowly, closes the connection or speaks an old protocol gets what aiohttp does for it.
    if request.version == HttpVersion11 and request.keep_alive and transport and not transport.get_write_buffer_size():
        return _InOnePiece((_HEAD % (request_id, _date(int(time.time())), len(body))).encode() + body)
    response = web.Response(body=body, headers={hdrs.CONTENT_TYPE: JSON_TYPE, CACHE_HEADER: "hit"})
    sign(response, request_id)
    return response


@functools.lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


def _may_be_hit(request: web.BaseRequest) -> bool:
    if request.method != hdrs.METH_POST or request.path != PATH:
        return False
    headers, length = request.headers, request.content_length
    if length is None or length > MOST_BODY_BYTES or log.isEnabledFor(logging.DEBUG):
        return False
    return not any(name in headers for name in _ASIDE)
