"""Is it well, and what is it doing: GET /health, GET /v1/status."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec
from aiohttp import web

from edgeembed import __version__
from edgeembed.errors import EngineError
from edgeembed.server.answers import json_response
from edgeembed.server.keys import SERVICE, STARTED_AT

routes = web.RouteTableDef()


@routes.get("/health")
async def health(request: web.Request) -> web.Response:
    """Answer {"status": "ok"} when the model can embed, shown by a vector; else 503 with the reason."""
    service = request.app[SERVICE]
    engine = service.engine.status
    details: dict[str, Any] = {
        "model": service.model.name,
        "rung": engine.rung,
        "falls": [{"rung": fall.rung, "reason": fall.reason} for fall in engine.falls],
    }
    if service.cache and (problem := service.cache.stats.disk_problem):
        details["cache"] = problem
    try:
        await service.check()
    except EngineError as error:
        # A state of its own while it loads, so that scripts can tell "wait" from "look".
        word = "starting" if engine.state == "starting" else "unavailable"
        return json_response({"status": word, "reason": error.message, **details}, status=503, headers={"Retry-After": "1"})
    return json_response({"status": "ok", **details})


@routes.get("/v1/status")
async def status(request: web.Request) -> web.Response:
    """Tell everything that there is to know about the daemon; no text that anybody sent is in it."""
    service = request.app[SERVICE]
    return json_response(
        {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_seconds": round(time.time() - request.app[STARTED_AT], 3),
            "model": {**_builtins(service.engine.info), "name": service.model.name, "digest": service.model.digest},
            "engine": _builtins(service.engine.status),
            "cache": _builtins(service.cache.stats) if service.cache else None,
        }
    )


def _builtins(struct: msgspec.Struct | None) -> dict[str, Any]:
    return {} if struct is None else msgspec.to_builtins(struct)
