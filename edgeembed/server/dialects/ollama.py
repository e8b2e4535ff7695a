"""The part of Ollama's dialect about embeddings: /api/embed, /api/embeddings, /api/tags, /api/show, /api/ps, /api/version.

Reference: docs/api.md, api/types.go and server/routes.go of ollama/ollama. Ollama's NAME:TAG is NAME:TYPE, NAME:query or
NAME:document here, and NAME:latest is NAME.
"""

from __future__ import annotations

import datetime
import time
from typing import Annotated, Any, TypeAlias

import msgspec
from aiohttp import web
from msgspec import Meta

from edgeembed import __version__
from edgeembed.errors import ModelNotFoundError, RequestError, quoted
from edgeembed.inference.requests import EmbedRequest, EmbedResult
from edgeembed.inference.truncation import Lengths
from edgeembed.models.pool import Slot
from edgeembed.models.registry import ModelRegistry, ServedModel
from edgeembed.server.app_keys import SERVICE
from edgeembed.server.body import BodyType, cache_use, read_body
from edgeembed.server.dialects.keep_alive import FOR_EVER, keep_alive_seconds
from edgeembed.server.dialects.model_cards import CARDS, ModelCard
from edgeembed.server.fields import TRUNCATE, RowField, RowsField, answer_headers, texts_of
from edgeembed.server.responses import struct_response

routes = web.RouteTableDef()

OLLAMA_VERSION = "0.11.11"
"""The first version of Ollama whose /api/embed has all fields that this one has. Clients refuse old versions."""
LATEST = ":latest"


KeepAlive: TypeAlias = Annotated[
    str | float | None,
    Meta(description='A duration such as "5m", or seconds. Negative: keep the model loaded; 0: unload it at once.'),
]
OllamaOptions: TypeAlias = Annotated[
    dict[str, Any] | None,
    Meta(description="Only num_ctx is used: the longest text in tokens. The others are about generating text."),
]


class OllamaEmbedBody(msgspec.Struct):
    """Texts to embed. Without a text, the request only loads the model."""

    input: Annotated[
        str | Annotated[list[Any], Meta(extra_json_schema={"items": {"type": "string", "minLength": 1}})] | None,
        Meta(description="A text or a list of texts. If empty, the request only loads the model."),
    ] = None
    model: str = ""
    truncate: Annotated[bool | None, Meta(description=TRUNCATE)] = None
    dimensions: Annotated[
        int | None,
        Meta(description="Return the first N numbers, scaled to length 1; 0: all.", extra_json_schema={"minimum": 0}),
    ] = None
    keep_alive: KeepAlive = None
    options: OllamaOptions = None


class OllamaEmbedAnswer(msgspec.Struct):
    """Rows of length 1, in the request's order. Durations are nanoseconds."""

    model: str
    embeddings: RowsField
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OllamaEmbeddingsBody(msgspec.Struct):
    """One text to embed, for older clients. Without a text, the request only loads the model."""

    prompt: str = ""
    model: str = ""
    keep_alive: KeepAlive = None
    options: OllamaOptions = None


class OllamaEmbeddingsAnswer(msgspec.Struct):
    """One row, of length 1."""

    embedding: RowField


class OllamaDetails(msgspec.Struct):
    """What the model file says about itself; empty where it says nothing."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


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

    model: str = ""
    name: str = ""
    """The field `model` of older clients."""
    verbose: bool | None = None


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


_EMBED = BodyType(OllamaEmbedBody)
_EMBEDDINGS = BodyType(OllamaEmbeddingsBody)
_SHOW = BodyType(OllamaShowBody, {})


@routes.post("/api/embed")
async def embed_texts(request: web.Request) -> web.Response:
    """Embed a text or any number of texts. The end of one that is too long is cut off unless `truncate` is false."""
    began, began_ns = time.monotonic(), time.perf_counter_ns()
    body = await read_body(request, _EMBED)
    if body.dimensions is not None and body.dimensions < 0:
        raise RequestError(f"dimensions is {body.dimensions}; expected 0 (all) or more", param="dimensions")
    texts = texts_of(body.input, None, "input") if body.input else []
    asked = EmbedRequest(
        texts=texts,
        model=_name(request, body.model),
        dimensions=body.dimensions or None,
        single=isinstance(body.input, str),
        cache=cache_use(None, request),
        lengths=_lengths(body.options, body.truncate),
    )
    result, slot = await _compute(request, asked, body.keep_alive)
    answer = OllamaEmbedAnswer(
        model=body.model,
        embeddings=[],
        total_duration=time.perf_counter_ns() - began_ns,
        load_duration=int(slot.load_seconds * 1e9) if slot and slot.began_at >= began else 0,
        prompt_eval_count=0,
    )
    if result is None:
        return struct_response(answer)
    return await request.app[SERVICE].aside.run(result.numbers, _answer, result, answer)


@routes.post("/api/embeddings")
async def embed_text(request: web.Request) -> web.Response:
    """Embed one text, for older clients."""
    body = await read_body(request, _EMBEDDINGS)
    asked = EmbedRequest(
        texts=[body.prompt] if body.prompt else [],
        model=_name(request, body.model),
        param="prompt",
        single=True,
        cache=cache_use(None, request),
        lengths=_lengths(body.options, None),
    )
    result, _ = await _compute(request, asked, body.keep_alive)
    return struct_response(
        OllamaEmbeddingsAnswer(result.vectors[0] if result else []),
        headers=answer_headers(result, 1) if result else None,
    )


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
        name = listing.name if ":" in listing.name else listing.name + LATEST
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
    given = body.model or body.name
    if not given:
        raise RequestError("model is missing; GET /api/tags lists every name", param="model")
    name = _name(request, given) or given
    registry = request.app[SERVICE].registry
    target = registry.find(name)
    if target is None:
        await registry.refresh()
        target = registry.find(name)
    if target is None:
        raise ModelNotFoundError(f"model {quoted(given)} not found; GET /api/tags lists every name", param="model")
    model = target.model
    card = await request.app[CARDS].of(model)
    return struct_response(
        OllamaShowAnswer(
            modelfile=f"FROM {model.spec}\n",
            parameters="",
            template="{{ .Prompt }}",
            license=str(card.metadata.get("general.license", "")),
            details=_details(model, card),
            model_info={**card.metadata, "general.parameter_count": card.parameters},
            capabilities=_capabilities(model),
            modified_at=_time(model.created),
        )
    )


@routes.get("/api/ps")
async def processes(request: web.Request) -> web.Response:
    """List the models that are loaded."""
    running = []
    for slot in request.app[SERVICE].pool.slots:
        if slot.state != "ready" or slot.engine is None:
            continue
        info, model = slot.engine.info, slot.model
        on_processor = slot.engine.status.mode.startswith("cpu")
        running.append(
            OllamaRunning(
                name=model.spec,
                model=model.spec,
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


def _answer(result: EmbedResult, answer: OllamaEmbedAnswer) -> web.Response:
    answer.embeddings, answer.prompt_eval_count = result.vectors, sum(result.tokens)
    return struct_response(answer, headers=answer_headers(result, len(result.rows)))


async def _compute(
    request: web.Request, asked: EmbedRequest, keep_alive: str | float | None
) -> tuple[EmbedResult | None, Slot | None]:
    """Embed the texts, or load the model if there are none, and apply the client's keep_alive."""
    service = request.app[SERVICE]
    seconds = keep_alive_seconds(keep_alive)
    if asked.texts:
        result = await service.embed(asked)
        model = result.model
    else:
        result = None
        model = (await service.registry.resolve(asked.model, "embed")).model
        async with service.pool.lease(model):
            pass
    slot = service.pool.slot_of(model)
    if keep_alive is not None:
        service.pool.keep(model, seconds)
    return result, slot


def _name(request: web.Request, given: str) -> str | None:
    """Return our name for an Ollama model name; None (the default model) if it is empty."""
    registry: ModelRegistry = request.app[SERVICE].registry
    if given[-len(LATEST) :].lower() == LATEST and registry.find(given) is None:
        given = given[: -len(LATEST)]
    return given or None


def _lengths(options: dict[str, Any] | None, truncate: bool | None) -> Lengths:
    """Return how long a text may be. Ollama cuts off the end by default."""
    most = (options or {}).get("num_ctx")
    if most is not None and (type(most) is not int or most < 0):
        raise RequestError("options.num_ctx: expected a number of tokens, 0 or more", param="options.num_ctx")
    # 0 means the model's own limit.
    return Lengths("none" if truncate is False else "end", most or None, asked="options.num_ctx")


def _details(model: ServedModel, card: ModelCard) -> OllamaDetails:
    family = card.architecture or ""
    return OllamaDetails(
        parent_model="",
        format="gguf",
        family=family,
        families=[family] if family else [],
        parameter_size=_size(card.parameters) if card.parameters else "",
        quantization_level=model.type,
    )


def _capabilities(model: ServedModel) -> list[str]:
    return ["embedding"] if model.task == "embed" else []


def _size(parameters: int) -> str:
    """Return a number of weights as Ollama writes it: 22.57M, 595.78M, 7.57B."""
    for unit, letter in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.2f}".rstrip("0").rstrip(".") + letter
    return str(parameters)


def _time(unix_seconds: float) -> str:
    return datetime.datetime.fromtimestamp(unix_seconds, datetime.UTC).isoformat().replace("+00:00", "Z")


def _expiry(slot: Slot) -> str:
    now = datetime.datetime.now(datetime.UTC)
    if slot.pinned or slot.keep_alive is None:
        return (now + FOR_EVER).isoformat().replace("+00:00", "Z")
    idle = 0.0 if slot.leases else time.monotonic() - slot.used_at
    left = datetime.timedelta(seconds=max(0.0, slot.keep_alive - idle))
    return (now + left).isoformat().replace("+00:00", "Z")
