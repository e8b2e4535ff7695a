"""Classes of texts: POST /classify of vLLM and of infinity, and POST /v1/classify of SGLang.

Reference: `ClassificationRequest` of vLLM, which SGLang has copied; `ClassifyInput` of infinity, whose clients always send
`raw_scores`: its answers name all classes of a text, the most probable first. Pairs of texts in `input`, as natural language
inference needs them, and `cache` are extensions. text-embeddings-inference has POST /predict instead; see `tei_scores`.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from functools import partial
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from edgeembed.engine.interface import Side
from edgeembed.errors import RequestError
from edgeembed.inference.requests import ClassifyRequest, ClassifyResult
from edgeembed.inference.truncation import Lengths
from edgeembed.server.app_keys import MAX_REQUEST_TEXTS, SERVICE
from edgeembed.server.body import BodyType, CacheField, cache_use, json_name, read_body
from edgeembed.server.fields import (
    PositiveField,
    TruncatedItem,
    TruncateField,
    answer_headers,
    check_count,
    has_token_ids,
    id_lists_of,
    lengths_of_text,
    part_text,
    side_to_cut,
    truncated_items,
)
from edgeembed.server.responses import struct_response

routes = web.RouteTableDef()

_TEXT = {"type": "string", "minLength": 1}
_PAIR = {"type": "array", "items": _TEXT, "minItems": 2, "maxItems": 2}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_INPUT = {
    "anyOf": [
        _TEXT,
        {"type": "array", "items": {"anyOf": [_TEXT, _PAIR]}, "minItems": 1},
        _IDS,
        {"type": "array", "items": _IDS, "minItems": 1},
    ]
}
InputField: TypeAlias = Annotated[str | list[Any], Meta(extra_json_schema=_INPUT)]


class ClassifyBody(msgspec.Struct):
    """Texts to classify: one, or a list; token ids of the model in their place; or pairs of texts in a list."""

    input: InputField | UnsetType = UNSET
    model: str | None = None
    use_activation: Annotated[bool | None, Meta(description="false: logits instead of probabilities.")] = None
    activation: Annotated[bool | None, Meta(description="The same, in older versions of vLLM.")] = None
    softmax: Annotated[bool | None, Meta(description="The same, in still older ones.")] = None
    raw_scores: Annotated[
        bool | None, Meta(description="infinity: true returns logits. With this field, the answer has infinity's form.")
    ] = None
    truncate: Annotated[
        TruncateField | None,
        Meta(
            description="What happens to texts that are too long: end or start cuts off that side, none refuses them. The "
            "default is the server's setting truncate."
        ),
    ] = None
    truncate_prompt_tokens: Annotated[
        int | None,
        Meta(
            description="vLLM's truncate: cut to so many tokens; -1 is the model's limit.", extra_json_schema={"minimum": -1}
        ),
    ] = None
    truncation_side: Annotated[
        Literal["left", "right"] | None, Meta(description="The side that truncate_prompt_tokens cuts off.")
    ] = None
    max_tokens: Annotated[
        PositiveField | None, Meta(description="The longest text in tokens, if less than the model's limit.")
    ] = None
    cache: CacheField = None


class ClassifiedItem(msgspec.Struct):
    """The most probable class of a text, and the probability of each class in the model's order."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class ClassifyUsage(msgspec.Struct):
    """Tokens of all texts."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class ClassifyAnswer(msgspec.Struct):
    """The classes of the texts, in their order. `truncated` is present if a text was cut."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[ClassifiedItem]
    usage: ClassifyUsage
    truncated: list[TruncatedItem] | UnsetType = UNSET


class ScoredLabel(msgspec.Struct):
    """A class and its score."""

    score: float
    label: str


class InfinityClassifyAnswer(msgspec.Struct):
    """All classes of each text, the most probable first: the answer to a body with `raw_scores`."""

    id: str
    object: Literal["classify"]
    created: int
    model: str
    data: list[list[ScoredLabel]]
    usage: ClassifyUsage


_BODY = BodyType(ClassifyBody)


@routes.post("/classify")
@routes.post("/v1/classify")
async def classify(request: web.Request) -> web.Response:
    """Find the classes of texts."""
    body = await read_body(request, _BODY)
    service = request.app[SERVICE]
    result = await service.classify(
        msgspec.structs.replace(
            _request_of(body, request.app[MAX_REQUEST_TEXTS]),
            model=body.model,
            cache=cache_use(body.cache, request),
            lengths=_lengths(body, service.truncate),
        )
    )
    size = result.logits.size
    return await service.aside.run(size, partial(_response, result, body))


def _response(result: ClassifyResult, body: ClassifyBody) -> web.Response:
    raw = bool(body.raw_scores) or False in (body.use_activation, body.activation, body.softmax)
    scores = result.logits if raw else result.probabilities
    labels, tokens = result.classes.labels, sum(result.tokens)
    answer: ClassifyAnswer | InfinityClassifyAnswer
    if body.raw_scores is not None:
        answer = InfinityClassifyAnswer(
            id=f"infinity-{uuid.uuid4()}",
            object="classify",
            created=int(time.time()),
            model=result.model.name,
            data=[[ScoredLabel(score, label) for score, label in best_first(row, labels)] for row in scores.tolist()],
            usage=ClassifyUsage(tokens, tokens),
        )
    else:
        best = scores.argmax(axis=1).tolist()
        answer = ClassifyAnswer(
            id=f"classify-{uuid.uuid4().hex}",
            object="list",
            created=int(time.time()),
            model=result.model.name,
            data=[
                ClassifiedItem(index, labels[which], row, len(labels))
                for index, (which, row) in enumerate(zip(best, scores.tolist(), strict=True))
            ],
            usage=ClassifyUsage(tokens, tokens),
            truncated=truncated_items(result),
        )
    return struct_response(answer, headers=answer_headers(result, len(result.tokens)))


def best_first(row: list[float], labels: tuple[str, ...]) -> list[tuple[float, str]]:
    """Return the scores of a text with their labels, the highest first."""
    return sorted(zip(row, labels, strict=True), key=lambda pair: -pair[0])


def _request_of(body: ClassifyBody, most: int) -> ClassifyRequest:
    """Return what the body asks for. Raises RequestError naming the first item that is wrong."""
    given = body.input
    if given is UNSET:
        raise RequestError("input is missing; send a text or a list of texts", param="input")
    if not isinstance(given, list):
        return ClassifyRequest([part_text(given, "input")], single=True)
    check_count(given, most, "input")
    if has_token_ids(given):
        ids, single = id_lists_of(given, "input")
        return ClassifyRequest([], ids=ids, single=single)
    texts, seconds = zip(*(one_or_two(item, f"input[{index}]") for index, item in enumerate(given)), strict=True)
    return ClassifyRequest(texts, seconds if any(second is not None for second in seconds) else None)


def one_or_two(item: Any, place: str) -> tuple[str, str | None]:
    """Return a text and None, or the two texts of a pair. Raises RequestError."""
    match item:
        case str():
            return item, None
        case [str(first), str(second)]:
            return first, second
        case [*_]:
            raise RequestError(f"{place} is a list; expected a text, or two texts, [text, text]", param=place)
        case {"text": str()}:
            return part_text(item, place), None
        case _:
            raise RequestError(f"{place} is {json_name(item)}; expected a text, or two texts, [text, text]", param=place)


def _lengths(body: ClassifyBody, default: Side) -> Lengths:
    """Return how long a text may be, and what happens to a longer one. Raises RequestError."""
    most = body.truncate_prompt_tokens
    side = side_to_cut(body.truncate, None, body.truncation_side, default if most is None else "end")
    found = lengths_of_text(side, body.truncation_side, most, body.max_tokens)
    return dataclasses.replace(found, query=side != "none")
