"""Ollama's routes that describe models: /api/tags, /api/show, /api/ps, /api/version.

Reference: docs/api.md, api/types.go and server/routes.go of ollama/ollama.
"""

from __future__ import annotations

import datetime
import time
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from edgeembed import __version__
from edgeembed.hub.catalogue import catalogue
from edgeembed.models.registry import ModelListing, ModelRegistry
from edgeembed.models.served_model import ServedModel
from edgeembed.models.slot import Slot
from edgeembed.server.app_keys import SERVICE
from edgeembed.server.body import BodyType, read_body
from edgeembed.server.dialects.keep_alive import FOR_EVER
from edgeembed.server.dialects.model_cards import CARDS, ModelCard
from edgeembed.server.dialects.ollama_fields import NameField, OldNameField, as_json_time, find_target, with_tag
from edgeembed.server.responses import struct_response

routes = web.RouteTableDef()

OLLAMA_VERSION = "0.11.11"
"""The first version of Ollama whose /api/embed has all fields that this one has. Clients refuse old versions."""


class OllamaDetails(msgspec.Struct):
    """What the model file says about itself; empty, or 0, where it says nothing."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str
    context_length: int
    embedding_length: int


class OllamaModel(msgspec.Struct):
    """A name that a request may use, and its model."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails
    capabilities: list[str]


class OllamaTags(msgspec.Struct):
    """All embedders, under each name that a request may use."""

    models: list[OllamaModel]


class OllamaShowBody(msgspec.Struct):
    """The model to describe."""

    model: NameField = None
    name: OldNameField = None
    verbose: Annotated[bool | None, Meta(description="It has no effect: lists in the model file are not returned.")] = None


class OllamaShowAnswer(msgspec.Struct):
    """A model's description; `model_info` has the key-value pairs of its file."""

    modelfile: str
    parameters: str
    template: str
    license: str
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class OllamaRunning(msgspec.Struct):
    """A model that is loaded."""

    name: str
    model: str
    size: int
    digest: str
    details: OllamaDetails
    expires_at: str
    size_vram: int
    context_length: int


class OllamaProcesses(msgspec.Struct):
    """All loaded models. One that is never unloaded expires in a hundred years."""

    models: list[OllamaRunning]


class OllamaVersion(msgspec.Struct):
    """The version of Ollama that this server is compatible with, and its own."""

    version: str
    edgeembed: str


_SHOW = BodyType(OllamaShowBody, {})


@routes.get("/api/tags")
async def tags(request: web.Request) -> web.Response:
    """List all embedders, under each of their names."""
    registry = request.app[SERVICE].registry
    await registry.refresh()
    models = []
    for listing in registry.listings():
        model = listing.target.model
        if model.task != "embed":
            continue
        for name in _tags_of(registry, listing):
            models.append(
                OllamaModel(
                    name=name,
                    model=name,
                    modified_at=_time(model.created),
                    size=model.size_bytes,
                    digest=model.digest,
                    details=_details(model, await request.app[CARDS].of(model)),
                    capabilities=_capabilities(model),
                )
            )
    return struct_response(OllamaTags(models))


@routes.post("/api/show")
async def show(request: web.Request) -> web.Response:
    """Describe a model."""
    body = await read_body(request, _SHOW)
    model = (await find_target(request, body.model or body.name)).model
    card = await request.app[CARDS].of(model)
    return struct_response(
        OllamaShowAnswer(
            modelfile=f"FROM {model.spec}\n",
            parameters=_parameters(request, model, card),
            template="{{ .Prompt }}",
            license=str(card.metadata.get("general.license", "")),
            details=_details(model, card),
            model_info=_model_info(model, card),
            capabilities=_capabilities(model),
            modified_at=_time(model.created),
        )
    )


@routes.get("/api/ps")
async def processes(request: web.Request) -> web.Response:
    """List the models that are loaded."""
    running, registry = [], request.app[SERVICE].registry
    for slot in request.app[SERVICE].pool.slots:
        if slot.state != "ready" or slot.engine is None:
            continue
        info, model = slot.engine.info, slot.model
        on_processor = slot.engine.status.mode.startswith("cpu")
        running.append(
            OllamaRunning(
                name=(name := _short_name(registry, model)),
                model=name,
                size=slot.memory_bytes,
                digest=model.digest,
                details=_details(model, await request.app[CARDS].of(model)),
                expires_at=_expiry(slot),
                size_vram=0 if on_processor else slot.memory_bytes,
                context_length=info.context_tokens if info else 0,
            )
        )
    return struct_response(OllamaProcesses(running))


@routes.get("/api/version")
async def version(_request: web.Request) -> web.Response:
    """Return the version of Ollama that this server is compatible with."""
    return struct_response(OllamaVersion(OLLAMA_VERSION, __version__))


def _tags_of(registry: ModelRegistry, listing: ModelListing) -> list[str]:
    """Return a name as Ollama writes it, and the one in Ollama's library, if any: clients look for that in the list."""
    model = listing.target.model
    names = [model.name, *model.other_names] if listing.name == model.name else []
    entry = next((found for name in names if (found := catalogue().get(name)) is not None), None)
    library = [name for name in entry.names.ollama[:1] if registry.find(name) == listing.target] if entry is not None else []
    return list(dict.fromkeys(map(with_tag, (listing.name, *library))))


def _short_name(registry: ModelRegistry, model: ServedModel) -> str:
    """Return the name of /api/tags that clients show for a model: its bare name if that means this model."""
    meant = registry.find(model.name)
    return with_tag(model.name) if meant and meant.model.key == model.key else model.spec


def _details(model: ServedModel, card: ModelCard) -> OllamaDetails:
    family = card.architecture or ""
    return OllamaDetails(
        parent_model="",
        format="gguf",
        family=family,
        families=[family] if family else [],
        parameter_size=_size(card.parameters) if card.parameters else "",
        quantization_level=model.type,
        context_length=card.context_tokens or 0,
        embedding_length=model.dimensions or 0,
    )


def _parameters(request: web.Request, model: ServedModel, card: ModelCard) -> str:
    """Return the options of a model, as Ollama writes them: the longest text in tokens, if it is known."""
    slot = request.app[SERVICE].pool.slot_of(model)
    info = slot.engine.info if slot and slot.engine else None
    most = info.context_tokens if info else card.context_tokens
    return f"{'num_ctx':<30} {most}" if most else ""


def _model_info(model: ServedModel, card: ModelCard) -> dict[str, Any]:
    """Return the key-value pairs of the file, with those that clients read even if the file has no metadata."""
    family = card.architecture or "unknown"
    known = {
        "general.architecture": family,
        "general.parameter_count": card.parameters,
        f"{family}.embedding_length": model.dimensions,
    }
    return {**{key: value for key, value in known.items() if value is not None}, **card.metadata}


def _capabilities(model: ServedModel) -> list[str]:
    return ["embedding"] if model.task == "embed" else []


def _size(parameters: int) -> str:
    """Return a number of weights as Ollama writes it: 22.57M, 595.78M, 7.57B."""
    for unit, letter in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.2f}".rstrip("0").rstrip(".") + letter
    return str(parameters)


def _time(unix_seconds: float) -> str:
    return as_json_time(datetime.datetime.fromtimestamp(unix_seconds, datetime.UTC))


def _expiry(slot: Slot) -> str:
    now = datetime.datetime.now(datetime.UTC)
    if slot.pinned or slot.keep_alive is None:
        return as_json_time(now + FOR_EVER)
    idle = 0.0 if slot.leases else time.monotonic() - slot.used_at
    left = datetime.timedelta(seconds=max(0.0, slot.keep_alive - idle))
    return as_json_time(now + left)
