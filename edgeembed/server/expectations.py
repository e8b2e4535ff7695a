"""`Expect: 100-continue`: a client that waits, before it sends its body, until the server has looked at the head.

aiohttp says "go on" before it looks. Here that is said when a handler begins to read the body, so a request that is refused
for its key, its path, its length or its coding costs the client no upload. Source: RFC 9110, 10.1.1.
"""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import HttpVersion11, hdrs, web

from edgeembed.server.aiohttp_internals import Handle, hide_header
from edgeembed.server.app_keys import ACCESS
from edgeembed.server.auth import let_page_read
from edgeembed.server.error_formats import error_format_of
from edgeembed.server.responses import error_object

_EXPECTED = web.RequestKey("expected", str)
"""What a client expects, lower case; set until it was told to go on."""
_CONTINUE = "100-continue"


def ahead_of(app: web.Application, application: Handle) -> Handle:
    """Return a handler that keeps aiohttp from saying "go on", and refuses what nobody can expect."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if hdrs.EXPECT not in request.headers:
            return await application(request)
        expected = request.headers[hdrs.EXPECT].strip().lower()
        hide_header(request, hdrs.EXPECT)
        if request.version == HttpVersion11:  # older clients cannot expect anything
            request[_EXPECTED] = expected
        if _EXPECTED in request and expected not in (_CONTINUE, ""):
            response: web.StreamResponse = error_object(
                HTTPStatus.EXPECTATION_FAILED,
                "the header Expect has an unknown value; the only known one is 100-continue",
                error_format_of(request),
            )
            let_page_read(app[ACCESS], request, response)
        else:
            try:
                response = await application(request)
            except web.HTTPException as answer:
                _close_before_body(request, answer)
                raise
        _close_before_body(request, response)
        return response

    return handle


async def send_continue(request: web.BaseRequest) -> None:
    """Send "go on" to a client that waits for it. Call this before its body is read."""
    if request.pop(_EXPECTED, None) == _CONTINUE:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # or aiohttp believes that a response has begun


def _close_before_body(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Close the connection after a response to a client that was not told to go on.

    It may send its body next, or another request, and nobody could tell which.
    """
    if _EXPECTED in request and not request.content.is_eof():
        response.force_close()
