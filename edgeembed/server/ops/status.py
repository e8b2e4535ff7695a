"""Whether the daemon is well, and what it does: GET /livez, /readyz, /health and /v1/status."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import msgspec
import numpy as np
from aiohttp import web
from msgspec import UNSET

from edgeembed import __version__
from edgeembed.common.retry_after import format_retry_after
from edgeembed.common.status import (
    DaemonStatus,
    DefaultModel,
    Health,
    HealthDemotion,
    LoadedModel,
    MemoryUse,
    UpstreamStatus,
    VectorsStatus,
)
from edgeembed.errors import EngineError
from edgeembed.inference.drift import VectorStats
from edgeembed.inference.moments import NORM_BOUNDS
from edgeembed.inference.service import EmbeddingService
from edgeembed.models.slot import Slot
from edgeembed.server.app_keys import ACCESS, SERVICE, STARTED_AT
from edgeembed.server.ops.metrics import METRICS
from edgeembed.server.responses import json_response, struct_response

routes = web.RouteTableDef()

RETRY_SECONDS = 1.0
"""Retry-After of a health check that fails."""


@routes.get("/livez")
async def livez(_request: web.Request) -> web.Response:
    """Answer 200 while the process is alive, whatever the state of its models. Without an answer, restart the daemon."""
    return json_response({"status": "ok"})


@routes.get("/readyz")
@routes.get("/health")
async def health(request: web.Request) -> web.Response:
    """Answer 200 if the default model can compute, which is tried with one text; otherwise 503 with the reason.

    A model that was unloaded while idle is fine: the next request loads it. Other models that cannot be served are listed in
    `failed_models` and do not cause a 503. The status "degraded" (200) means that the latest vectors are unlike the model's
    earlier ones; if a probe text shows that the model itself has changed, the answer is 503. The status "paused" (200) means
    that its owner wants nothing computed: only texts in the cache are answered.
    """
    service = request.app[SERVICE]
    found = _health(service)
    try:
        await service.check()
    except EngineError as error:
        ill = msgspec.structs.replace(found, reason=error.message)
        return struct_response(ill, status=503, headers={"Retry-After": format_retry_after(RETRY_SECONDS)})
    alarms = [
        f"{model.spec}: {reason}"
        for model in service.registry.models
        if (reason := service.vectors.alarm(model)) is not None
    ]
    word = "paused" if service.pool.paused else "degraded" if alarms else "ok"
    return struct_response(msgspec.structs.replace(found, status=word, vectors="; ".join(alarms) or UNSET))


def _health(service: EmbeddingService) -> Health:
    """Return the answer for a default model that cannot compute, with everything but the reason."""
    default = service.registry.default
    slot = service.pool.slot_of(default) if default else None
    engine = slot.engine.status if slot and slot.engine else None
    failed = {
        other.model.spec: other.reason for other in service.pool.slots if other.state == "failed" and other is not slot
    }
    # A status of its own while it loads, so that scripts can tell "wait" from "look into it".
    loading = service.registry.pending or (slot and slot.state == "loading") or (engine and engine.state == "starting")
    return Health(
        status="starting" if loading else "unavailable",
        paused=service.pool.paused or UNSET,
        model=default.name if default else None,
        mode=engine.mode if engine else None,
        demotions=tuple(HealthDemotion(each.mode, each.reason) for each in engine.demotions) if engine else (),
        reduction=(engine.reduction if engine else 0) or UNSET,
        failed_models=failed or UNSET,
        cache=(service.cache.stats.disk_problem if service.cache else None) or UNSET,
    )


@routes.get("/v1/status")
async def status(request: web.Request) -> web.Response:
    """Describe the daemon: models, memory, cache, vectors and the last minutes. No text of any request is included."""
    service = request.app[SERVICE]
    default = service.registry.default
    slot = service.pool.slot_of(default) if default else None
    pending = service.registry.pending
    share = pending.share if pending else None
    return struct_response(
        DaemonStatus(
            version=__version__,
            pid=os.getpid(),
            uptime_seconds=round(time.time() - request.app[STARTED_AT], 3),
            paused=service.pool.paused,
            starting=pending.stage if pending else UNSET,
            starting_share=UNSET if share is None else share,
            loopback_only=request.app[ACCESS].loopback_only,
            model=_default_model(service, slot),
            engine=slot.engine.status if slot and slot.engine else None,
            memory=MemoryUse(service.pool.used_bytes, service.pool.budget_bytes),
            models=tuple(_loaded(service, each) for each in service.pool.slots),
            devices=await asyncio.to_thread(service.devices),
            cache=service.cache.stats if service.cache else None,
            upstream=_upstream(slot),
            vectors=tuple(_vectors(one) for one in service.vectors.stats()),
            activity=request.app[METRICS].http.activity.describe(),
        )
    )


def _default_model(service: EmbeddingService, slot: Slot | None) -> DefaultModel | None:
    default = service.registry.default
    if default is None:
        return None
    info = slot.engine.info if slot and slot.engine else None
    facts: dict[str, Any] = {} if info is None else msgspec.to_builtins(info)
    return msgspec.convert(facts | {"name": default.name, "digest": default.digest}, DefaultModel)


def _upstream(slot: Slot | None) -> UpstreamStatus | None:
    """Return the status of the server that computes the default model, if another server does."""
    if slot is None or not slot.model.upstream:
        return None
    from edgeembed.upstream.engine import RemoteEngine

    return slot.engine.upstream if isinstance(slot.engine, RemoteEngine) else None


def _vectors(stats: VectorStats) -> VectorsStatus:
    now, before = stats.now, stats.baseline
    return VectorsStatus(
        model=stats.model,
        input_type=stats.input_type,
        rows=stats.rows,
        bad_rows=stats.bad,
        bad_share=stats.bad_share,
        norm_bounds=tuple(NORM_BOUNDS),
        norm_buckets=tuple(stats.norm_buckets),
        norm=float(np.exp(now.log_norm)) if now else None,
        mean=now.value_mean if now else None,
        variance=now.value_variance if now else None,
        spread=now.spread if now else None,
        drift_cosine=stats.drift_cosine,
        baseline_rows=stats.baseline_rows,
        baseline_norm=float(np.exp(before.log_norm)) if before else None,
        alarm=stats.alarm,
    )


def _loaded(service: EmbeddingService, slot: Slot) -> LoadedModel:
    model, engine, default = slot.model, slot.engine, service.registry.default
    info, engine_status = (engine.info, engine.status) if engine else (None, None)
    return LoadedModel(
        name=model.name,
        type=model.type,
        task=model.task,
        path=model.upstream or str(model.path),
        digest=model.digest,
        default=default is not None and model.key == default.key,
        pinned=slot.pinned,
        state=engine_status.state if engine_status and slot.state == "ready" else slot.state,
        reason=slot.reason,
        device=engine_status.mode if engine_status else None,
        offload=engine_status.offload if engine_status else None,
        demotions=engine_status.demotions if engine_status else [],
        memory_bytes=slot.memory_bytes,
        requests=service.requests[model.key],
        texts=service.texts[model.key],
        texts_computed=engine_status.texts_computed if engine_status else 0,
        texts_waiting=engine_status.texts_waiting if engine_status else 0,
        restarts=engine_status.restarts if engine_status else 0,
        active=slot.leases,
        idle_seconds=None if slot.leases else round(time.monotonic() - slot.used_at, 3),
        keep_alive_seconds=None if slot.pinned else slot.keep_alive,
        dimensions=info.dimensions if info and model.task == "embed" else model.dimensions,
        outputs=list(model.all_outputs),
        context_tokens=info.context_tokens if info else None,
        worker_pid=engine_status.worker_pid if engine_status else None,
    )
