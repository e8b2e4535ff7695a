"""The models that the settings name, made into a registry and the rules of the pool."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from edgeembed.common.files import expanded
from edgeembed.config.durations import seconds_of
from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.engine.gpu.placement import Gpus
from edgeembed.errors import HubError
from edgeembed.hub.catalogue import catalogue
from edgeembed.hub.gguf.weights import fits_cards, read_weights
from edgeembed.hub.install import ensure_installed
from edgeembed.hub.store import InstalledModel, Store
from edgeembed.models import memory
from edgeembed.models.pending import PendingModel
from edgeembed.models.pool import PoolRules
from edgeembed.models.profiles import DEFAULT_BATCH_TOKENS, longest_text
from edgeembed.models.registry import ModelRegistry
from edgeembed.models.served_model import ServedModel, served
from edgeembed.runtime.engines import card_options
from edgeembed.runtime.replacement import ModelFiles

if TYPE_CHECKING:  # it imports aiohttp, which commands that compute in their own process do without
    from edgeembed.upstream.remote import Remote

log = logging.getLogger(__name__)


@dataclass
class ConfiguredModels:
    """The models that the settings name."""

    default: ServedModel | None
    """None until it is known; see `adopt`."""
    preload: tuple[ServedModel, ...] = ()
    pinned: tuple[ServedModel, ...] = ()
    by_path: tuple[ServedModel, ...] = ()
    """Files that aliases stand for."""
    remote: Remote | None = None
    """The default model when another server computes it."""

    def adopt(self, default: InstalledModel | Remote) -> ServedModel:
        """Take the default model, and return it as it is served."""
        if isinstance(default, InstalledModel):
            self.default = served(default)
        else:
            self.remote, self.default = default, default.served()
        return self.default


def find_configured_models(
    settings: Settings, paths: Paths, default: InstalledModel | Remote | None = None
) -> ConfiguredModels:
    """Return the default model and the others that the settings name; those not installed are left out with a warning."""
    offline = msgspec.structs.replace(settings, offline=True)

    def installed(names: Iterable[str], setting: str) -> tuple[ServedModel, ...]:
        found: list[ServedModel] = []
        for name in names:
            try:
                found.append(served(ensure_installed(name, paths=paths, settings=offline, report=log.info)))
            except HubError as error:
                log.warning("%s: cannot use %s: %s", setting, name, error.message)
        return tuple(found)

    found = ConfiguredModels(
        default=None,
        preload=installed(settings.preload, "preload"),
        pinned=installed(settings.pin, "pin"),
        by_path=installed((name for name in settings.aliases.values() if _is_file(name)), "aliases"),
    )
    if default is not None:
        found.adopt(default)
    return found


def make_registry(
    settings: Settings,
    configured: ConfiguredModels,
    store: Store,
    files: ModelFiles,
    pending: PendingModel | None = None,
) -> ModelRegistry:
    """Return the registry of the configured models, their aliases, and all models in the store.

    pending: why the default model is not known yet.
    """

    def renew(model: ServedModel) -> ServedModel:
        if model.upstream and configured.remote:
            return configured.remote.served()
        try:
            return files.current(model) if files.is_replaced(model) else model
        except (HubError, OSError) as error:
            log.warning("cannot read %s now: %s", model.path, error)
            return model

    aliases = {alias: str(expanded(name)) if _is_file(name) else name for alias, name in settings.aliases.items()}
    others = (*configured.pinned, *configured.preload, *configured.by_path)
    scan = partial(_in_store, store)
    return ModelRegistry(configured.default, others, aliases=aliases, scan=scan, renew=renew, pending=pending)


def _in_store(store: Store) -> list[ServedModel]:
    """Return the models in the store, of each name the type first that its bare name means."""
    found: list[ServedModel] = []
    for model in store.installed():
        with contextlib.suppress(OSError):  # removed meanwhile
            found.append(served(model))
    entries = catalogue()
    return sorted(
        found, key=lambda model: (model.name, model.name in entries and model.type != entries[model.name].default_type)
    )


def make_rules(settings: Settings, configured: ConfiguredModels, gpus: Gpus, registry: ModelRegistry | None) -> PoolRules:
    """Return how long models stay loaded, and how much memory they may take together.

    registry: knows the default model, which may change.
    """
    by_name = {name.lower(): seconds_of(duration) for name, duration in settings.keep_alive_of.items()}
    otherwise = seconds_of(settings.keep_alive)
    pinned = {model.path for model in configured.pinned}  # not its key: another file may take its place

    def keep_alive(model: ServedModel) -> float | None:
        for name in (model.spec, model.name, model.path.name, str(model.path), *model.other_names):
            if name.lower() in by_name:
                return by_name[name.lower()]
        default = registry.default if registry else configured.default
        return None if model.upstream or (default is not None and model.path == default.path) else otherwise

    def estimate(model: ServedModel) -> int:
        if model.upstream:
            return 0
        longest = longest_text(settings.context_tokens, model.max_seq_length)
        size = memory.estimate(model.path, longest, settings.batch_tokens or DEFAULT_BATCH_TOKENS)
        if gpus.possible and fits_cards(model.path):  # otherwise there is no need to read the file's header
            size -= gpus.weights_on_cards(read_weights(model.path), card_options(settings, model))
        return size

    return PoolRules(
        budget_bytes=memory.budget_bytes(settings.memory_budget_mib),
        load_wait=settings.load_wait,
        keep_alive=keep_alive,
        pinned=lambda model: model.path in pinned,
        estimate=estimate,
        measure=lambda engine: memory.resident_bytes(engine.status.worker_pid),
    )


def _is_file(name: str) -> bool:
    """Return whether a name in the settings is the path of a model file."""
    return name.lower().endswith(".gguf") and expanded(name).is_file()
