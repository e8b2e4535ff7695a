"""Routes for the daemon's owner: GET /v1/admin, POST /v1/admin/pause, /resume, /shutdown, /cache/clear.

The tray icon and `edgeembed cache clear` use them. Only the daemon's own application has them: /shutdown needs a daemon.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable

import msgspec
from aiohttp import hdrs, web

from edgeembed.common.status import AdminStatus
from edgeembed.errors import ForbiddenError
from edgeembed.server.app_keys import ACCESS, SERVICE
from edgeembed.server.body import BodyType, read_body
from edgeembed.server.reading import read_request
from edgeembed.server.responses import struct_response

log = logging.getLogger(__name__)

STOP: web.AppKey[Callable[[], None]] = web.AppKey("stop")
"""Shuts the daemon down, after the requests in flight."""
_FORWARDED = ("Forwarded", "X-Forwarded-For")


class ClearBody(msgspec.Struct):
    """The vectors to remove: those of `model` (NAME or NAME:TYPE), or all without it or without a body."""

    model: str | None = None


class ClearAnswer(msgspec.Struct):
    """The number of vectors removed."""

    removed: int


_CLEAR = BodyType(ClearBody, {})


def add_to(app: web.Application, stop: Callable[[], None]) -> None:
    """Add the routes to an application. stop: shuts the daemon down."""
    app[STOP] = stop
    app.add_routes(
        [
            web.get("/v1/admin", show),
            web.post("/v1/admin/pause", pause),
            web.post("/v1/admin/resume", resume),
            web.post("/v1/admin/shutdown", shutdown),
            web.post("/v1/admin/cache/clear", clear_cache),
        ]
    )


async def show(request: web.Request) -> web.Response:
    """Return whether the daemon is paused."""
    return _answer(request)


async def pause(request: web.Request) -> web.Response:
    """Pause computing: texts in the cache are still answered, all others get a 503 with Retry-After.

    Requests that are being computed are finished. A daemon is not paused when it starts.
    """
    _require_owner(request)
    _set_paused(request, True)
    return _answer(request)


async def resume(request: web.Request) -> web.Response:
    """Resume computing."""
    _require_owner(request)
    _set_paused(request, False)
    return _answer(request)


async def shutdown(request: web.Request) -> web.Response:
    """Shut the daemon down after the requests in flight, at the latest after the setting grace_period."""
    _require_owner(request)
    log.info("shutdown requested over HTTP")
    request.app[STOP]()
    return _answer(request, stopping=True)


async def clear_cache(request: web.Request) -> web.Response:
    """Remove the vectors of all models or of one from the cache, in memory and on disk."""
    _require_owner(request)
    given = (await read_request(request)).strip()
    body = await read_body(request, _CLEAR) if given else ClearBody()
    cache = request.app[SERVICE].cache
    return struct_response(ClearAnswer(await cache.clear(body.model) if cache else 0))


def _set_paused(request: web.Request, paused: bool) -> None:
    pool = request.app[SERVICE].pool
    if pool.paused != paused:
        log.info("paused over HTTP" if paused else "resumed over HTTP")
    pool.paused = paused


def _answer(request: web.Request, *, stopping: bool = False) -> web.Response:
    return struct_response(AdminStatus(paused=request.app[SERVICE].pool.paused, stopping=stopping))


def _require_owner(request: web.Request) -> None:
    """Raise ForbiddenError unless the client has an API key or, if none are set, is a program on this machine."""
    if hdrs.ORIGIN in request.headers:
        raise ForbiddenError("web pages may not administer this server")  # not even those of allowed_origins
    if request.app[ACCESS].keys:
        return
    # Behind a proxy, all requests seem to come from this machine.
    if any(name in request.headers for name in _FORWARDED) or not _is_local(request.remote):
        raise ForbiddenError("only programs on this machine may administer a server without API keys")


def _is_local(remote: str | None) -> bool:
    if not remote:
        return True  # a Unix socket
    try:
        address = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
