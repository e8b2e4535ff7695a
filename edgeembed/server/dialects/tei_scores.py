"""Scores and classes in the dialect of text-embeddings-inference (TEI): POST /rerank and /predict.

The path /rerank, which other dialects share, is in `rerank_path`. The fields `top_n`, from llama.cpp's server, and
`instruction` are extensions.
"""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from edgeembed.engine.classes import ClassFunction
from edgeembed.errors import EmptyInputError, RequestError
from edgeembed.inference.classifying import probabilities_of
from edgeembed.inference.requests import ClassifyRequest, ClassifyResult, RerankRequest
from edgeembed.inference.truncation import Lengths
from edgeembed.server.app_keys import MAX_REQUEST_TEXTS, SERVICE
from edgeembed.server.body import BodyType, cache_use, json_name, read_body
from edgeembed.server.dialects.classify import best_first
from edgeembed.server.dialects.rerank_fields import INSTRUCTION, TOP_N, CountField, most_of
from edgeembed.server.dialects.tei_fields import (
    DirectionField,
    TruncateField,
    batch_of,
    check_batch,
    compute_headers,
    lengths,
)
from edgeembed.server.fields import PositiveField, TextField, TextListField, check_positive
from edgeembed.server.long_texts import LongDocumentField, divides
from edgeembed.server.responses import json_response, plain

routes = web.RouteTableDef()


class TeiRerankBody(msgspec.Struct):
    """A query, and texts to score against it. With `raw_scores`, scores are logits and not from 0 to 1."""

    query: TextField
    texts: TextListField
    raw_scores: bool | None = None
    return_text: bool | None = None
    truncate: TruncateField = None
    long_text: LongDocumentField = None
    truncation_direction: DirectionField = None
    top_n: Annotated[CountField | None, Meta(description=TOP_N)] = None
    instruction: Annotated[str | None, Meta(description=INSTRUCTION)] = None
    model: str | None = None


class TeiRank(msgspec.Struct):
    """A text's index in the request, and its score."""

    index: int
    score: float
    text: str | UnsetType = UNSET


_TEXT = {"type": "string", "minLength": 1}
_ONE_OR_TWO = {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 2}
_INPUTS = {"anyOf": [_TEXT, _ONE_OR_TWO, {"type": "array", "items": _ONE_OR_TWO, "minItems": 1}]}
_FUNCTIONS: dict[str, ClassFunction] = {"softmax": "softmax", "sigmoid": "sigmoid", "none": "identity"}


class TeiPredictParameters(msgspec.Struct):
    """How the answer is made, as the clients of the Hub's Inference API say it."""

    top_k: Annotated[PositiveField | None, Meta(description="Only the N most probable classes.")] = None
    function_to_apply: Annotated[
        Literal["softmax", "sigmoid", "none"] | None, Meta(description="Instead of the model's own function.")
    ] = None


class TeiPredictBody(msgspec.Struct):
    """A text, or two that belong together, or a list of such lists. With `raw_scores`, scores are logits.

    With `parameters`, the answer to a single text is a list in a list, as that of the Hub's Inference API.
    """

    inputs: Annotated[str | list[Any], Meta(extra_json_schema=_INPUTS)]
    raw_scores: bool | None = None
    truncate: TruncateField = None
    truncation_direction: DirectionField = None
    parameters: Annotated[TeiPredictParameters | None, Meta(description="Of the Hub's Inference API.")] = None
    model: str | None = None


class TeiPrediction(msgspec.Struct):
    """The score of a label."""

    score: float
    label: str


_RERANK = BodyType(TeiRerankBody)
_PREDICT = BodyType(TeiPredictBody)


async def rerank(request: web.Request) -> web.Response:
    """Score texts against a query, best first."""
    began = time.perf_counter()
    body = await read_body(request, _RERANK)
    texts = batch_of(body.texts, request.app[MAX_REQUEST_TEXTS], "texts")
    most = most_of(body.top_n, "top_n")
    service = request.app[SERVICE]
    result = await service.rerank(
        RerankRequest(
            query=body.query,
            documents=texts,
            model=body.model,
            instruction=body.instruction,
            param="texts",
            cache=cache_use(None, request),
            lengths=_lengths(body),
            windows=divides(body.long_text, service.long_text, truncate=body.truncate),
        )
    )
    scores = result.raw_scores if body.raw_scores else result.scores
    ranks = [TeiRank(index, scores[index], texts[index] if body.return_text else UNSET) for index in result.best(most)]
    characters = sum(map(len, texts))
    headers = compute_headers(result, result.texts, characters + len(body.query) * len(texts), began)
    return await service.aside.run(
        characters if body.return_text else 0, partial(json_response, headers=headers), plain(ranks)
    )


@routes.post("/predict")
async def predict(request: web.Request) -> web.Response:
    """Find the classes of a text, of two that belong together, or of each item of a list; or score pairs with a reranker."""
    began = time.perf_counter()
    body = await read_body(request, _PREDICT)
    parameters = body.parameters or TeiPredictParameters()
    check_positive(parameters.top_k, "parameters.top_k")
    items, single = _items_of(body.inputs, request.app[MAX_REQUEST_TEXTS])
    texts, seconds = zip(*items, strict=True)
    service = request.app[SERVICE]
    result = await service.classify(
        ClassifyRequest(
            texts=texts,
            seconds=seconds if any(second is not None for second in seconds) else None,
            model=body.model,
            param="inputs",
            single=single,
            cache=cache_use(None, request),
            lengths=_lengths(body),
            or_reranker=True,
        )
    )
    predictions = await service.aside.run(result.logits.size, _predictions, result, body)
    nested = body.parameters is not None or not single
    characters = sum(len(text) + len(second or "") for text, second in items)
    headers = compute_headers(result, len(items), characters, began)
    return await service.aside.run(
        result.logits.size, partial(json_response, headers=headers), plain(predictions if nested else predictions[0])
    )


def _predictions(result: ClassifyResult, body: TeiPredictBody) -> list[list[TeiPrediction]]:
    """Return the scores of all classes for each item, the highest first."""
    parameters = body.parameters or TeiPredictParameters()
    scores = result.logits if body.raw_scores else result.probabilities
    if parameters.function_to_apply is not None:
        function = _FUNCTIONS[parameters.function_to_apply]
        scores = probabilities_of(result.logits, msgspec.structs.replace(result.classes, function=function))
    return [
        [TeiPrediction(score, label) for score, label in best_first(row, result.classes.labels)[: parameters.top_k]]
        for row in scores.tolist()
    ]


def _lengths(body: TeiRerankBody | TeiPredictBody) -> Lengths:
    """Return how long a pair may be; of one that is too long, the longer text is cut first, as TEI does."""
    found = lengths(body.truncate, body.truncation_direction)
    return dataclasses.replace(found, query=found.cut != "none")


def _items_of(inputs: str | list[Any], most: int) -> tuple[list[tuple[str, str | None]], bool]:
    """Return the texts and pairs of a request, and whether it is a single one. Raises RequestError, EmptyInputError."""
    if isinstance(inputs, str):
        return [_item_of([inputs], "inputs")], True
    if inputs and not isinstance(inputs[0], list):
        return [_item_of(inputs, "inputs")], True
    check_batch(inputs, most, "inputs")
    return [_item_of(item, f"inputs[{index}]") for index, item in enumerate(inputs)], False


def _item_of(item: Any, place: str) -> tuple[str, str | None]:
    match item:
        case [str(text)]:
            first, second = text, None
        case [str(text), str(other)]:
            first, second = text, other
        case [*texts] if len(texts) > 2 and all(isinstance(text, str) for text in texts):
            raise RequestError(
                f"{place} has {len(texts)} texts; a list of texts is a pair, such as [query, text] for a reranker. For "
                "several texts, send each in a list of its own: [[text], [text]]",
                param=place,
            )
        case [*_]:
            raise RequestError(f"{place}: expected a text, or two as in [query, text]", param=place)
        case _:
            raise RequestError(f"{place} is {json_name(item)}; expected a list of one or two texts", param=place)
    if not first or second == "":
        what = "is empty" if second is None else "has an empty text; a pair needs two texts"
        raise EmptyInputError(f"{place} {what}", param=place)
    return first, second
