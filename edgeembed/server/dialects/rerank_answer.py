"""Answers to rerank requests, in one shape for the clients of Jina, Cohere, vLLM, SGLang, infinity, Voyage and Xinference.

Many of them send the same fields to the same paths, so one answer has what each of them reads: `results` (all but Voyage's),
`data` (Voyage's, and Continue's for every server), `usage` and `meta`. Where two need different types of the same field,
`DocumentForm` says which one a request gets.
"""

from __future__ import annotations

import math
import time
import uuid
from typing import Literal, TypeAlias

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from edgeembed.inference.requests import RerankResult
from edgeembed.server.dialects.cohere import CohereVersion
from edgeembed.server.fields import TruncatedItem, answer_headers, truncated_items
from edgeembed.server.responses import struct_response

ApiVersion: TypeAlias = Literal["1", "2"]
"""Of Cohere's API."""
DocumentForm: TypeAlias = Literal["object", "string", "none"]
"""`document` in `results`: an object with `text`, as Jina, Cohere and vLLM have it; a string, as infinity; or left out."""

_DOCUMENTS_OF_UNIT = 100
_TOKENS_OF_DOCUMENT = 500
"""Cohere bills one search for up to so many documents; one with more tokens than this counts as several."""


class RerankDocument(msgspec.Struct):
    """A document of the request."""

    text: str


class RerankResultItem(msgspec.Struct):
    """A document's index in the request, and its relevance: from 0 to 1, unless raw scores were asked for."""

    index: int
    relevance_score: float
    document: RerankDocument | str | UnsetType = UNSET


class RerankUsage(msgspec.Struct):
    """Tokens of all pairs of query and document."""

    prompt_tokens: int
    total_tokens: int


class RerankUnits(msgspec.Struct):
    """What Cohere bills: a search for up to 100 documents, where one of over 500 tokens counts as several."""

    search_units: int


class RerankTokens(msgspec.Struct):
    """Tokens of all pairs of query and document."""

    input_tokens: int
    output_tokens: int = 0


class RerankMeta(msgspec.Struct):
    """Cohere's information about a request. `warnings` is present if a document or the query was cut."""

    api_version: CohereVersion
    billed_units: RerankUnits
    tokens: RerankTokens
    warnings: list[str] | UnsetType = UNSET


class RerankAnswer(msgspec.Struct):
    """The documents, best first: in `results`, and in `data` as Voyage has them. `truncated` is present if any was cut."""

    id: str
    object: Literal["list", "rerank"]
    created: int
    model: str
    results: list[RerankResultItem]
    usage: RerankUsage
    meta: RerankMeta
    data: list[RerankResultItem] | UnsetType = UNSET
    truncated: list[TruncatedItem] | UnsetType = UNSET


class RerankForm(msgspec.Struct, frozen=True):
    """How an answer is written.

    most: documents that it has, best first; None for all. raw: scores are a reranker's logits.
    documents: how `results` has the documents. repeat: `data` has them, too.
    """

    version: ApiVersion = "1"
    object: Literal["list", "rerank"] = "list"
    most: int | None = None
    raw: bool = False
    documents: DocumentForm = "none"
    repeat: bool = False


def rerank_response(result: RerankResult, documents: list[str], form: RerankForm) -> web.Response:
    """Return the response with the scores of documents."""
    best = result.best(form.most)
    scores = result.raw_scores if form.raw else result.scores
    texts = [documents[index] for index in best]
    returned: list[RerankDocument | str | UnsetType]
    match form.documents:
        case "object":
            returned = [RerankDocument(text) for text in texts]
        case "string":
            returned = [*texts]
        case "none":
            returned = [UNSET] * len(best)
    tokens = sum(result.tokens)
    again = [text if form.repeat else UNSET for text in texts]
    answer = RerankAnswer(
        id=uuid.uuid4().hex,
        object=form.object,
        created=int(time.time()),
        model=result.model.name,
        results=[RerankResultItem(index, scores[index], text) for index, text in zip(best, returned, strict=True)],
        usage=RerankUsage(tokens, tokens),
        meta=_meta(result, form.version),
        truncated=truncated_items(result),
    )
    if form.version == "1":
        answer.data = [RerankResultItem(index, scores[index], text) for index, text in zip(best, again, strict=True)]
    return struct_response(answer, headers=answer_headers(result, result.texts))


def _meta(result: RerankResult, version: ApiVersion) -> RerankMeta:
    counted = sum(math.ceil(tokens / _TOKENS_OF_DOCUMENT) for tokens in result.tokens)
    warnings = [
        f"document {cut.index} with its query was cut to {cut.tokens} of their {cut.full} tokens" for cut in result.cuts
    ]
    return RerankMeta(
        CohereVersion(version),
        RerankUnits(math.ceil(counted / _DOCUMENTS_OF_UNIT)),
        RerankTokens(sum(result.tokens)),
        warnings or UNSET,
    )
