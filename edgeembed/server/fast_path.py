"""Responses to repeated bodies of POST /v1/embeddings, sent ahead of the application.

For a cache hit, routing, middlewares and the handler take longer than the lookup. This path does for it what they would do,
with their own functions: access, request id, headers, counts. Everything else goes to the application, which finds on the
request what was done already: the access check and the digest of the body.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import time

from aiohttp import hdrs, web

from edgeembed.cache import StoredResponse
from edgeembed.common.trace import traced
from edgeembed.errors import BodyTimeoutError, EdgeEmbedError
from edgeembed.server.aiohttp_internals import Handle, RawResponse, takes_raw, wrap_handler
from edgeembed.server.app_keys import ACCESS, ACCESS_LOG, BODY_DIGEST, SERVICE, TRACING
from edgeembed.server.auth import CHECKED
from edgeembed.server.body import CACHE_HEADER, DIGEST_HEADER, cache_header
from edgeembed.server.charsets import is_utf8
from edgeembed.server.middleware import common_headers, request_id_of
from edgeembed.server.ops.metrics import METRICS
from edgeembed.server.quick_answers import date, head
from edgeembed.server.reading import read
from edgeembed.server.request_log import log
from edgeembed.server.responses import JSON_TYPE

PATH = "/v1/embeddings"
_ROUTE = f"{hdrs.METH_POST} {PATH}"
MOST_BODY_BYTES = 16 * 1024
"""Longer bodies are no frequent queries: their responses are not stored."""
_APPLICATION_HEADERS = (CACHE_HEADER, hdrs.CONTENT_ENCODING, hdrs.EXPECT, hdrs.ORIGIN)
"""Requests with one of these go to the application, which handles them. The last is that of a web page, whose browser needs
more headers."""


def install(runner: web.AppRunner) -> None:
    """Put the fast path ahead of the application of a runner that is set up; call this before its first connection."""
    wrap_handler(runner, functools.partial(ahead_of, runner.app))


def ahead_of(app: web.Application, application: Handle) -> Handle:
    """Return a handler that sends stored responses, and leaves all other requests to the application.

    With spans of requests, that is all of them.
    """
    if TRACING in app:
        return application
    service, access, counts, access_log = app[SERVICE], app[ACCESS], app[METRICS].http, app.get(ACCESS_LOG)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if not _may_be_stored(request):
            return await application(request)
        began = time.perf_counter()
        try:
            access.check(request)
        except EdgeEmbedError:
            return await application(request)  # which words the refusal
        try:
            raw = await read(request, MOST_BODY_BYTES)
        except BodyTimeoutError:
            return await application(request)
        digest = hashlib.sha256(raw).digest()
        found = service.find_response(digest)
        if found is None:
            request[CHECKED] = True
            request[BODY_DIGEST] = digest
            return await application(request)
        request_id = request_id_of(request)
        response = _respond(request, request_id, found)
        took = time.perf_counter() - began
        counts.add(PATH, request.method, response.status, took)
        if access_log is not None:
            access_log.write(request, _ROUTE, response.status, took, len(found.body), request_id)
        return response

    return handle


@traced(before="wake the handler")
def _may_be_stored(request: web.BaseRequest) -> bool:
    if request.method != hdrs.METH_POST or request.rel_url.raw_path != PATH:
        return False
    headers, length = request.headers, request.content_length
    if length is None or length > MOST_BODY_BYTES or log.isEnabledFor(logging.DEBUG):
        return False
    for name in _APPLICATION_HEADERS:
        if name in headers:
            return False
    return headers.get(hdrs.CONTENT_TYPE) == JSON_TYPE or is_utf8(request)


def _headers(request_id: str, digest: str) -> dict[str, str]:
    return {hdrs.CONTENT_TYPE: JSON_TYPE, **cache_header(1, 1), DIGEST_HEADER: digest, **common_headers(request_id)}


_HEAD = head(_headers("%s", "%s"), "%s", "%d")


def _respond(request: web.BaseRequest, request_id: str, found: StoredResponse) -> web.StreamResponse:
    body, (_, digest) = found.body, found.model
    if not takes_raw(request):
        return web.Response(body=body, headers=_headers(request_id, digest))
    return RawResponse((_HEAD % (digest, request_id, date(int(time.time())), len(body))).encode() + body, len(body))
