"""In front of everything: bodies of POST /v1/embeddings that were answered from memory before.

Routes, middlewares and handlers cost more than a look-up in the cache. A hit goes past them, with what they would do for it
done here: who may ask, the request id, the counts. Whatever is not plainly a hit takes the usual way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from edgeembed.errors import EdgeEmbedError
from edgeembed.server.bodies import CACHE_HEADER
from edgeembed.server.embeddings import MOST_BODY_BYTES, known_answer
from edgeembed.server.keys import ACCESS, SERVICE
from edgeembed.server.metrics import METRICS
from edgeembed.server.middleware import log, request_id_of, sign

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

PATH = "/v1/embeddings"
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
        response = known_answer(service, await request.read())
        if response is None:
            return await usual(request)  # the body that was read stays with the request
        sign(response, request_id_of(request))
        counts.add(PATH, request.method, response.status, time.perf_counter() - began)
        return response

    return handle


def _may_be_hit(request: web.BaseRequest) -> bool:
    if request.method != hdrs.METH_POST or request.path != PATH:
        return False
    headers, length = request.headers, request.content_length
    if length is None or length > MOST_BODY_BYTES or log.isEnabledFor(logging.DEBUG):
        return False
    return not any(name in headers for name in _ASIDE)
