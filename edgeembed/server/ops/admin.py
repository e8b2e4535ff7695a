"""What the owner of the daemon may tell it to do: GET /v1/admin, POST /v1/admin/pause, /resume, /shutdown, /cache/clear.

The tray icon uses these, and `edgeembed cache clear`. They belong to the running daemon and not to every application that
`make_app` makes, as they need somebody who can end it.
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
from edgeembed.server.body import decode
from edgeembed.server.responses import struct_response

log = logging.getLogger(__name__)

STOP: web.AppKey[Callable[[], None]] = web.AppKey("stop")
"""Tells the daemon to finish what it has and to end."""
_FORWARDED = ("Forwarded", "X-Forwarded-For")


class ClearBody(msgspec.Struct):
    """What is to be removed from the cache. model: NAME or NAME:TYPE; all vectors without it, or without a body."""

    model: str | None = None


class ClearAnswer(msgspec.Struct):
    """How many vectors were removed."""

    removed: int


_clear_decoder = msgspec.json.Decoder(ClearBody)


def add_to(app: web.Application, stop: Callable[[], None]) -> None:
    """Let the owner administer an application; stop: begins the end of the daemon."""
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
    """Tell whether the daemon is paused."""
    return _answer(request)


async def pause(request: web.Request) -> web.Response:
    """Compute nothing new: texts that the cache has are answered still, all else gets a 503 with Retry-After.

    What is being computed gets to finish. A daemon that starts is never paused.
    """
    _require_owner(request)
    _set_paused(request, True)
    return _answer(request)


async def resume(request: web.Request) -> web.Response:
    """Compute again."""
    _require_owner(request)
    _set_paused(request, False)
    return _answer(request)


async def shutdown(request: web.Request) -> web.Response:
    """End the daemon once requests in flight have finished, or after the setting grace_period."""
    _require_owner(request)
    log.info("told to stop by a request")
    request.app[STOP]()
    return _answer(request, stopping=True)


async def clear_cache(request: web.Request) -> web.Response:
    """Remove vectors from the cache, in memory and on disk: of all models, or of one."""
    _require_owner(request)
    raw = await request.read()
    body = decode(raw, _clear_decoder, {}) if raw.strip() else ClearBody()
    cache = request.app[SERVICE].cache
    return struct_response(ClearAnswer(await cache.clear(body.model) if cache else 0))


def _set_paused(request: web.Request, paused: bool) -> None:
    pool = request.app[SERVICE].pool
    if pool.paused != paused:
        log.info("paused by a request" if paused else "resumed by a request")
    pool.paused = paused


def _answer(request: web.Request, *, stopping: bool = False) -> web.Response:
    return struct_response(AdminStatus(paused=request.app[SERVICE].pool.paused, stopping=stopping))


def _require_owner(request: web.Request) -> None:
    """Let in whoever has a key; where no key is asked for, programs of this machine. Raises ForbiddenError."""
    if hdrs.ORIGIN in request.headers:
        raise ForbiddenError("web pages may not administer this server")  # those of allowed_origins neither
    if request.app[ACCESS].keys:
        return
    # A proxy in front makes everybody's requests look like this machine's.
    if any(name in request.headers for name in _FORWARDED) or not _is_local(request.remote):
        raise ForbiddenError("only programs of this machine may administer a server that asks for no key")


def _is_local(remote: str | None) -> bool:
    if not remote:
        return True  # a Unix socket
    try:
        address = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
