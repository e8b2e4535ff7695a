"""Ollama's routes that compute vectors: /api/embed and /api/embeddings.

Reference: `EmbedHandler` and `EmbeddingsHandler` in server/routes.go of ollama/ollama.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from edgeembed.errors import RequestError
from edgeembed.inference.aside import DIGITS, Aside
from edgeembed.inference.requests import EmbedRequest, EmbedResult
from edgeembed.inference.truncation import Lengths
from edgeembed.models.served_model import ServedModel
from edgeembed.models.slot import Slot
from edgeembed.server.app_keys import SERVICE
from edgeembed.server.body import BodyType, cache_use, json_name, read_body
from edgeembed.server.dialects.keep_alive import keep_alive_seconds
from edgeembed.server.dialects.ollama_fields import KeepAlive, NameField, OllamaOptions, in_ollamas_words
from edgeembed.server.fields import TRUNCATE, RowField, RowsField, answer_headers
from edgeembed.server.long_texts import LongTextField, long_text_of
from edgeembed.server.responses import JSON_TYPE, PartedResponse, array_json, struct_response

routes = web.RouteTableDef()

_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]}
_ONE_TEXT = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": 1}, {"type": "null"}]}
MOST_NUMBERS_AT_ONCE = 2**18
"""In a part of a large answer; each takes about 11 bytes."""


class OllamaEmbedBody(msgspec.Struct):
    """Texts to embed. Without a text, the request only loads the model."""

    input: Annotated[
        Any,
        Meta(
            description="A text or a list of texts. If it is an empty text or list, the request only loads the model; an "
            "empty text in a list is embedded as the special tokens alone.",
            extra_json_schema=_TEXTS,
        ),
    ] = None
    model: NameField = None
    truncate: Annotated[bool | None, Meta(description=TRUNCATE)] = None
    long_text: LongTextField = None
    dimensions: Annotated[
        int | None,
        Meta(description="Return the first N numbers, scaled to length 1; 0: all.", extra_json_schema={"minimum": 0}),
    ] = None
    keep_alive: KeepAlive = None
    options: OllamaOptions = None
    prompt: Annotated[Any, Meta(description="The same as input, which wins: some clients mix up the two routes.")] = None


class OllamaEmbedAnswer(msgspec.Struct):
    """Rows of length 1, in the request's order. Durations are nanoseconds."""

    model: str
    embeddings: RowsField
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OllamaEmbeddingsBody(msgspec.Struct):
    """One text to embed, for older clients. Without a text, the request only loads the model."""

    prompt: Annotated[Any, Meta(description="A text.", extra_json_schema=_ONE_TEXT)] = None
    model: NameField = None
    long_text: LongTextField = None
    keep_alive: KeepAlive = None
    options: OllamaOptions = None
    input: Annotated[Any, Meta(description="The same as prompt, which wins: some clients mix up the two routes.")] = None


class OllamaEmbeddingsAnswer(msgspec.Struct):
    """One row, of length 1."""

    embedding: RowField


_EMBED = BodyType(OllamaEmbedBody)
_EMBEDDINGS = BodyType(OllamaEmbeddingsBody)


@routes.post("/api/embed")
async def embed_texts(request: web.Request) -> web.Response:
    """Embed a text or any number of texts. The end of one that is too long is cut off unless `truncate` is false."""
    began, began_ns = time.monotonic(), time.perf_counter_ns()
    body = await read_body(request, _EMBED)
    if body.dimensions is not None and body.dimensions < 0:
        raise RequestError(f"dimensions is {body.dimensions}; expected 0 (all) or more", param="dimensions")
    param = "prompt" if body.input is None and body.prompt is not None else "input"
    given = getattr(body, param)
    asked = EmbedRequest(
        texts=_texts(given, param),
        model=body.model,
        dimensions=body.dimensions or None,
        param=param,
        single=isinstance(given, str),
        cache=cache_use(None, request),
        lengths=_lengths(body.options, body.truncate),
        may_be_empty=True,
        long_text=long_text_of(body.long_text, request.app[SERVICE].long_text, truncate=body.truncate),
    )
    with in_ollamas_words(body.model):
        result, model, slot = await _compute(request, asked, body.keep_alive)
    answer = OllamaEmbedAnswer(
        model=body.model or model.name,
        embeddings=[],
        total_duration=time.perf_counter_ns() - began_ns,
        load_duration=int(slot.load_seconds * 1e9) if slot and slot.began_at >= began else 0,
        prompt_eval_count=0,
    )
    if result is None:
        return struct_response(answer)
    answer.prompt_eval_count = sum(result.tokens)
    aside = request.app[SERVICE].aside
    if result.numbers > MOST_NUMBERS_AT_ONCE:
        headers = {hdrs.CONTENT_TYPE: JSON_TYPE, **answer_headers(result, result.texts)}
        return PartedResponse(_parts(result, answer, aside), headers)
    return await aside.run(DIGITS * result.numbers, _answer, result, answer)


@routes.post("/api/embeddings")
async def embed_text(request: web.Request) -> web.Response:
    """Embed one text, for older clients."""
    body = await read_body(request, _EMBEDDINGS)
    param = "input" if body.prompt is None and body.input is not None else "prompt"
    texts = _texts(getattr(body, param), param)
    if len(texts) > 1:
        raise RequestError(
            f"{param} has {len(texts)} texts; this route takes one, and POST /api/embed any number", param=param
        )
    asked = EmbedRequest(
        texts=texts,
        model=body.model,
        param=param,
        single=True,
        cache=cache_use(None, request),
        lengths=_lengths(body.options, None),
        may_be_empty=True,
        long_text=long_text_of(body.long_text, request.app[SERVICE].long_text),
    )
    with in_ollamas_words(body.model):
        result, _, _ = await _compute(request, asked, body.keep_alive)
    return struct_response(
        OllamaEmbeddingsAnswer(result.vectors[0] if result else []),
        headers=answer_headers(result, result.texts) if result else None,
    )


def _answer(result: EmbedResult, answer: OllamaEmbedAnswer) -> web.Response:
    answer.embeddings = result.vectors
    return struct_response(answer, headers=answer_headers(result, result.texts))


async def _parts(result: EmbedResult, answer: OllamaEmbedAnswer, aside: Aside) -> AsyncIterator[bytes]:
    """Yield an answer as JSON, in parts that are made when they are sent: as a whole it might not fit into memory."""
    begin, mark, end = msgspec.json.encode(answer).partition(b'"embeddings":[')
    step = max(1, MOST_NUMBERS_AT_ONCE * len(result.rows) // result.numbers)
    yield begin + mark
    for first in range(0, len(result.rows), step):
        some = slice(first, first + step)
        part = await aside.run(MOST_NUMBERS_AT_ONCE, lambda some=some: array_json(result.vectors_of(some))[1:-1])
        yield b"," + part if first else part
    yield end


def _texts(given: Any, param: str) -> list[str]:
    """Return a field as a list of texts; an empty text or list is none.

    Raises RequestError that names the first item that is not a text.
    """
    match given:
        case None | "" | []:
            return []
        case str():
            return [given]
        case list():
            wrong = next((index for index, item in enumerate(given) if type(item) is not str), None)
            if wrong is None:
                return given
            place, found, expected = f"{param}[{wrong}]", given[wrong], "a string"
        case _:
            place, found, expected = param, given, "a string or a list of strings"
    raise RequestError(f"invalid input type: {place} is {json_name(found)}; expected {expected}", param=place)


async def _compute(
    request: web.Request, asked: EmbedRequest, keep_alive: str | float | None
) -> tuple[EmbedResult | None, ServedModel, Slot | None]:
    """Embed the texts, or load the model if there are none, and apply the client's keep_alive."""
    service = request.app[SERVICE]
    seconds = keep_alive_seconds(keep_alive)
    if asked.texts:
        result = await service.embed(asked)
        model = result.model
    else:
        result = None
        model = (await service.registry.resolve(asked.model, "embed")).model
        if seconds != 0:  # otherwise it is only to be unloaded
            async with service.pool.lease(model):
                pass
    slot = service.pool.slot_of(model)
    if keep_alive is not None:
        service.pool.keep(model, seconds)
    return result, model, slot


def _lengths(options: dict[str, Any] | None, truncate: bool | None) -> Lengths:
    """Return how long a text may be. Ollama cuts off the end by default."""
    most = (options or {}).get("num_ctx")
    if isinstance(most, float) and most.is_integer():
        most = int(most)
    if most is not None and type(most) is not int:
        raise RequestError('option "num_ctx" must be of type integer: expected a number of tokens', param="options.num_ctx")
    if most is not None and most < 1:
        raise RequestError(
            f"input after truncation exceeds maximum context length: options.num_ctx is {most}; expected at least 1. "
            "Without it, the model's own limit holds",
            param="options.num_ctx",
        )
    return Lengths("none" if truncate is False else "end", most, asked="options.num_ctx")
