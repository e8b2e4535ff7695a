"""Scores in the dialect of text-embeddings-inference (TEI): POST /rerank and /predict.

The path /rerank, which other dialects share, is in `rerank_path`. The fields `top_n`, from llama.cpp's server, and
`instruction` are extensions.
"""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from edgeembed.errors import EmptyInputError, RequestError
from edgeembed.inference.requests import RerankRequest
from edgeembed.inference.truncation import Lengths
from edgeembed.server.app_keys import MAX_REQUEST_TEXTS, SERVICE
from edgeembed.server.body import BodyType, cache_use, json_name, read_body
from edgeembed.server.dialects.rerank_fields import INSTRUCTION, TOP_N, CountField, most_of
from edgeembed.server.dialects.tei_fields import (
    DirectionField,
    TruncateField,
    batch_of,
    check_batch,
    compute_headers,
    lengths,
)
from edgeembed.server.fields import TextField, TextListField
from edgeembed.server.long_texts import LongDocumentField, divides
from edgeembed.server.responses import json_response, plain

routes = web.RouteTableDef()

LABEL = "LABEL_0"
"""transformers' name for the only label of a model that was trained without names."""


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


_PAIR = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 2, "maxItems": 2}
_PAIRS = {"anyOf": [_PAIR, {"type": "array", "items": _PAIR, "minItems": 1}]}


class TeiPredictBody(msgspec.Struct):
    """Pairs of texts to score: one, or a list of them. With `raw_scores`, scores are logits and not from 0 to 1."""

    inputs: Annotated[str | list[Any], Meta(extra_json_schema=_PAIRS)]
    raw_scores: bool | None = None
    truncate: TruncateField = None
    truncation_direction: DirectionField = None
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
    """Score a pair of texts, or each pair in a list, with a reranker, which has a single label."""
    body = await read_body(request, _PREDICT)
    pairs, single = _pairs_of(body.inputs, request.app[MAX_REQUEST_TEXTS])
    queries, documents = zip(*pairs, strict=True)
    result = await request.app[SERVICE].rerank(
        RerankRequest(
            query=queries,
            documents=documents,
            model=body.model,
            param="inputs",
            query_param="inputs",
            single=single,
            cache=cache_use(None, request),
            lengths=_lengths(body),
        )
    )
    scores = result.raw_scores if body.raw_scores else result.scores
    predictions = [[TeiPrediction(score, LABEL)] for score in scores]
    return json_response(plain(predictions[0] if single else predictions))


def _lengths(body: TeiRerankBody | TeiPredictBody) -> Lengths:
    """Return how long a pair may be; of one that is too long, the longer text is cut first, as TEI does."""
    found = lengths(body.truncate, body.truncation_direction)
    return dataclasses.replace(found, query=found.cut != "none")


def _pairs_of(inputs: str | list[Any], most: int) -> tuple[list[tuple[str, str]], bool]:
    """Return the pairs of a request, and whether it is a single pair and no list. Raises RequestError, EmptyInputError."""
    if isinstance(inputs, str):
        raise RequestError("inputs is a single text; a reranker scores pairs: send [query, text]", param="inputs")
    if inputs and not isinstance(inputs[0], list):
        return [_pair_of(inputs, "inputs")], True
    check_batch(inputs, most, "inputs")
    return [_pair_of(item, f"inputs[{index}]") for index, item in enumerate(inputs)], False


def _pair_of(item: Any, place: str) -> tuple[str, str]:
    match item:
        case [str(query), str(document)]:
            if not query or not document:
                raise EmptyInputError(f"{place} has an empty text; a pair needs two texts", param=place)
            return query, document
        case [*_]:
            raise RequestError(f"{place}: a reranker scores pairs; expected two texts, [query, text]", param=place)
        case _:
            raise RequestError(f"{place} is {json_name(item)}; expected two texts, [query, text]", param=place)
