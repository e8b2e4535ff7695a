"""OpenAI's dialect: POST /v1/embeddings, GET /v1/models.

Reference: the OpenAI API documentation, "Create embeddings" and "List models". `input_type` and `instruction` are ours.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec
from aiohttp import web

from edgeembed.errors import RequestError, TokenInputError
from edgeembed.server.answers import json_response
from edgeembed.server.keys import MAX_INPUTS, SERVICE
from edgeembed.service import EmbeddingService, EmbedRequest
from edgeembed.text import InputType
from edgeembed.vectors import base64_rows

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


_CHOICES = {"encoding_format": ("float", "base64"), "input_type": ("query", "document")}
_body_decoder = msgspec.json.Decoder(EmbeddingsBody)


@routes.post("/v1/embeddings")
async def embeddings(request: web.Request) -> web.Response:
    """Embed a string or a list of strings."""
    service = request.app[SERVICE]
    body = _decode(await request.read())
    service.check_model(body.model)
    texts = _texts(body.input, request.app[MAX_INPUTS])
    result = await service.embed(
        EmbedRequest(
            texts=texts,
            input_type=body.input_type,
            instruction=body.instruction,
            dimensions=body.dimensions,
            single=isinstance(body.input, str),
        )
    )
    rows = base64_rows(result.vectors) if body.encoding_format == "base64" else result.vectors
    tokens = sum(result.tokens)
    return json_response(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
            "model": service.model.name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        },
        headers={"X-Edgeembed-Cache": _cache_word(result.hits, len(texts))},
    )


@routes.get("/v1/models")
async def models(request: web.Request) -> web.Response:
    """List what is served."""
    return json_response({"object": "list", "data": [_model_object(request.app[SERVICE])]})


@routes.get("/v1/models/{name:.+}")
async def model(request: web.Request) -> web.Response:
    """Describe one model."""
    service = request.app[SERVICE]
    service.check_model(request.match_info["name"])
    return json_response(_model_object(service))


def _model_object(service: EmbeddingService) -> dict[str, Any]:
    info = service.engine.info
    described: dict[str, Any] = {
        "id": service.model.name,
        "object": "model",
        "created": service.model.created,
        "owned_by": "edgeembed",
    }
    if info is not None:
        described |= {"dimensions": info.dimensions, "context_tokens": info.context_tokens, "type": info.file_type}
    return described


def _decode(raw: bytes) -> EmbeddingsBody:
    """Read the body. Raises RequestError naming the field, and the index inside it, that is wrong."""
    try:
        return _body_decoder.decode(raw)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        field = path.rstrip("`").lstrip(".") or None
        if field is None and (missing := re.search(r"missing required field `(\w+)`", message)):
            field = missing.group(1)
        if choices := _CHOICES.get(field or ""):
            message += f"; one of {', '.join(choices)} is expected"
        raise RequestError(f"{field or 'the body'}: {message}", param=field) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(
            f"the body is not valid JSON: {error}",
        ) from error
    except RecursionError as error:
        raise RequestError("the body's lists or objects are nested too deeply") from error


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
    raise RequestError(f"input[{wrong}] is {_json_name(given[wrong])}; a string is expected", param=f"input[{wrong}]")


def _is_tokens(items: list[Any]) -> bool:
    return all(type(item) is int for item in items)


def _json_name(item: object) -> str:
    match item:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case dict():
            return "an object"
        case _:
            return "a list"


def _cache_word(hits: int, texts: int) -> str:
    if hits == 0:
        return "miss"
    return "hit" if hits == texts else "partial"
