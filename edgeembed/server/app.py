"""The aiohttp application: what it shares, its routes, its life."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from aiohttp import web

from edgeembed.server import openai, status
from edgeembed.server.keys import MAX_INPUTS, SERVICE, STARTED_AT
from edgeembed.server.middleware import errors, request_ids
from edgeembed.service import EmbeddingService

DEFAULT_MAX_INPUTS = 2048


def make_app(
    service: EmbeddingService, *, max_body_bytes: int = 64 * 1024 * 1024, max_inputs: int = DEFAULT_MAX_INPUTS
) -> web.Application:
    """Make the application around a service, whose cache and engine it opens and closes.

    The engine starts loading when the application starts; requests wait for it.
    """
    app = web.Application(middlewares=[request_ids, errors], client_max_size=max_body_bytes)
    app[SERVICE] = service
    app[MAX_INPUTS] = max_inputs
    app[STARTED_AT] = time.time()
    app.add_routes(openai.routes)
    app.add_routes(status.routes)
    app.cleanup_ctx.append(_cache)
    app.cleanup_ctx.append(_engine)
    return app


async def _cache(app: web.Application) -> AsyncIterator[None]:
    cache = app[SERVICE].cache
    if cache:
        await cache.open()
    yield
    if cache:
        await cache.close()


async def _engine(app: web.Application) -> AsyncIterator[None]:
    engine = app[SERVICE].engine
    # In the background: the server answers /health while the model loads.
    loading = asyncio.create_task(engine.start())
    loading.add_done_callback(_retrieve)  # whoever waits for the engine learns of a failure too
    yield
    loading.cancel()
    await engine.close()


def _retrieve(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()
