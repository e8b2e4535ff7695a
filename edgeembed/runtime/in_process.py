"""The inference service in this process, for commands that find no running daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from edgeembed.common.progress import ReportLine
from edgeembed.config.resolution import Resolved
from edgeembed.errors import ConfigError
from edgeembed.hub.install import ensure_installed
from edgeembed.inference.service import EmbeddingService
from edgeembed.models.served_model import ServedModel, served
from edgeembed.runtime.models import ConfiguredModels
from edgeembed.runtime.service import make_service


@asynccontextmanager
async def in_process_service(
    resolved: Resolved, report: ReportLine, *, cache: bool
) -> AsyncIterator[tuple[EmbeddingService, ServedModel]]:
    """Yield a service for the configured model, which is installed first if need be; its worker ends with the context.

    cache: use the vector cache; without it every text is computed. The queue has no limit: there is one client.

    Raises ConfigError when no model is configured, or when the cache is wanted and the settings disable it.
    """
    settings, paths = resolved.settings, resolved.paths
    if settings.model is None:
        raise ConfigError("no model is configured; name one with --model")
    if cache and not settings.cache:
        raise ConfigError("the cache is disabled by the setting `cache`; enable it to fill it")
    model = served(ensure_installed(settings.model, paths=paths, settings=settings, report=report))
    alone = msgspec.structs.replace(settings, cache=cache, max_queue_tokens=0)
    service = make_service(alone, paths, ConfiguredModels(model))
    if service.cache is not None:
        await service.cache.open()
    try:
        yield service, model
    finally:
        await service.pool.close()
        if service.cache is not None:
            await service.cache.close()
