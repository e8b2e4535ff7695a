"""GET /: the dashboard, which shows what the daemon does, lets users try it, and tells how to connect clients.

One HTML file, some style sheets and some scripts, with no resources from other servers. The files hold no data and need no
API key; the scripts read their data from the public routes, and ask for a key if the server requires one.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

from aiohttp import hdrs, web

routes = web.RouteTableDef()

PLAIN = "Ollama is running (its API, served by edgeembed)"
"""The response for programs. Scripts look for Ollama's words to see that the server runs."""
SCRIPTS = (
    "dashboard.js",
    "playground.js",
    "connect.js",
    "heat_map.js",
    "page.js",
    "pause.js",
    "manage.js",
    "models.js",
    "settings.js",
    "settings_state.js",
    "access.js",
    "log.js",
)
"""The script of the page, and those that it imports."""
STYLES = ("dashboard.css", "manage.css")
"""The style sheets."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # After an update, browsers must not combine old files with new ones.
    "Cache-Control": "no-cache",
}


@routes.get("/")
async def dashboard(request: web.Request) -> web.StreamResponse:
    """Return the dashboard to browsers, and a line of text to other clients."""
    if "text/html" in request.headers.get(hdrs.ACCEPT, ""):
        response = _file(request, "index.html", "text/html")
    else:
        response = web.Response(text=PLAIN)
    response.headers[hdrs.VARY] = hdrs.ACCEPT
    return response


async def style_sheet(request: web.Request) -> web.StreamResponse:
    """Return one of the dashboard's style sheets."""
    return _file(request, request.path.removeprefix("/"), "text/css")


async def script(request: web.Request) -> web.StreamResponse:
    """Return one of the dashboard's scripts."""
    return _file(request, request.path.removeprefix("/"), "text/javascript")


@routes.get("/recipes.json")
async def recipes(request: web.Request) -> web.StreamResponse:
    """Return what to enter in each program, and what each sends, with placeholders for address, model and key."""
    return _file(request, "recipes.json", "application/json")


for _name in SCRIPTS:
    routes.get(f"/{_name}")(script)
for _name in STYLES:
    routes.get(f"/{_name}")(style_sheet)


def _file(request: web.Request, name: str, type_: str) -> web.Response:
    content, tag = _read(name)
    headers = {**HEADERS, hdrs.ETAG: f'"{tag}"'}
    cached = request.if_none_match
    if cached is not None and any(each.value == tag for each in cached):
        return web.Response(status=304, headers=headers)
    return web.Response(body=content, content_type=type_, charset="utf-8", headers=headers)


@cache
def _read(name: str) -> tuple[bytes, str]:
    content = resources.files(__package__).joinpath(name).read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:16]
