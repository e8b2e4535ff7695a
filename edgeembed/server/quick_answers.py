"""Answers whose head and body are sent as they are: building a response in aiohttp takes as long as a cache lookup."""

from __future__ import annotations

import functools
import time
from email.utils import formatdate

from aiohttp import hdrs, web

from edgeembed.server.aiohttp_internals import RawResponse, takes_raw
from edgeembed.server.app_keys import TRACING
from edgeembed.server.middleware import common_headers, id_of
from edgeembed.server.responses import JSON_TYPE, LARGE_BYTES, json_bytes


def quick_json(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
    """Return a response with JSON, the same as `json_bytes` makes, as bytes if it is an ordinary one."""
    # A web page's browser needs more headers, and spans read them.
    needs_headers = hdrs.ORIGIN in request.headers or request.app.get(TRACING) is not None
    if len(body) > LARGE_BYTES or needs_headers or not takes_raw(request):
        return json_bytes(body, headers)
    every = {hdrs.CONTENT_TYPE: JSON_TYPE, **headers, **common_headers(id_of(request))}
    return RawResponse(head(every, date(int(time.time())), len(body)).encode() + body, len(body))


def head(headers: dict[str, str], date: str, length: int | str) -> str:
    """Return the head of a response. length: of its body."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return f"HTTP/1.1 200 OK\r\n{lines}{hdrs.DATE}: {date}\r\n{hdrs.CONTENT_LENGTH}: {length}\r\n\r\n"


@functools.lru_cache(maxsize=1)
def date(second: int) -> str:
    """Return a Unix second as HTTP writes it."""
    return formatdate(second, usegmt=True)
