"""Is it well, and what is it doing: GET /livez, /readyz, /health and /v1/status."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import msgspec
import numpy as np
from aiohttp import web

from edgeembed import __version__
from edgeembed.errors import EngineError
from edgeembed.inference.drift import VectorStats
from edgeembed.inference.moments import NORM_BOUNDS
from edgeembed.inference.service import EmbeddingService
from edgeembed.models.pool import Slot
from edgeembed.server.app_keys import SERVICE, STARTED_AT
from edgeembed.server.ops.metrics import METRICS
from edgeembed.server.responses import json_response
from edgeembed.upstream.engine import RemoteEngine

routes = web.RouteTableDef()


@routes.get("/livez")
async def livez(_request: web.Request) -> web.Response:
    """Answer at once: the daemon runs. One that does not answer needs a restart; the model is no part of this."""
    return json_response({"status": "ok"})


@routes.get("/readyz")
@routes.get("/health")
async def health(request: web.Request) -> web.Response:
    """Answer {"status": "ok"} when the default model can compute, shown by a row; else 503 with the reason.

    A model that is unloaded because nobody uses it is well: it loads when it is asked for. Others that cannot be served are
    named, and are no reason for a 503. "degraded", still with 200: vectors of late are unlike those that a model gave once;
    when a probe text shows that it is the model that has changed, it is a 503.
    """
    service = request.app[SERVICE]
    default = service.registry.default
    slot = service.pool.slot_of(default) if default else None
    engine = slot.engine.status if slot and slot.engine else None
    details: dict[str, Any] = {
        "model": default.name if default else None,
        "mode": engine.mode if engine else None,
        "demotions": [{"mode": demotion.mode, "reason": demotion.reason} for demotion in engine.demotions] if engine else [],
    }
    if ill := {
        other.model.spec: other.reason for other in service.pool.slots if other.state == "failed" and other is not slot
    }:
        details["failed_models"] = ill
    if service.cache and (problem := service.cache.stats.disk_problem):
        details["cache"] = problem
    try:
        await service.check()
    except EngineError as error:
        # A state of its own while it loads, so that scripts can tell "wait" from "look".
        loading = (slot and slot.state == "loading") or (engine and engine.state == "starting")
        word = "starting" if loading else "unavailable"
        return json_response({"status": word, "reason": error.message, **details}, status=503, headers={"Retry-After": "1"})
    ill_vectors = [
        f"{model.spec}: {reason}"
        for model in service.registry.models
        if (reason := service.vectors.alarm(model)) is not None
    ]
    if ill_vectors:
        return json_response({"status": "degraded", "vectors": "; ".join(ill_vectors), **details})
    return json_response({"status": "ok", **details})


@routes.get("/v1/status")
async def status(request: web.Request) -> web.Response:
    """Tell everything that there is to know about the daemon; no text that anybody sent is in it."""
    service = request.app[SERVICE]
    default = service.registry.default
    slot = service.pool.slot_of(default) if default else None
    info = slot.engine.info if slot and slot.engine else None
    return json_response(
        {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_seconds": round(time.time() - request.app[STARTED_AT], 3),
            "model": {**_builtins(info), "name": default.name, "digest": default.digest} if default else None,
            "engine": _builtins(slot.engine.status) if slot and slot.engine else None,
            "memory": {"budget_bytes": service.pool.budget_bytes, "used_bytes": service.pool.used_bytes},
            "models": [_slot(service, slot) for slot in service.pool.slots],
            "devices": await asyncio.to_thread(service.devices),
            "cache": _builtins(service.cache.stats) if service.cache else None,
            "upstream": _upstream(slot),
            "vectors": [_vectors(one) for one in service.vectors.stats()],
            "activity": request.app[METRICS].http.activity.describe(),
        }
    )


def _upstream(slot: Slot | None) -> dict[str, Any] | None:
    """Describe the server that computes the default model, if that is another one."""
    report = slot.engine.upstream if slot and isinstance(slot.engine, RemoteEngine) else None
    return _builtins(report) if report else None


def _vectors(stats: VectorStats) -> dict[str, Any]:
    """Describe the rows of a model; see `edgeembed.inference.drift`."""
    now, before = stats.now, stats.baseline
    return {
        "model": stats.model,
        "input_type": stats.input_type,
        "rows": stats.rows,
        "bad_rows": stats.bad,
        "bad_share": stats.bad_share,
        "norm_bounds": NORM_BOUNDS,
        "norm_buckets": list(stats.norm_buckets),
        "norm": float(np.exp(now.log_norm)) if now else None,
        "mean": now.value_mean if now else None,
        "variance": now.value_variance if now else None,
        "spread": now.spread if now else None,
        "drift_cosine": stats.drift_cosine,
        "baseline_rows": stats.baseline_rows,
        "baseline_norm": float(np.exp(before.log_norm)) if before else None,
        "alarm": stats.alarm,
    }


def _slot(service: EmbeddingService, slot: Slot) -> dict[str, Any]:
    """Describe one loaded model, for `edgeembed ps`."""
    model, engine = slot.model, slot.engine
    info = engine.info if engine else None
    engine_status = engine.status if engine else None
    state: str = slot.state
    if slot.state == "ready" and engine_status is not None:
        state = engine_status.state
    default = service.registry.default
    return {
        "name": model.name,
        "type": model.type,
        "task": model.task,
        "path": model.upstream or str(model.path),
        "digest": model.digest,
        "default": default is not None and model.key == default.key,
        "pinned": slot.pinned,
        "state": state,
        "reason": slot.reason,
        "device": engine_status.mode if engine_status else None,
        "offload": engine_status.offload if engine_status else None,
        "demotions": [msgspec.to_builtins(demotion) for demotion in engine_status.demotions] if engine_status else [],
        "memory_bytes": slot.memory_bytes,
        "requests": service.requests[model.key],
        "texts": service.texts[model.key],
        "texts_computed": engine_status.texts_computed if engine_status else 0,
        "texts_waiting": engine_status.texts_waiting if engine_status else 0,
        "restarts": engine_status.restarts if engine_status else 0,
        "active": slot.leases,
        "idle_seconds": None if slot.leases else round(time.monotonic() - slot.used_at, 3),
        "keep_alive_seconds": None if slot.pinned else slot.keep_alive,
        "dimensions": info.dimensions if info and model.task == "embed" else model.dimensions,
        "context_tokens": info.context_tokens if info else None,
        "worker_pid": engine_status.worker_pid if engine_status else None,
    }


def _builtins(struct: msgspec.Struct | None) -> dict[str, Any]:
    return {} if struct is None else msgspec.to_builtins(struct)
