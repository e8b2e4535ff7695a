"""GET /: a page that shows what the daemon does, lets one try it, and says how to connect.

One HTML file, one style sheet and one script, nothing from elsewhere. The page gets what it shows from the same routes as
everybody else, so it holds no data itself and may be fetched without a key; where keys are needed it asks for one.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

from aiohttp import hdrs, web

routes = web.RouteTableDef()

PLAIN = "edgeembed is running"
"""What programs get that want no page; clients of Ollama look for an answer here."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # The files of a page belong together: after an update the old ones must not be used.
    "Cache-Control": "no-cache",
}


@routes.get("/")
async def dashboard(request: web.Request) -> web.StreamResponse:
    """Show the dashboard to browsers; say that the daemon runs to everybody else."""
    if "text/html" in request.headers.get(hdrs.ACCEPT, ""):
        response = _file(request, "index.html", "text/html")
    else:
        response = web.Response(text=PLAIN)
    response.headers[hdrs.VARY] = hdrs.ACCEPT
    return response


@routes.get("/dashboard.css")
async def style_sheet(request: web.Request) -> web.StreamResponse:
    """Give the dashboard's style sheet."""
    return _file(request, "dashboard.css", "text/css")


@routes.get("/dashboard.js")
async def script(request: web.Request) -> web.StreamResponse:
    """Give the dashboard's script."""
    return _file(request, "dashboard.js", "text/javascript")


def _file(request: web.Request, name: str, type_: str) -> web.Response:
    content, tag = _read(name)
    headers = {**HEADERS, hdrs.ETAG: f'"{tag}"'}
    known = request.if_none_match
    if known is not None and any(each.value == tag for each in known):
        return web.Response(status=304, headers=headers)
    return web.Response(body=content, content_type=type_, charset="utf-8", headers=headers)


@cache
def _read(name: str) -> tuple[bytes, str]:
    content = resources.files(__package__).joinpath(name).read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:16]
