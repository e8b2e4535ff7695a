"""Routes for the daemon's owner about models: which there are, downloads, loading, the default one, removal."""

from __future__ import annotations

import asyncio
import functools
import shutil
from pathlib import Path
from typing import NamedTuple

import msgspec
from aiohttp import web
from msgspec.structs import replace

from edgeembed.common.admin_status import ModelType, OwnedModel, OwnedModels
from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.errors import ConflictError, ModelNotFoundError, RequestError, quoted
from edgeembed.hub.catalogue import CatalogueEntry
from edgeembed.hub.file_sizes import parameters
from edgeembed.hub.other_names import meaning
from edgeembed.hub.store import Store
from edgeembed.inference.service import EmbeddingService
from edgeembed.models.overview import ModelOverview, Room, TypeOverview, overview
from edgeembed.models.profiles import TuningResult, TuningResults, longest_text
from edgeembed.models.served_model import ServedModel
from edgeembed.models.slot import Slot
from edgeembed.server.app_keys import SERVICE
from edgeembed.server.body import BodyType, read_body
from edgeembed.server.live_settings import LIVE
from edgeembed.server.model_manager import MANAGER, pull_spec
from edgeembed.server.owner import owned
from edgeembed.server.responses import JSON_TYPE, struct_response

_STATES = {"loading": "loading", "ready": "loaded", "failed": "failed", "unloading": "unloading"}
"""By the state of a model's slot."""


class ModelBody(msgspec.Struct):
    """A model: NAME:TYPE, or NAME for its default type; to download one, also hf:OWNER/REPOSITORY[:FILE or TYPE]."""

    model: str


_MODEL = BodyType(ModelBody, {})


class _Disk(NamedTuple):
    """What a look at the disk found."""

    models: list[ModelOverview]
    tuned: dict[Path, TuningResult]
    free_bytes: int
    models_bytes: int


def add_to(app: web.Application) -> None:
    """Add the routes to an application."""
    app.add_routes(
        [
            web.get("/v1/admin/models", owned(show_models)),
            web.post("/v1/admin/models/pull", owned(pull)),
            web.post("/v1/admin/models/pull/pause", owned(pause_pull)),
            web.post("/v1/admin/models/pull/cancel", owned(cancel_pull)),
            web.post("/v1/admin/models/load", owned(load)),
            web.post("/v1/admin/models/unload", owned(unload)),
            web.post("/v1/admin/models/default", owned(make_default)),
            web.post("/v1/admin/models/delete", owned(delete)),
        ]
    )


async def show_models(request: web.Request) -> web.Response:
    """List the models of the catalogue and all others that are installed, by type, and the downloads."""
    # A third of a megabyte: Python objects in between would take ten times as long.
    return web.Response(body=msgspec.json.encode(await describe(request.app)), content_type=JSON_TYPE)


async def pull(request: web.Request) -> web.Response:
    """Start a download, or go on with one that was paused or has failed; it goes on while nobody watches."""
    given = await _named(request)
    offline = request.app[LIVE].settings.offline
    if offline:
        raise ConflictError("the setting offline is on: nothing is downloaded. Change it, and restart")
    return struct_response(await request.app[MANAGER].owned_pulls.start(_full(pull_spec(given))), status=202)


async def pause_pull(request: web.Request) -> web.Response:
    """Interrupt a download, and keep what has arrived; another /pull goes on with it."""
    spec = _full(pull_spec(await _named(request)))
    return struct_response(await request.app[MANAGER].owned_pulls.pause(spec))


async def cancel_pull(request: web.Request) -> web.Response:
    """Interrupt a download, and remove what has arrived."""
    spec, manager = _full(pull_spec(await _named(request))), request.app[MANAGER]
    cancelled = await manager.owned_pulls.cancel(spec)
    await manager.discard(spec)
    return struct_response(cancelled)


async def load(request: web.Request) -> web.Response:
    """Begin to load a model, as the first request for it does; one that failed to load is tried again."""
    model = await _model(request)
    await request.app[MANAGER].load(model)
    await asyncio.sleep(0)  # so that its state shows it
    return await _answer(request, model)


async def unload(request: web.Request) -> web.Response:
    """Unload a model, after the texts that wait for it; the next request for it loads it again."""
    model = await _model(request)
    await request.app[MANAGER].unload(model)
    return await _answer(request, model)


async def make_default(request: web.Request) -> web.Response:
    """Make an installed model the one of requests that name none, at once and in config.toml, and begin to load it."""
    model = await _model(request)
    note = await request.app[MANAGER].make_default(model)
    return await _answer(request, model, note)


async def delete(request: web.Request) -> web.Response:
    """Unload an installed model and remove its file. A 409 says what needs it: the settings, or an alias."""
    model = await _model(request)
    await request.app[MANAGER].remove(model)
    return await _answer(request, model)


async def _named(request: web.Request) -> str:
    given = (await read_body(request, _MODEL)).model
    if not given:
        raise RequestError("model is required: expected a name", param="model")
    return given


async def _model(request: web.Request) -> ServedModel:
    """Return the installed model that the body names. Raises ModelNotFoundError."""
    given = await _named(request)
    registry = request.app[SERVICE].registry
    target = None if registry.is_alias(given) else await registry.look_up(given)
    if target is None or target.suffix:
        raise ModelNotFoundError(f"no model {quoted(given)} is installed; GET /v1/admin/models lists all", param="model")
    return target.model


def _full(spec: str) -> str:
    """Return the name of a model of the catalogue with its type, so that each download has one name."""
    found = meaning(spec)
    return spec if found is None or found.type else f"{found.entry.name}:{found.entry.default_type}"


async def _answer(request: web.Request, model: ServedModel, note: str | None = None) -> web.Response:
    """Return what is known now of the model that was changed."""
    models = (await describe(request.app)).models
    found = next((each for each in models if each.name == model.name), OwnedModel(name=model.name, task=model.task))
    return struct_response(replace(found, note=note))


async def describe(app: web.Application) -> OwnedModels:
    """Return what the owner sees of the models."""
    service, live, manager = app[SERVICE], app[LIVE], app[MANAGER]
    disk, devices = await asyncio.gather(
        asyncio.to_thread(_inspect_disk, manager.store, live.paths, live.settings), asyncio.to_thread(service.devices)
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
        pulls=manager.owned_pulls.describe(),
    )


def _inspect_disk(store: Store, paths: Paths, settings: Settings) -> _Disk:
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
        own = found.installed
        if own is None:
            return _not_installed(found, self._room, self._settings.context_tokens)
        types = tuple(self._type(found.name, each) for each in found.types)
        if found.entry is not None:
            return _offered(found.entry, types, self._settings.context_tokens)
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
        tuned = self._tuned.get(own.path) if own else None
        measured = next((each for each in tuned.measured if each.profile == tuned.profile), None) if tuned else None
        return replace(
            _type(name, found, self._room),
            memory_bytes=memory,
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


def _type(name: str, found: TypeOverview, room: Room) -> ModelType:
    """Return a type that is not installed."""
    fits, words = room.fit(found.memory_bytes)
    return ModelType(
        type=found.type,
        spec=f"{name}:{found.type}",
        file_bytes=found.file_bytes,
        memory_bytes=found.memory_bytes,
        fits=fits,
        fits_words=words,
    )


def _offered(entry: CatalogueEntry, types: tuple[ModelType, ...], context_tokens: int) -> OwnedModel:
    """Return a model of the catalogue. context_tokens: the setting."""
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
        context=min(entry.context_tokens, longest_text(context_tokens, entry.max_seq_length)),
        in_catalogue=True,
        default_type=entry.default_type,
        types=types,
    )


@functools.lru_cache(maxsize=512)  # nearly all of the catalogue, whenever the page asks
def _not_installed(found: ModelOverview, room: Room, context_tokens: int) -> OwnedModel:
    assert found.entry is not None
    types = tuple(_type(found.name, each, room) for each in found.types)
    return _offered(found.entry, types, context_tokens)
