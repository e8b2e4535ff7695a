"""Routes for the daemon's owner about models: which there are, downloads, loading, the default one, removal."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from edgeembed.common.admin_status import ModelType, OwnedModel, OwnedModels
from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.hub.file_sizes import parameters
from edgeembed.hub.store import Store
from edgeembed.inference.service import EmbeddingService
from edgeembed.models.overview import ModelOverview, Room, TypeOverview, overview
from edgeembed.models.pool import Slot
from edgeembed.models.profiles import TuningResult, TuningResults, longest_text
from edgeembed.models.served_model import ServedModel
from edgeembed.server.app_keys import SERVICE
from edgeembed.server.live_settings import LIVE
from edgeembed.server.model_manager import MANAGER
from edgeembed.server.owner import owned
from edgeembed.server.responses import struct_response

_STATES = {"loading": "loading", "ready": "loaded", "failed": "failed", "unloading": "unloading"}
"""By the state of a model's slot."""


class _Disk(NamedTuple):
    """What a look at the disk found."""

    models: list[ModelOverview]
    tuned: dict[Path, TuningResult]
    free_bytes: int
    models_bytes: int


def add_to(app: web.Application) -> None:
    """Add the routes to an application."""
    app.add_routes([web.get("/v1/admin/models", owned(show_models))])


async def show_models(request: web.Request) -> web.Response:
    """List the models of the catalogue and all others that are installed, by type, and the downloads."""
    return struct_response(await describe(request.app))


async def describe(app: web.Application) -> OwnedModels:
    """Return what the owner sees of the models."""
    service, live, manager = app[SERVICE], app[LIVE], app[MANAGER]
    disk, devices = await asyncio.gather(
        asyncio.to_thread(_look, manager.store, live.paths, live.settings), asyncio.to_thread(service.devices)
    )
    view = _View(service, live.settings, Room.of(service.pool.budget_bytes, devices), disk.tuned)
    default = service.registry.default
    models = [view.model(each) for each in disk.models]
    known = {type_.path for model in models for type_ in model.types}
    models += [view.elsewhere(each) for each in service.registry.models if view.path_of(each) not in known]
    return OwnedModels(
        folder=str(live.paths.models),
        disk_free_bytes=disk.free_bytes,
        models_bytes=disk.models_bytes,
        default=view.spec_of(default) if default else None,
        memory_bytes=service.pool.used_bytes,
        memory_budget_bytes=service.pool.budget_bytes,
        models=tuple(models),
        pulls=(),
    )


def _look(store: Store, paths: Paths, settings: Settings) -> _Disk:
    installed = store.installed()
    results = TuningResults(paths.state)
    tuned = {model.path: result for model in installed if (result := results.find(model.digest))}
    parts = sum(size for sizes in store.unfinished().values() for size in sizes.values())
    there = next(each for each in (paths.models, *paths.models.absolute().parents) if each.exists())
    return _Disk(
        overview(installed, settings),
        tuned,
        shutil.disk_usage(there).free,
        sum(model.size_bytes for model in installed) + parts,
    )


class _View:
    """Puts together what is known of a model: by the catalogue, on the disk, in the pool, as measured."""

    def __init__(self, service: EmbeddingService, settings: Settings, room: Room, tuned: dict[Path, TuningResult]) -> None:
        self._service = service
        self._settings = settings
        self._room = room
        self._tuned = tuned
        self._slots: dict[str, Slot] = {str(slot.model.path): slot for slot in service.pool.slots}
        self._default = service.registry.default

    def model(self, found: ModelOverview) -> OwnedModel:
        """Return a model of the catalogue or the store."""
        entry, own = found.entry, found.installed
        types = tuple(self._type(found.name, each) for each in found.types)
        if entry is None:
            assert own is not None
            return OwnedModel(
                name=found.name,
                title=found.name,
                summary=own.source,
                task=own.task,
                license=own.license,
                dimensions=own.dimensions if own.task == "embed" else None,
                context=longest_text(self._settings.context_tokens, own.max_seq_length),
                types=types,
            )
        return OwnedModel(
            name=entry.name,
            title=entry.title,
            summary=entry.description,
            task=entry.task,
            purposes=(entry.purpose,),
            languages=tuple(entry.languages),
            license=entry.license,
            dimensions=(entry.token_dimensions or entry.dimensions) if entry.task == "embed" else None,
            parameters=parameters(entry),
            context=min(entry.context_tokens, longest_text(self._settings.context_tokens, entry.max_seq_length)),
            in_catalogue=True,
            default_type=entry.default_type,
            types=types,
        )

    def elsewhere(self, model: ServedModel) -> OwnedModel:
        """Return a model that is served but not installed: a file named by its path, or another server's."""
        slot = self._slots.get(str(model.path))
        return OwnedModel(
            name=model.name,
            title=model.name,
            summary=f"computed by {model.upstream}" if model.upstream else "a file that is served in place",
            task=model.task,
            dimensions=model.dimensions if model.task == "embed" else None,
            types=(
                ModelType(
                    type=model.type,
                    spec=self.spec_of(model),
                    file_bytes=model.size_bytes or None,
                    memory_bytes=(slot.memory_bytes or None) if slot else None,
                    installed=True,
                    state=_STATES[slot.state] if slot else "installed",
                    reason=slot.reason if slot else None,
                    default=self._is_default(model.path),
                    pinned=bool(slot and slot.pinned),
                    path=self.path_of(model),
                ),
            ),
        )

    def spec_of(self, model: ServedModel) -> str:
        """Return what settings name a model by."""
        if model.upstream:
            return model.name
        return model.spec if model.path.name == f"{model.name}-{model.type}.gguf" else str(model.path)

    def path_of(self, model: ServedModel) -> str | None:
        """Return a model's file; None if another server computes it."""
        return None if model.upstream else str(model.path)

    def _is_default(self, path: Path) -> bool:
        return self._default is not None and self._default.path == path

    def _type(self, name: str, found: TypeOverview) -> ModelType:
        own = found.installed
        slot = self._slots.get(str(own.path)) if own else None
        loaded = slot is not None and slot.state in ("ready", "unloading")
        memory = slot.memory_bytes if slot and loaded and slot.memory_bytes else found.memory_bytes
        fits, words = self._room.fit(found.memory_bytes)
        tuned = self._tuned.get(own.path) if own else None
        measured = next((each for each in tuned.measured if each.profile == tuned.profile), None) if tuned else None
        return ModelType(
            type=found.type,
            spec=f"{name}:{found.type}",
            file_bytes=found.file_bytes,
            memory_bytes=memory,
            fits=fits,
            fits_words=words,
            installed=own is not None,
            state=_STATES[slot.state] if slot else "installed" if own else "not installed",
            reason=slot.reason if slot else None,
            default=own is not None and self._is_default(own.path),
            pinned=slot is not None and slot.pinned,
            damage=own.damage.message if own and own.damage else None,
            texts_per_second=round(1000 / measured.sentence_ms, 1) if measured and measured.sentence_ms > 0 else None,
            tokens_per_second=round(measured.tokens_per_second, 1) if measured else None,
            path=str(own.path) if own else None,
            removable=own is not None,
        )
