"""The service of all models, made from the settings: cache, registry, pool and engines put together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edgeembed.cache import Server, SharedTier, VectorCache
from edgeembed.config.durations import seconds_of
from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.engine.interface import Engine
from edgeembed.hub.store import InstalledModel, Store
from edgeembed.inference.drift import VectorHealth
from edgeembed.inference.service import EmbeddingService, ServiceOptions
from edgeembed.models.pending import PendingModel
from edgeembed.models.pool import ModelPool
from edgeembed.models.registry import ModelRegistry
from edgeembed.models.served_model import ServedModel
from edgeembed.runtime.engines import make_engine, make_gpus
from edgeembed.runtime.models import ConfiguredModels, make_registry, make_rules
from edgeembed.runtime.replacement import ModelFiles
from edgeembed.runtime.upstream import make_remote_engine

if TYPE_CHECKING:  # it imports aiohttp, which commands that compute in their own process do without
    from edgeembed.upstream.remote import Remote

CACHE_FOLDER = "vectors"
VECTORS_FOLDER = "vector-baselines"


def make_service(
    settings: Settings,
    paths: Paths,
    configured: ConfiguredModels,
    files: ModelFiles | None = None,
    pending: PendingModel | None = None,
) -> EmbeddingService:
    """Return the service of all models; nothing starts yet. files: shared with who watches them.

    pending: why the default model is not known yet; see `adopt_default`.
    """
    store = Store(paths)
    registry = make_registry(settings, configured, store, files or ModelFiles(store), pending)
    gpus = make_gpus(settings)

    def engine_of(model: ServedModel) -> Engine:
        if model.upstream and configured.remote:
            return make_remote_engine(settings, paths, configured.remote)
        return make_engine(settings, paths, model, gpus=gpus, on_replaced=registry.mark_stale)

    pool = ModelPool(engine_of, make_rules(settings, configured, gpus, registry))
    if configured.remote:
        configured.remote.on_change = _UpstreamChange(registry, pool)
    remote = bool(configured.remote or (pending is not None and settings.upstream))
    return EmbeddingService(
        registry,
        pool,
        make_cache(settings, paths),
        ServiceOptions(
            timeout=settings.request_timeout,
            max_queue_tokens=settings.max_queue_tokens,
            # The tokens of an upstream model cannot be counted here before they are computed: its tokenizer is elsewhere.
            max_request_tokens=0 if remote else settings.max_request_tokens,
            truncate=settings.truncate,
            long_text="none" if remote else settings.long_text,
            clean_text=settings.clean_text,
        ),
        vectors=VectorHealth(paths.state / VECTORS_FOLDER),
        devices=gpus.describe,
    )


def adopt_default(service: EmbeddingService, configured: ConfiguredModels, found: InstalledModel | Remote) -> ServedModel:
    """Set the default model of a service that was made without one, and return the model."""
    default = configured.adopt(found)
    if configured.remote:
        configured.remote.on_change = _UpstreamChange(service.registry, service.pool)
    service.registry.set_default(default)
    return default


def make_cache(settings: Settings, paths: Paths) -> VectorCache | None:
    """Return the cache of rows; None where the settings switch it off.

    Raises ConfigError: redis-py is not installed, or refuses the URL of the shared tier.
    """
    if not settings.cache:
        return None
    ttl = seconds_of(settings.cache_ttl)
    return VectorCache(
        paths.cache / CACHE_FOLDER,
        memory_mib=settings.cache_memory_mib,
        disk_mib=settings.cache_disk_mib,
        ttl=ttl,
        shared=SharedTier(Server(settings.cache_url), ttl=ttl, secret=settings.cache_secret) if settings.cache_url else None,
    )


class _UpstreamChange:
    """Called when upstream turns out to serve another model: requests find the new one, and the old one is unloaded."""

    def __init__(self, registry: ModelRegistry, pool: ModelPool) -> None:
        self._registry = registry
        self._pool = pool
        self._unloading: set[asyncio.Task[None]] = set()

    def __call__(self, old: ServedModel) -> None:
        self._registry.mark_stale()
        task = asyncio.create_task(self._pool.unload(old), name="unload upstream's old model")
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)
