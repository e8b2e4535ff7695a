"""Reranking in the dialect that Jina, Cohere, vLLM, SGLang, infinity, Voyage and llama.cpp's server share: `documents`.

The routes are in `rerank_path`, the answers in `rerank_answer`. Reference: the API documentation of Jina ("Reranker"), of
Cohere ("Rerank", versions 1 and 2) and of Voyage ("Rerankers"); `RerankRequest` of vLLM, `V1RerankReqInput` of SGLang,
`RerankInput` of infinity. The field `cache` is an extension.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from edgeembed.errors import RequestError
from edgeembed.inference.requests import LongText, RerankRequest
from edgeembed.inference.truncation import Lengths
from edgeembed.server.app_keys import MAX_REQUEST_TEXTS, SERVICE
from edgeembed.server.body import BodyType, CacheField, cache_use, read_body
from edgeembed.server.dialects.rerank_answer import ApiVersion, DocumentForm, RerankForm, rerank_response
from edgeembed.server.dialects.rerank_fields import (
    INSTRUCTION,
    MOST,
    MOST_OF_DOCUMENT,
    TOP_N,
    CountField,
    DocumentField,
    DocumentsField,
    lengths_of,
    most_of,
    texts_to_rank,
)
from edgeembed.server.fields import TruncateField, only_one, part_text, side_to_cut
from edgeembed.server.long_texts import LongDocumentField, divides

_TRUNCATE = "Whether, and on which side, a query and a document that are too long together are cut, the longer one first."
_CHUNKS = "Cohere, Jina: more than 1 asks for chunks of long documents, as long_text does; all of them count."
_OVERLAP = "Jina: asks for chunks of long documents, as long_text does, which overlap by an eighth."
_RAW = "Return logits instead of scores from 0 to 1."


class RerankBody(msgspec.Struct):
    """A query, and documents to score against it. Fields that are not listed and change no number are ignored."""

    query: DocumentField
    documents: DocumentsField
    model: str | None = None
    top_n: Annotated[CountField | None, Meta(description=TOP_N)] = None
    top_k: Annotated[CountField | None, Meta(description="Voyage's name for top_n.")] = None
    return_documents: bool | Literal["true", "false"] | None = None
    instruction: Annotated[str | None, Meta(description=INSTRUCTION)] = None
    instruct: Annotated[str | None, Meta(description="SGLang's name for instruction.")] = None
    raw_scores: Annotated[bool | None, Meta(description=_RAW)] = None
    use_activation: Annotated[bool | None, Meta(description="vLLM: false returns logits.")] = None
    activation: Annotated[bool | None, Meta(description="The same, in older versions of vLLM.")] = None
    max_tokens_per_doc: Annotated[CountField | None, Meta(description=MOST_OF_DOCUMENT)] = None
    truncate_prompt_tokens: Annotated[int | None, Meta(description=MOST, extra_json_schema={"minimum": -1})] = None
    truncation_side: Annotated[Literal["left", "right"] | None, Meta(description="vLLM: the side that is cut.")] = None
    truncate: Annotated[TruncateField | None, Meta(description=_TRUNCATE)] = None
    truncation: Annotated[bool | None, Meta(description="Voyage: false refuses what is too long.")] = None
    max_chunks_per_doc: Annotated[int | None, Meta(description=_CHUNKS)] = None
    overlap: Annotated[int | None, Meta(description=_OVERLAP)] = None
    long_text: LongDocumentField = None
    rank_fields: Annotated[
        list[str] | None, Meta(description="Only text is supported: the other fields of a document are not read.")
    ] = None
    cache: CacheField = None


_BODY = BodyType(RerankBody)


async def rerank(request: web.Request, version: ApiVersion) -> web.Response:
    """Answer a request."""
    body = await read_body(request, _BODY)
    query = part_text(body.query, "query")
    documents = texts_to_rank(body.documents, request.app[MAX_REQUEST_TEXTS], "documents")
    if body.rank_fields not in (None, ["text"]):
        raise RequestError(
            "rank_fields: only the field 'text' is supported; put the text of other fields into it", param="rank_fields"
        )
    form = _form(body, request, version)
    result = await request.app[SERVICE].rerank(
        RerankRequest(
            query=query,
            documents=documents,
            model=body.model,
            instruction=only_one(instruction=body.instruction, instruct=body.instruct),
            cache=cache_use(body.cache, request),
            lengths=_lengths(body),
            windows=_divides(body, request.app[SERVICE].long_text),
        )
    )
    returned = (form.repeat + (form.documents != "none")) * sum(map(len, documents))
    return await request.app[SERVICE].aside.run(returned, rerank_response, result, documents, form)


def _form(body: RerankBody, request: web.Request, version: ApiVersion) -> RerankForm:
    """Return how a request is answered. Raises RequestError."""
    wanted = body.return_documents in (True, "true")
    of_infinity = body.raw_scores is not None  # its client always sends this field, and no other dialect has it here
    documents: DocumentForm = "string" if of_infinity else "object"
    if request.path == "/rerank" and wanted:
        # Of the servers with this path, infinity alone has the field. But LiteLLM's providers for infinity and for vLLM send
        # the same request, and one fails on an object, the other on a string.
        documents = "none" if request.headers.get(hdrs.USER_AGENT, "").startswith("litellm/") else "string"
    # Jina, vLLM and SGLang return documents by default, Cohere and infinity do not.
    default = body.return_documents is None and version == "1" and not of_infinity
    return RerankForm(
        version=version,
        object="rerank" if of_infinity or request.path == "/rerank" else "list",  # infinity's client refuses another word
        most=min(filter(None, (most_of(body.top_n, "top_n"), most_of(body.top_k, "top_k"))), default=None),
        raw=bool(body.raw_scores) or False in (body.use_activation, body.activation),
        documents=documents if wanted or default else "none",
        repeat=wanted or default,  # Continue's client of Voyage requires them, although Voyage returns none by default
    )


def _lengths(body: RerankBody) -> Lengths:
    """Return how long a pair may be. Raises RequestError."""
    side = side_to_cut(body.truncate, body.truncation, body.truncation_side, "end")
    return lengths_of(side, body.truncate_prompt_tokens, body.max_tokens_per_doc)


def _divides(body: RerankBody, default: LongText) -> bool:
    """Return whether documents that are too long are divided into windows. Raises RequestError."""
    for name in ("max_chunks_per_doc", "overlap"):
        if (number := getattr(body, name)) is not None and number < 0:
            raise RequestError(f"{name} is {number}; expected at least 0", param=name)
    in_chunks = (body.max_chunks_per_doc or 1) != 1 or bool(body.overlap)
    return divides(
        body.long_text,
        "mean" if in_chunks else default,
        truncate=body.truncate,
        truncation=body.truncation,
        truncate_prompt_tokens=body.truncate_prompt_tokens,
        max_tokens_per_doc=body.max_tokens_per_doc or None,
    )
