"""GET /v1: what a user finds who opens the base URL, to see whether it is the right one."""

from __future__ import annotations

import msgspec
from aiohttp import web

from edgeembed import __version__
from edgeembed.server.error_formats import Dialect
from edgeembed.server.paths import base_urls, origin_of
from edgeembed.server.responses import struct_response

routes = web.RouteTableDef()


class BaseUrlAnswer(msgspec.Struct):
    """This server, the base URL for the clients of each dialect, and where the routes are described."""

    server: str
    version: str
    base_urls: dict[Dialect, str]
    models: str
    docs: str


@routes.get("/v1")
async def base_url(request: web.Request) -> web.Response:
    """Return the base URL for the clients of each dialect."""
    origin = origin_of(request)
    return struct_response(
        BaseUrlAnswer("edgeembed", __version__, base_urls(origin), f"{origin}/v1/models", f"{origin}/docs")
    )
