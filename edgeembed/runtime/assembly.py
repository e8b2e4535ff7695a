"""The parts of a daemon put together from its settings: models, engines, names, rules, the service."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeembed.cache import VectorCache
from edgeembed.config.durations import seconds_of
from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.engine.execution_modes import GPU_FULL, ExecutionMode, cpu_modes
from edgeembed.engine.gpu.placement import Gpus, for_card
from edgeembed.engine.interface import Engine, ModelInfo
from edgeembed.engine.machine import usable_threads
from edgeembed.engine.supervisor.fallback_policy import FallbackMemory, FallbackPolicy
from edgeembed.engine.supervisor.worker_engine import WorkerEngine, WorkerTimeouts
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.errors import EngineUnavailableError, HubError, ModelReplacedError, UnknownModelError
from edgeembed.hub.catalogue import catalogue
from edgeembed.hub.gguf.weights import read_weights
from edgeembed.hub.install import ensure_installed
from edgeembed.hub.store import InstalledModel, Store
from edgeembed.inference.drift import VectorHealth
from edgeembed.inference.service import EmbeddingService
from edgeembed.models import memory
from edgeembed.models.pool import ModelPool, PoolRules
from edgeembed.models.profiles import DEFAULT_BATCH_TOKENS, RunProfile, TuningResult, TuningResults
from edgeembed.models.registry import ModelRegistry, ServedModel, served

if TYPE_CHECKING:  # they import aiohttp, which no command needs that computes here
    from edgeembed.upstream.client import UpstreamOptions
    from edgeembed.upstream.remote import Remote

log = logging.getLogger(__name__)

CACHE_FOLDER = "vectors"
VECTORS_FOLDER = "vector-baselines"
EXECUTION_MODES_FILE = "execution-modes.json"
UPSTREAM_FILE = "upstream.json"
"""What upstream's vectors are like."""


def make_gpus(settings: Settings) -> Gpus:
    """Make what knows the graphics cards that the settings allow; nothing is looked at yet."""
    return Gpus(settings.device, settings.gpu_layers, settings.gpu_memory_utilization)


def make_engine(
    settings: Settings,
    paths: Paths,
    model: InstalledModel | ServedModel,
    profile: RunProfile | None = None,
    gpus: Gpus | None = None,
) -> WorkerEngine:
    """Make the engine of a model; nothing starts yet. Raises HubError for a file that llama.cpp must not see.

    way: how to run it; by default the settings decide, then what `edgeembed tune` found. A model that was never tuned here
    is looked at quickly when it loads, and what is found is kept. gpus: shared by the models of a daemon.
    """
    store = Store(paths)
    served = _identity(model.path)
    if store.digest(model.path) != model.digest:
        # The cache would keep another model's rows under this one's digest.
        raise ModelReplacedError(f"{model.path} was replaced by another file")
    store.require_sound(model)
    tuning_results = TuningResults(paths.state)
    look = profile is None and tuning_results.find(model.digest) is None
    chosen = profile or chosen_profile(settings, paths, model.digest)

    gpus = gpus or make_gpus(settings)
    sizes = read_weights(model.path) if gpus.possible else None
    key = str(model.path)

    def keep(info: ModelInfo) -> None:
        nonlocal look, chosen
        gpus.loaded(key)
        if not look or info.autotune is None or info.autotune.pad_from_tokens is None:
            return  # there was no time to find anything: the next load looks again
        look = False
        chosen = msgspec.structs.replace(chosen, pad_from_tokens=info.autotune.pad_from_tokens)
        found = RunProfile(
            threads=usable_threads(), pad_from_tokens=info.autotune.pad_from_tokens
        )  # and nothing of the settings
        try:
            tuning_results.keep(model.digest, TuningResult(profile=found, made_at=time.time(), thorough=False, measured=[]))
        except OSError as error:
            log.warning("how %s runs best cannot be kept: %s", model.spec, error)

    def options(mode: ExecutionMode) -> WorkerOptions:
        if _identity(model.path) != served:
            raise ModelReplacedError(f"{model.path} was replaced by another file")
        if mode.gpu != "none" and sizes is not None:
            return gpus.place(mode, key, sizes, on_card(mode))
        gpus.left(key)
        return on_processor(mode)

    def on_card(mode: ExecutionMode) -> WorkerOptions:
        return for_card(on_processor(mode), settings.batch_tokens or chosen.card_batch_tokens)

    def on_processor(mode: ExecutionMode) -> WorkerOptions:
        return WorkerOptions(
            path=str(model.path),
            threads=chosen.threads,
            context_tokens=settings.context_tokens,
            batch_tokens=chosen.batch_tokens,
            bulk_lanes=chosen.bulk_lanes,
            pad_from_tokens=chosen.pad_from_tokens,
            autotune=look,
            mode=mode.name,
            extra_buffers=mode.extra_buffers,
            own_kernels=settings.kernels == "auto",
            oldest_kernels=mode.oldest_kernels,
            task=model.task,
            verbose=settings.log_level == "debug",
        )

    modes = gpus.modes(sizes, on_card(GPU_FULL)) if sizes is not None else ()
    policy = FallbackPolicy((*modes, *cpu_modes()), FallbackMemory(paths.state / EXECUTION_MODES_FILE, model.digest))
    return WorkerEngine(
        options,
        policy,
        timeouts=WorkerTimeouts(load=settings.load_timeout),
        on_ready=keep,
        require_room=lambda mode: gpus.require_room(mode, key, sizes, on_card(mode)) if sizes is not None else None,
    )


def card_options(settings: Settings, model: InstalledModel | ServedModel) -> WorkerOptions:
    """Give the options with which a model's worker would run on a graphics card, as far as they decide about memory."""
    base = WorkerOptions(
        path=str(model.path),
        threads=1,
        context_tokens=settings.context_tokens,
        batch_tokens=settings.batch_tokens,
        mode=GPU_FULL.name,
        extra_buffers=False,
        task=model.task,
    )
    return for_card(base, settings.batch_tokens)


def chosen_profile(settings: Settings, paths: Paths, digest: str) -> RunProfile:
    """Say how a model runs: the settings go before what was measured, and that before the defaults."""
    tuned = TuningResults(paths.state).find(digest)
    found = tuned.profile if tuned else RunProfile(threads=usable_threads())
    if settings.threads:
        found = msgspec.structs.replace(found, threads=settings.threads)
    if settings.batch_tokens:
        found = msgspec.structs.replace(found, batch_tokens=settings.batch_tokens)
    if tuned:
        log.info("%s: uses the profile of %s", digest[:12], time.strftime("%Y-%m-%d", time.localtime(tuned.made_at)))
    return found


def _identity(path: Path) -> tuple[int, int]:
    """Give what tells a file from another one under its name. Raises EngineUnavailableError when it is gone."""
    try:
        status = path.stat()
    except OSError as error:
        raise EngineUnavailableError(f"cannot read {path}: {error.strerror or error}") from error
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class ConfiguredModels:
    """The models that the settings name."""

    default: ServedModel
    preload: tuple[ServedModel, ...] = ()
    pinned: tuple[ServedModel, ...] = ()
    by_path: tuple[ServedModel, ...] = ()
    """Files that aliases stand for."""
    remote: Remote | None = None
    """What the default is when another server computes it."""


def find_configured_models(settings: Settings, paths: Paths, default: InstalledModel | Remote) -> ConfiguredModels:
    """Find the models that the settings name besides the default one. What is not installed is left out, with a warning."""
    remote = None if isinstance(default, InstalledModel) else default

    def look_up(name: str, setting: str) -> ServedModel | None:
        try:
            offline = msgspec.structs.replace(settings, offline=True)
            return served(ensure_installed(name, paths=paths, settings=offline, report=log.info))
        except HubError as error:
            log.warning("%s: %s cannot be had: %s", setting, name, error.message)
            return None

    def all_of(names: Iterable[str], setting: str) -> tuple[ServedModel, ...]:
        return tuple(model for name in names if (model := look_up(name, setting)) is not None)

    return ConfiguredModels(
        default=served(default) if isinstance(default, InstalledModel) else default.served(),
        preload=all_of(settings.preload, "preload"),
        pinned=all_of(settings.pin, "pin"),
        by_path=all_of((name for name in settings.aliases.values() if _is_file(name)), "aliases"),
        remote=remote,
    )


def make_registry(settings: Settings, paths: Paths, configured_models: ConfiguredModels) -> ModelRegistry:
    """Make the registry: the settings' models, their aliases, and whatever the store holds."""
    store = Store(paths)

    def scan() -> list[ServedModel]:
        found: list[ServedModel] = []
        for model in store.installed():
            with contextlib.suppress(OSError):  # it was removed in this moment
                found.append(served(model))
        known = catalogue()
        # The type that the catalogue prefers comes first: it is the one that the bare name means.
        return sorted(
            found, key=lambda model: (model.name, model.name in known and model.type != known[model.name].default_type)
        )

    aliases = {
        alias: str(Path(name).expanduser().absolute()) if _is_file(name) else name
        for alias, name in settings.aliases.items()
    }

    def renew(model: ServedModel) -> ServedModel:
        if model.upstream and configured_models.remote:
            return configured_models.remote.served()
        try:
            if store.digest(model.path) == model.digest:
                return model
            return served(store.local(model.path))
        except (HubError, OSError) as error:
            log.warning("%s cannot be read now: %s", model.path, error)
            return model

    others = (*configured_models.pinned, *configured_models.preload, *configured_models.by_path)
    return ModelRegistry(configured_models.default, others, aliases=aliases, scan=scan, renew=renew)


def make_rules(settings: Settings, configured_models: ConfiguredModels, gpus: Gpus) -> PoolRules:
    """Say how long models stay loaded, and how much of the machine's memory they may take together."""
    single = {name.lower(): seconds_of(duration) for name, duration in settings.keep_alive_of.items()}
    otherwise = seconds_of(settings.keep_alive)
    pinned = {model.key for model in configured_models.pinned}

    def keep_alive(model: ServedModel) -> float | None:
        for name in (model.spec, model.name, model.path.name, str(model.path)):
            if name.lower() in single:
                return single[name.lower()]
        return None if model.upstream or model.key == configured_models.default.key else otherwise

    def estimate(model: ServedModel) -> int:
        if model.upstream:
            return 0
        size = memory.estimate(model.path, settings.context_tokens, settings.batch_tokens or DEFAULT_BATCH_TOKENS)
        if gpus.possible:  # or else the file's header need not be read
            size -= gpus.weights_on_cards(read_weights(model.path), card_options(settings, model))
        return size

    return PoolRules(
        budget_bytes=memory.budget_bytes(settings.memory_budget_mib),
        load_wait=settings.load_wait,
        keep_alive=keep_alive,
        pinned=lambda model: model.key in pinned,
        estimate=estimate,
        measure=lambda engine: memory.resident_bytes(engine.status.worker_pid),
    )


async def make_remote(settings: Settings, paths: Paths) -> Remote:
    """Describe the model of the upstream server; it is not met yet, but for its name where the settings have none.

    Raises ConfigError when it has to be named.
    """
    from edgeembed.upstream.identity import IdentityStore
    from edgeembed.upstream.remote import Remote, only_model

    options, book = upstream_options(settings), IdentityStore(paths.state / UPSTREAM_FILE)
    return Remote(options, settings.model or await only_model(options, book), book)


def upstream_options(settings: Settings) -> UpstreamOptions:
    """Take out of the settings what is about upstream, which must be set."""
    from edgeembed.upstream.client import UpstreamOptions

    assert settings.upstream is not None
    return UpstreamOptions(
        url=settings.upstream,
        key=settings.upstream_key,
        timeout=settings.upstream_timeout,
        wait=settings.upstream_wait,
        most_texts=settings.upstream_texts,
        most_characters=settings.upstream_characters,
        most_requests=settings.upstream_requests,
        check_every=settings.upstream_check,
        min_cosine=settings.upstream_min_cosine,
    )


def make_remote_engine(settings: Settings, paths: Paths, remote: Remote) -> Engine:
    """Make the engine of the upstream server's model, with the local fall-back that the settings name; nothing starts."""
    from edgeembed.upstream.engine import RemoteEngine

    chosen = settings.upstream_fallback
    if chosen == "off":
        return RemoteEngine(remote)

    def local() -> Engine:
        if chosen == "auto" and remote.entry is None:
            raise UnknownModelError(f"the catalogue has no model {remote.model!r}; name one with --upstream-fallback")
        name = remote.entry.name if chosen == "auto" and remote.entry else chosen
        return make_engine(settings, paths, ensure_installed(name, paths=paths, settings=settings, report=log.info))

    return RemoteEngine(remote, local)


class _Change:
    """What is done when upstream turns out to have another model: requests find the new one, the old one goes."""

    def __init__(self, registry: ModelRegistry, pool: ModelPool) -> None:
        self._registry = registry
        self._pool = pool
        self._unloading: set[asyncio.Task[None]] = set()

    def __call__(self, old: ServedModel) -> None:
        self._registry.mark_stale()
        task = asyncio.create_task(self._pool.unload(old), name="unload upstream's old model")
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)


def make_service(settings: Settings, paths: Paths, configured_models: ConfiguredModels) -> EmbeddingService:
    """Make the service of all models; nothing starts yet."""
    cache = (
        VectorCache(
            paths.cache / CACHE_FOLDER,
            memory_mib=settings.cache_memory_mib,
            disk_mib=settings.cache_disk_mib,
            ttl=seconds_of(settings.cache_ttl),
        )
        if settings.cache
        else None
    )
    registry = make_registry(settings, paths, configured_models)
    gpus = make_gpus(settings)

    def engine_of(model: ServedModel) -> Engine:
        if model.upstream and configured_models.remote:
            return make_remote_engine(settings, paths, configured_models.remote)
        try:
            return make_engine(settings, paths, model, gpus=gpus)
        except ModelReplacedError:
            registry.mark_stale()
            raise

    pool = ModelPool(engine_of, make_rules(settings, configured_models, gpus))
    if configured_models.remote:
        configured_models.remote.on_change = _Change(registry, pool)
    return EmbeddingService(
        registry,
        pool,
        cache,
        timeout=settings.request_timeout,
        max_queue_tokens=settings.max_queue_tokens,
        # Nobody here can count tokens before they are computed by a model whose tokenizer is elsewhere.
        max_request_tokens=0 if configured_models.remote else settings.max_request_tokens,
        clean_text=settings.clean_text,
        vectors=VectorHealth(paths.state / VECTORS_FOLDER),
        devices=gpus.describe,
    )


def _is_file(name: str) -> bool:
    """Say whether a name in the settings is the path of a file."""
    return name.lower().endswith(".gguf") and Path(name).expanduser().is_file()
