"""Scores of pairs of texts: POST /score and /v1/score of vLLM, and SGLang's form of it.

Reference: `ScoreRequest` of vLLM (its four pairs of names for the two texts; one text with many, or as many with as many);
`ScoringRequest` of SGLang, whose field `query` tells it apart. A reranker scores from 0 to 1; for an embedder the score is
the cosine of the two texts, without an input type.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from edgeembed.errors import RequestError
from edgeembed.inference.requests import RerankRequest
from edgeembed.inference.truncation import Lengths
from edgeembed.server.app_keys import MAX_REQUEST_TEXTS, SERVICE
from edgeembed.server.body import BodyType, CacheField, cache_use, read_body
from edgeembed.server.dialects.rerank_answer import RerankUsage
from edgeembed.server.dialects.rerank_fields import (
    INSTRUCTION,
    MOST,
    MOST_OF_DOCUMENT,
    CountField,
    DocumentsField,
    lengths_of,
    texts_to_rank,
)
from edgeembed.server.fields import TruncatedItem, answer_headers, side_of, truncated_items
from edgeembed.server.long_texts import LongDocumentField, divides
from edgeembed.server.responses import struct_response

routes = web.RouteTableDef()

_PAIRS = [("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2"), ("query", "items")]
_NAMES = "text_1 and text_2, queries and documents, queries and items, or data_1 and data_2"


class ScoreBody(msgspec.Struct):
    """Texts to score in pairs: one with each of many, or as many with as many. Send one of the pairs of fields."""

    text_1: DocumentsField | UnsetType = UNSET
    text_2: DocumentsField | UnsetType = UNSET
    queries: DocumentsField | UnsetType = UNSET
    documents: DocumentsField | UnsetType = UNSET
    items: DocumentsField | UnsetType = UNSET
    data_1: DocumentsField | UnsetType = UNSET
    data_2: DocumentsField | UnsetType = UNSET
    query: DocumentsField | UnsetType = UNSET
    model: str | None = None
    instruction: Annotated[str | None, Meta(description=INSTRUCTION)] = None
    use_activation: Annotated[bool | None, Meta(description="false: a reranker's logits.")] = None
    activation: Annotated[bool | None, Meta(description="The same, in older versions of vLLM.")] = None
    max_tokens_per_doc: Annotated[CountField | None, Meta(description=MOST_OF_DOCUMENT)] = None
    truncate_prompt_tokens: Annotated[int | None, Meta(description=MOST, extra_json_schema={"minimum": -1})] = None
    truncation_side: Annotated[Literal["left", "right"] | None, Meta(description="The side that is cut.")] = None
    long_text: LongDocumentField = None
    cache: CacheField = None


class ScoreItem(msgspec.Struct):
    """The score of a pair."""

    index: int
    object: Literal["score"]
    score: float


class ScoreAnswer(msgspec.Struct):
    """The scores in the order of the pairs. `truncated` is present if a pair was cut."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[ScoreItem]
    usage: RerankUsage
    truncated: list[TruncatedItem] | UnsetType = UNSET


class SglangScoreAnswer(msgspec.Struct):
    """The scores in the order of the items, each in a list of its own: the answer to `query` with `items`."""

    scores: list[list[float]]
    model: str
    usage: RerankUsage
    object: Literal["scoring"] = "scoring"


_BODY = BodyType(ScoreBody)


@routes.post("/score")
@routes.post("/v1/score")
async def score(request: web.Request) -> web.Response:
    """Score pairs of texts: with a reranker, or the cosine of an embedder."""
    body = await read_body(request, _BODY)
    first, second = _fields(body)
    given, most = getattr(body, second), request.app[MAX_REQUEST_TEXTS]
    one, other = texts_to_rank(getattr(body, first), most, first), texts_to_rank(given, most, second)
    if len(one) not in (1, len(other)):
        raise RequestError(
            f"{first} has {len(one)} texts and {second} has {len(other)}; expected one for all, or as many", param=first
        )
    result = await request.app[SERVICE].rerank(
        RerankRequest(
            query=one if isinstance(getattr(body, first), list) and len(one) == len(other) else one[0],
            documents=other,
            model=body.model,
            instruction=body.instruction,
            param=second,
            query_param=first,
            single=not isinstance(given, list),
            cache=cache_use(body.cache, request),
            lengths=_lengths(body),
            windows=divides(
                body.long_text,
                request.app[SERVICE].long_text,
                truncate_prompt_tokens=body.truncate_prompt_tokens,
                max_tokens_per_doc=body.max_tokens_per_doc or None,
            ),
            plain=True,
        )
    )
    scores = result.raw_scores if False in (body.use_activation, body.activation) else result.scores
    tokens = sum(result.tokens)
    usage = RerankUsage(tokens, tokens)
    headers = answer_headers(result, result.texts)
    if first == "query":
        return struct_response(SglangScoreAnswer([[score] for score in scores], result.model.name, usage), headers=headers)
    answer = ScoreAnswer(
        id=f"score-{uuid.uuid4().hex}",
        object="list",
        created=int(time.time()),
        model=result.model.name,
        data=[ScoreItem(index, "score", score) for index, score in enumerate(scores)],
        usage=usage,
        truncated=truncated_items(result),
    )
    return struct_response(answer, headers=headers)


def _fields(body: ScoreBody) -> tuple[str, str]:
    """Return the names of the fields that hold the texts. Raises RequestError unless one pair of them is given."""
    given = {name for names in _PAIRS for name in names if getattr(body, name) is not UNSET}
    for pair in _PAIRS:
        if given == set(pair):
            return pair
    missing = next((name for pair in _PAIRS for name in pair if given & set(pair) and name not in given), "text_1")
    got = ", ".join(sorted(given)) or "none of them"
    raise RequestError(f"expected the texts of the pairs in {_NAMES}; got {got}", param=missing)


def _lengths(body: ScoreBody) -> Lengths:
    """Return how long pairs may be. Raises RequestError."""
    pair, document = body.truncate_prompt_tokens, body.max_tokens_per_doc
    side = side_of(body.truncation_side, "truncation_side") if pair is not None or document else None
    found = lengths_of(side or ("none" if pair is None else "end"), pair, document)
    return dataclasses.replace(found, cutting="truncate_prompt_tokens")
