"""OpenAI's dialect: POST /v1/embeddings, GET /v1/models.

Reference: the OpenAI API documentation, "Create embeddings" and "List models". `input_type`, `instruction` and `cache` are
ours.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from aiohttp import web

from edgeembed.errors import ModelNotFoundError, RequestError, TokenInputError
from edgeembed.roster import Listing
from edgeembed.server.answers import json_bytes, json_response
from edgeembed.server.bodies import CacheField, cache_header, cache_use, decode, json_name
from edgeembed.server.embeddings import write_answer
from edgeembed.server.keys import MAX_INPUTS, SERVICE
from edgeembed.service import EmbeddingService, EmbedRequest
from edgeembed.text import InputType

routes = web.RouteTableDef()


class EmbeddingsBody(msgspec.Struct):
    """The body of POST /v1/embeddings. Fields that we do not know are ignored, as OpenAI's clients may send any; null stands
    for a field that was left out, as typed clients write it.
    """

    input: str | list[Any]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None
    input_type: InputType | None = None
    instruction: str | None = None
    cache: CacheField = None


_CHOICES = {
    "encoding_format": ("float", "base64"),
    "input_type": ("query", "document"),
    "cache": ("true", "false", '"no-store"', '"keep"'),
}
_body_decoder = msgspec.json.Decoder(EmbeddingsBody)


@routes.post("/v1/embeddings")
async def embeddings(request: web.Request) -> web.Response:
    """Embed a string or a list of strings."""
    raw = await request.read()
    body = decode(raw, _body_decoder, _CHOICES)
    texts = _texts(body.input, request.app[MAX_INPUTS])
    service = request.app[SERVICE]
    result = await service.embed(
        EmbedRequest(
            texts=texts,
            model=body.model,
            input_type=body.input_type,
            instruction=body.instruction,
            dimensions=body.dimensions,
            single=isinstance(body.input, str),
            cache=cache_use(body.cache, request),
        )
    )
    return json_bytes(
        write_answer(service, raw, result, body.encoding_format or "float"), cache_header(result.hits, len(texts))
    )


@routes.get("/v1/models")
async def models(request: web.Request) -> web.Response:
    """List every name that a request may use: models, their types, prompts by suffix, aliases."""
    service = request.app[SERVICE]
    await service.roster.refresh()
    data = [_model_object(service, listing) for listing in service.roster.listings()]
    return json_response({"object": "list", "data": data})


@routes.get("/v1/models/{name:.+}")
async def model(request: web.Request) -> web.Response:
    """Describe one model."""
    service = request.app[SERVICE]
    name = request.match_info["name"]
    target = service.roster.find(name)
    if target is None:
        await service.roster.refresh()
        target = service.roster.find(name)
    if target is None:
        raise ModelNotFoundError(f"no model {name!r} is known here. GET /v1/models lists every name", param="model")
    return json_response(_model_object(service, Listing(name, target)))


def _model_object(service: EmbeddingService, listing: Listing) -> dict[str, Any]:
    model = listing.target.model
    slot = service.pool.slot_of(model)
    info = slot.engine.info if slot and slot.engine else None
    described: dict[str, Any] = {
        "id": listing.name,
        "object": "model",
        "created": model.created,
        "owned_by": "edgeembed",
        "task": model.task,
        "type": model.type,
        "loaded": slot is not None and slot.state == "ready",
    }
    if listing.name.lower() not in (model.name.lower(), model.spec.lower()):
        described["root"] = model.spec
    if listing.target.input_type:
        described["input_type"] = listing.target.input_type
    if model.task == "embed" and (dimensions := info.dimensions if info else model.dimensions):
        described["dimensions"] = dimensions
    if info is not None:
        described["context_tokens"] = info.context_tokens
    return described


def _texts(given: str | list[Any], most: int) -> list[str]:
    """Give the input as a list of strings. Raises RequestError naming the first item that is not one."""
    if isinstance(given, str):
        return [given]
    if not given:
        raise RequestError("input is an empty list; send at least one text", param="input")
    if len(given) > most:
        raise RequestError(f"input has {len(given)} items; at most {most} are taken in one request", param="input")
    wrong = next((index for index, item in enumerate(given) if type(item) is not str), None)
    if wrong is None:
        return given
    if _is_tokens(given) or all(isinstance(item, list) and _is_tokens(item) for item in given):
        raise TokenInputError(
            "input holds token ids, whose vocabulary nobody can know here: clients such as LangChain send ids of an OpenAI "
            "model. Send text instead; in LangChain set OpenAIEmbeddings(check_embedding_ctx_length=False)",
            param="input",
        )
    raise RequestError(f"input[{wrong}] is {json_name(given[wrong])}; a string is expected", param=f"input[{wrong}]")


def _is_tokens(items: list[Any]) -> bool:
    return all(type(item) is int for item in items)
