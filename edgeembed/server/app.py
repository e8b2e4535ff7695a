"""The aiohttp application: what its handlers share, its routes, its background tasks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence

from aiohttp import web

from edgeembed.errors import EngineError
from edgeembed.inference.service import EmbeddingService
from edgeembed.models.served_model import ServedModel
from edgeembed.server import auth, dashboard
from edgeembed.server.app_keys import ACCESS, MAX_REQUEST_TEXTS, SERVICE, STARTED_AT
from edgeembed.server.auth import Access
from edgeembed.server.dialects import (
    classify,
    cohere,
    invocations_path,
    lm_studio,
    ollama_embed,
    ollama_generate,
    ollama_models,
    openai,
    pooling,
    rerank_path,
    score,
    tei,
    tei_info,
    tei_outputs,
    tei_scores,
    tei_tokens,
    tokenize,
    tokenize_path,
)
from edgeembed.server.dialects.model_cards import CARDS, ModelCards
from edgeembed.server.middleware import errors, request_ids, set_headers
from edgeembed.server.ops import base_url, docs, end_reason, metrics, openapi, status
from edgeembed.server.ops.end_reason import END_REASON, EndReason
from edgeembed.server.ops.metrics import METRICS, Metrics
from edgeembed.server.ops.openapi import OPENAPI, OpenApi
from edgeembed.server.paths import SPELLINGS, Spellings
from edgeembed.server.reading import ROOM, ROOM_BYTES, BodyRoom

DIALECTS = (
    openai,
    pooling,
    rerank_path,
    score,
    classify,
    tokenize,
    tokenize_path,
    ollama_embed,
    ollama_generate,
    ollama_models,
    lm_studio,
    tei,
    tei_outputs,
    tei_scores,
    tei_tokens,
    tei_info,
    cohere,
    invocations_path,
)

DEFAULT_MAX_REQUEST_TEXTS = 2048
NOTE_USE_SECONDS = 10.0
"""Interval at which model use is noted; the file is written once a minute for a model at most."""

SYNC_SECONDS = 10.0
"""Interval at which the drift baselines are read and written, and alarms are logged."""

NoteUse = Callable[[Sequence[ServedModel]], None]


def make_app(
    service: EmbeddingService,
    *,
    preload: Sequence[ServedModel] = (),
    note_use: NoteUse | None = None,
    access: Access | None = None,
    max_body_bytes: int = 64 * 1024 * 1024,
    max_request_texts: int = DEFAULT_MAX_REQUEST_TEXTS,
) -> web.Application:
    """Return the application of a service, whose cache and models it opens and closes.

    When it starts, the default model and then those of `preload` start loading, one at a time; requests wait for
    theirs. note_use: called in a thread with the recently used models. access: who may use the server; by default
    everybody who calls it by a name of this machine.
    """
    access = access or Access()
    middlewares = [request_ids, errors, auth.middleware(access)]
    # `reading` decompresses.
    app = web.Application(middlewares=middlewares, client_max_size=max_body_bytes, handler_args={"auto_decompress": False})
    app.on_response_prepare.append(set_headers)
    app[ACCESS] = access
    app[SERVICE] = service
    app[MAX_REQUEST_TEXTS] = max_request_texts
    app[ROOM] = BodyRoom(ROOM_BYTES)
    app[STARTED_AT] = time.time()
    app[METRICS] = Metrics(service, app[STARTED_AT])
    app[CARDS] = ModelCards()
    app[OPENAPI] = OpenApi()
    app[END_REASON] = EndReason()
    app[SPELLINGS] = Spellings(app)
    for module in (*DIALECTS, base_url, status, end_reason, metrics, dashboard, openapi, docs):
        app.add_routes(module.routes)
    app.cleanup_ctx.append(_cache)
    app.cleanup_ctx.append(_baselines)
    app.cleanup_ctx.append(_models([*([service.registry.default] if service.registry.default else []), *preload]))
    if note_use is not None:
        app.cleanup_ctx.append(_uses(note_use))
    return app


async def _cache(app: web.Application) -> AsyncIterator[None]:
    cache = app[SERVICE].cache
    if cache:
        await cache.open()
    yield
    if cache:
        await cache.close()


async def _baselines(app: web.Application) -> AsyncIterator[None]:
    """Read and write the drift baselines at intervals and at the end."""
    vectors = app[SERVICE].vectors

    async def repeat() -> None:
        while True:
            await vectors.sync()
            await asyncio.sleep(SYNC_SECONDS)

    syncing = asyncio.create_task(repeat(), name="vector baselines")
    yield
    syncing.cancel()
    await asyncio.gather(syncing, return_exceptions=True)
    await vectors.sync()


def _models(first: Sequence[ServedModel]) -> Callable[[web.Application], AsyncIterator[None]]:
    async def context(app: web.Application) -> AsyncIterator[None]:
        pool = app[SERVICE].pool
        # In the background, so that the server answers /health while models load. The slot exists at once.
        loads = [asyncio.create_task(pool.load(model)) for model in first[:1]]

        async def rest() -> None:
            await asyncio.wait(loads) if loads else None
            for model in first[1:]:
                with contextlib.suppress(EngineError):  # reported in the log, in /health and to each request for it
                    await pool.load(model)

        loading = asyncio.create_task(rest(), name="preload")
        await asyncio.sleep(0)
        yield
        loading.cancel()
        await pool.close()
        await asyncio.gather(loading, *loads, return_exceptions=True)

    return context


def _uses(note_use: NoteUse) -> Callable[[web.Application], AsyncIterator[None]]:
    async def context(app: web.Application) -> AsyncIterator[None]:
        service = app[SERVICE]
        noted: dict[tuple[str, str], int] = {}

        async def note() -> None:
            used = [model for model in service.registry.models if service.requests[model.key] != noted.get(model.key, 0)]
            noted.update({model.key: service.requests[model.key] for model in used})
            if used:
                await asyncio.to_thread(note_use, used)

        async def repeat() -> None:
            while True:
                await asyncio.sleep(NOTE_USE_SECONDS)
                await note()

        noting = asyncio.create_task(repeat(), name="note use")
        yield
        noting.cancel()
        await note()

    return context
