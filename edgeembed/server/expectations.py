"""`Expect: 100-continue`: a client that waits, before it sends its body, until the server has looked at the head.

aiohttp says "go on" before it looks. Here that is said when a handler begins to read the body, so a request that is refused
for its key, its path, its length or its coding costs the client no upload. Source: RFC 9110, 10.1.1.
"""

from __future__ import annotations

from aiohttp import HttpVersion11, hdrs, web

from edgeembed.server.aiohttp_internals import Handle, hide_header

_EXPECTED = web.RequestKey("expected", str)
"""What a client expects, lower case; set until it was told to go on."""
_CONTINUE = "100-continue"


def ahead_of(application: Handle) -> Handle:
    """Return a handler that keeps aiohttp from saying "go on"."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if hdrs.EXPECT not in request.headers:
            return await application(request)
        if request.version == HttpVersion11:  # older clients cannot expect anything
            request[_EXPECTED] = request.headers[hdrs.EXPECT].strip().lower()
        hide_header(request, hdrs.EXPECT)
        try:
            response = await application(request)
        except web.HTTPException as answer:
            _close_before_body(request, answer)
            raise
        _close_before_body(request, response)
        return response

    return handle


def check_expectation(request: web.BaseRequest) -> None:
    """Raise HTTPExpectationFailed (417) if the client expects what nobody knows."""
    if _EXPECTED in request and request[_EXPECTED] not in (_CONTINUE, ""):
        raise web.HTTPExpectationFailed(reason="the only known value of the header Expect is 100-continue")


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
