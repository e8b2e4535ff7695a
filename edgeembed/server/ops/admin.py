"""Routes for the daemon's owner: GET /v1/admin, POST /v1/admin/pause, /resume, /shutdown, /cache/clear.

The tray icon and `edgeembed cache clear` use them. Only the daemon's own application has them: /shutdown needs a daemon.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec
from aiohttp import web

from edgeembed.common.status import AdminStatus
from edgeembed.server.app_keys import SERVICE
from edgeembed.server.body import BodyType, read_body
from edgeembed.server.owner import require_owner
from edgeembed.server.reading import read_request
from edgeembed.server.responses import struct_response

log = logging.getLogger(__name__)

STOP: web.AppKey[Callable[[], None]] = web.AppKey("stop")
"""Shuts the daemon down, after the requests in flight."""


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
    require_owner(request)
    _set_paused(request, True)
    return _answer(request)


async def resume(request: web.Request) -> web.Response:
    """Resume computing."""
    require_owner(request)
    _set_paused(request, False)
    return _answer(request)


async def shutdown(request: web.Request) -> web.Response:
    """Shut the daemon down after the requests in flight, at the latest after the setting grace_period."""
    require_owner(request)
    log.info("shutdown requested over HTTP")
    request.app[STOP]()
    return _answer(request, stopping=True)


async def clear_cache(request: web.Request) -> web.Response:
    """Remove the vectors of all models or of one from the cache, in memory and on disk."""
    require_owner(request)
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
