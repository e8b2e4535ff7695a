"""Routes for the daemon's owner about the daemon: GET /v1/admin, POST /v1/admin/pause, /resume, /shutdown, /restart.

The tray icon, commands and the dashboard use them. Only the daemon's own application has them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from aiohttp import web

from edgeembed.common.status import AdminStatus
from edgeembed.server.app_keys import SERVICE
from edgeembed.server.body import BodyType, read_body
from edgeembed.server.live_settings import LIVE
from edgeembed.server.ops.admin_settings import require_startable
from edgeembed.server.ops.end_reason import END_REASON, RESTARTS, SHUT_DOWN
from edgeembed.server.owner import owned
from edgeembed.server.reading import read_request
from edgeembed.server.responses import struct_response

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """The ways in which a daemon ends, after the requests in flight. restart: it starts anew with the same command."""

    stop: Callable[[], None]
    restart: Callable[[], None]


ENDING: web.AppKey[Ending] = web.AppKey("ending")


class ClearBody(msgspec.Struct):
    """The vectors to remove: those of `model` (NAME or NAME:TYPE), or all without it or without a body."""

    model: str | None = None


class ClearAnswer(msgspec.Struct):
    """The number of vectors removed."""

    removed: int


_CLEAR = BodyType(ClearBody, {})


def add_to(app: web.Application, ending: Ending) -> None:
    """Add the routes to an application."""
    app[ENDING] = ending
    app.add_routes(
        [
            web.get("/v1/admin", owned(show)),
            web.post("/v1/admin/pause", owned(pause)),
            web.post("/v1/admin/resume", owned(resume)),
            web.post("/v1/admin/shutdown", owned(shutdown)),
            web.post("/v1/admin/restart", owned(restart)),
            web.post("/v1/admin/cache/clear", owned(clear_cache)),
        ]
    )


async def show(request: web.Request) -> web.Response:
    """Return whether the daemon is paused."""
    return _answer(request)


async def pause(request: web.Request) -> web.Response:
    """Pause computing: texts in the cache are still answered, all others get a 503 with Retry-After.

    Requests that are being computed are finished. A daemon is not paused when it starts.
    """
    _set_paused(request, True)
    return _answer(request)


async def resume(request: web.Request) -> web.Response:
    """Resume computing."""
    _set_paused(request, False)
    return _answer(request)


async def shutdown(request: web.Request) -> web.Response:
    """Shut the daemon down after the requests in flight, at the latest after the setting grace_period."""
    log.info("shutdown requested over HTTP")
    request.app[END_REASON].begin(SHUT_DOWN)
    request.app[ENDING].stop()
    return _answer(request, stopping=True)


async def restart(request: web.Request) -> web.Response:
    """Shut the daemon down as /shutdown does, and start it anew with the same command, which reads the settings again.

    Its address is closed meanwhile, for a second or two beside the time that the requests in flight take. A 409 says why it
    would not start again: then it goes on as it is.
    """
    await asyncio.to_thread(require_startable, request.app[LIVE])
    log.info("restart requested over HTTP")
    request.app[END_REASON].begin(RESTARTS)
    request.app[ENDING].restart()
    return _answer(request, stopping=True)


async def clear_cache(request: web.Request) -> web.Response:
    """Remove the vectors of all models or of one from the cache, in memory and on disk."""
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
