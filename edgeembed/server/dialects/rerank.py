"""Reranking in the dialect that Jina, Cohere and vLLM share: POST /v1/rerank and /v2/rerank; see `rerank_path` for /rerank.

Reference: the API documentation of Jina ("Reranker") and of Cohere ("Rerank"), `RerankRequest` of vLLM and
`V1RerankReqInput` of SGLang. The fields `instruction` and `cache` are extensions.
"""

from __future__ import annotations

import uuid
from functools import partial
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from edgeembed.errors import RequestError
from edgeembed.inference.requests import RerankRequest
from edgeembed.inference.truncation import Lengths
from edgeembed.server.app_keys import MAX_INPUTS, SERVICE
from edgeembed.server.body import BodyType, CacheField, cache_use, read_body
from edgeembed.server.fields import PositiveField, TextField, answer_headers, check_positive, texts_of
from edgeembed.server.responses import struct_response

routes = web.RouteTableDef()

_DOCUMENT = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "object", "properties": {"text": {"type": "string", "minLength": 1}}, "required": ["text"]},
    ]
}


_MOST = "The longest query and document together, in tokens. The start of a longer document is cut off."
_MOST_OF_DOCUMENT = "The longest document, in tokens. The end of a longer one is cut off."


class RerankBody(msgspec.Struct):
    """A query, and documents to score against it. Fields that are not listed are ignored."""

    query: TextField
    documents: Annotated[list[Any], Meta(extra_json_schema={"items": _DOCUMENT, "minItems": 1})]
    model: str | None = None
    top_n: PositiveField | None = None
    return_documents: bool | None = None
    instruction: Annotated[str | None, Meta(description="The task, for models whose prompt has one.")] = None
    instruct: Annotated[str | None, Meta(description="SGLang's name for instruction.")] = None
    max_tokens_per_doc: Annotated[PositiveField | None, Meta(description=_MOST_OF_DOCUMENT)] = None
    truncate_prompt_tokens: Annotated[
        int | None, Meta(description=f"{_MOST} -1 is the model's limit.", extra_json_schema={"minimum": -1})
    ] = None
    rank_fields: Annotated[
        list[str] | None, Meta(description="Only text is supported: the other fields of a document are not read.")
    ] = None
    cache: CacheField = None


class RerankDocument(msgspec.Struct):
    """A document of the request."""

    text: str


class RerankResultItem(msgspec.Struct):
    """A document's index in the request, and its relevance from 0 to 1."""

    index: int
    relevance_score: float
    document: RerankDocument | UnsetType = UNSET


class RerankUsage(msgspec.Struct):
    """Tokens of all pairs of query and document."""

    prompt_tokens: int
    total_tokens: int


class ApiVersion(msgspec.Struct):
    """The version of Cohere's API."""

    version: str


class RerankUnits(msgspec.Struct):
    """What Cohere bills: one search per request."""

    search_units: int


class RerankMeta(msgspec.Struct):
    """Cohere's information about a request."""

    api_version: ApiVersion
    billed_units: RerankUnits


class RerankAnswer(msgspec.Struct):
    """The documents, best first. `usage` is for clients of Jina and vLLM, `meta` for those of Cohere."""

    id: str
    object: str
    model: str
    results: list[RerankResultItem]
    usage: RerankUsage
    meta: RerankMeta


_BODY = BodyType(RerankBody)


@routes.post("/v1/rerank")
async def rerank_v1(request: web.Request) -> web.Response:
    """Score documents against a query, from 0 to 1, best first."""
    return await rerank(request, "1")


@routes.post("/v2/rerank")
async def rerank_v2(request: web.Request) -> web.Response:
    """Score documents against a query, for clients of Cohere."""
    return await rerank(request, "2")


async def rerank(request: web.Request, version: str) -> web.Response:
    """Answer a request. version: of Cohere's API."""
    body = await read_body(request, _BODY)
    documents = texts_of(body.documents, request.app[MAX_INPUTS], "documents")
    check_positive(body.top_n, "top_n")
    if body.rank_fields not in (None, ["text"]):
        raise RequestError(
            "rank_fields: only the field 'text' is supported; put the text of other fields into it", param="rank_fields"
        )
    result = await request.app[SERVICE].rerank(
        RerankRequest(
            query=body.query,
            documents=documents,
            model=body.model,
            instruction=body.instruction if body.instruction is not None else body.instruct,
            cache=cache_use(body.cache, request),
            lengths=_lengths(body),
        )
    )
    order = sorted(range(len(documents)), key=lambda index: -result.scores[index])[: body.top_n]
    found = [
        RerankResultItem(index, result.scores[index], RerankDocument(documents[index]) if body.return_documents else UNSET)
        for index in order
    ]
    tokens = sum(result.tokens)
    answer = RerankAnswer(
        id=uuid.uuid4().hex,
        object="list",
        model=result.model.name,
        results=found,
        usage=RerankUsage(tokens, tokens),
        meta=RerankMeta(ApiVersion(version), RerankUnits(1)),
    )
    headers = answer_headers(result, len(documents))
    returned = sum(map(len, documents)) if body.return_documents else 0
    return await request.app[SERVICE].aside.run(returned, partial(struct_response, headers=headers), answer)


def _lengths(body: RerankBody) -> Lengths:
    """Return how long a pair may be: Cohere's field counts the document's tokens, vLLM's those of the pair."""
    if body.truncate_prompt_tokens is not None:
        most = None if body.truncate_prompt_tokens == -1 else body.truncate_prompt_tokens
        check_positive(most, "truncate_prompt_tokens")
        return Lengths(cut="start", max_tokens=most, asked="truncate_prompt_tokens")
    if body.max_tokens_per_doc is not None:
        check_positive(body.max_tokens_per_doc, "max_tokens_per_doc")
        return Lengths(cut="end", max_tokens=body.max_tokens_per_doc, own=True, asked="max_tokens_per_doc")
    return Lengths()
