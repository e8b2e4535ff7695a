"""Reranking in the dialect of text-embeddings-inference, which llama.cpp's server speaks, too: a body with `texts`.

Reference: `RerankRequest` in router/src/http/types.rs of huggingface/text-embeddings-inference. The fields `model`, `top_n`
(from llama.cpp) and `instruction` are extensions.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from edgeembed.inference.requests import RerankRequest
from edgeembed.inference.truncation import Lengths
from edgeembed.server.app_keys import MAX_INPUTS, SERVICE
from edgeembed.server.body import BodyType, cache_use, read_body
from edgeembed.server.dialects.rerank_fields import INSTRUCTION, TOP_N, CountField, most_of
from edgeembed.server.fields import TextField, TextListField, answer_headers, side_of, texts_of
from edgeembed.server.responses import json_response, plain

_TRUNCATE = "Cut a query and a text that are too long together; the longer one is cut first. With false they are an error."


class TeiRerankBody(msgspec.Struct):
    """A query, and texts to score against it. With `raw_scores`, scores are logits and not from 0 to 1."""

    query: TextField
    texts: TextListField
    raw_scores: bool | None = None
    return_text: bool | None = None
    truncate: Annotated[bool | None, Meta(description=_TRUNCATE)] = None
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = None
    top_n: Annotated[CountField | None, Meta(description=TOP_N)] = None
    instruction: Annotated[str | None, Meta(description=INSTRUCTION)] = None
    model: str | None = None


class TeiRank(msgspec.Struct):
    """A text's index in the request, and its score."""

    index: int
    score: float
    text: str | UnsetType = UNSET


_BODY = BodyType(TeiRerankBody)


async def rerank(request: web.Request) -> web.Response:
    """Score texts against a query, best first."""
    body = await read_body(request, _BODY)
    texts = texts_of(body.texts, request.app[MAX_INPUTS], "texts")
    most = most_of(body.top_n, "top_n")
    side = "none" if body.truncate is False else side_of(body.truncation_direction, "truncation_direction") or "end"
    result = await request.app[SERVICE].rerank(
        RerankRequest(
            query=body.query,
            documents=texts,
            model=body.model,
            instruction=body.instruction,
            param="texts",
            cache=cache_use(None, request),
            lengths=Lengths(side, query=side != "none"),
        )
    )
    scores = result.raw_scores if body.raw_scores else result.scores
    ranks = [TeiRank(index, scores[index], texts[index] if body.return_text else UNSET) for index in result.best(most)]
    headers = answer_headers(result, result.texts)
    returned = sum(map(len, texts)) if body.return_text else 0
    return await request.app[SERVICE].aside.run(returned, partial(json_response, headers=headers), plain(ranks))
