"""Cohere's dialect: POST /v2/embed and /v1/embed.

Reference: the Cohere API documentation, "Embed API (v2)" and "Embed API (v1)". Cohere's int8 is not
documented; ours, and the other types, are those of `edgeembed.inference.number_formats`.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from edgeembed.errors import RequestError
from edgeembed.inference.aside import DIGITS
from edgeembed.inference.number_formats import base64_rows, quantised
from edgeembed.inference.requests import EmbedRequest, EmbedResult
from edgeembed.inference.truncation import Lengths
from edgeembed.server.app_keys import MAX_REQUEST_TEXTS, SERVICE
from edgeembed.server.body import BodyType, cache_use, read_body
from edgeembed.server.fields import (
    TRUNCATE,
    InputTypeField,
    PositiveField,
    RowsField,
    TextListField,
    answer_headers,
    check_positive,
    input_type_of,
    side_of,
    texts_of,
)
from edgeembed.server.long_texts import LongTextField, long_text_of
from edgeembed.server.responses import struct_response

routes = web.RouteTableDef()

EmbeddingKind: TypeAlias = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]
Truncate: TypeAlias = Literal["NONE", "START", "END"]

_INPUT = {
    "type": "object",
    "properties": {
        "content": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "properties": {"type": {"const": "text"}, "text": {"type": "string", "minLength": 1}},
                "required": ["type", "text"],
            },
        }
    },
    "required": ["content"],
}


class CohereEmbedBody(msgspec.Struct):
    """Texts to embed: in `texts`, or in `inputs` with one text each. Images are not supported."""

    texts: TextListField | None = None
    inputs: Annotated[list[Any], Meta(extra_json_schema={"items": _INPUT, "minItems": 1})] | None = None
    model: str | None = None
    input_type: InputTypeField | None = None
    embedding_types: list[EmbeddingKind] | None = None
    output_dimension: PositiveField | None = None
    max_tokens: Annotated[PositiveField | None, Meta(description="The longest text in tokens.")] = None
    truncate: Annotated[Truncate | None, Meta(description=TRUNCATE)] = None
    long_text: LongTextField = None


class CohereEmbeddings(msgspec.Struct, rename={"float_": "float"}):
    """The rows in each requested type."""

    float_: RowsField | UnsetType = UNSET
    int8: RowsField | UnsetType = UNSET
    uint8: RowsField | UnsetType = UNSET
    binary: RowsField | UnsetType = UNSET
    ubinary: RowsField | UnsetType = UNSET
    base64: list[str] | UnsetType = UNSET


class CohereVersion(msgspec.Struct):
    """The version of Cohere's API."""

    version: str


class CohereUnits(msgspec.Struct):
    """The tokens of all texts."""

    input_tokens: int


class CohereMeta(msgspec.Struct):
    """Cohere's information about a request."""

    api_version: CohereVersion
    billed_units: CohereUnits
    tokens: CohereUnits
    warnings: list[str] | UnsetType = UNSET
    """Which texts were cut."""


class CohereEmbedAnswer(msgspec.Struct):
    """Rows by type."""

    id: str
    embeddings: CohereEmbeddings
    texts: list[str]
    meta: CohereMeta
    response_type: Literal["embeddings_by_type"] = "embeddings_by_type"


class CohereFloatsAnswer(msgspec.Struct):
    """Rows as numbers: the answer of version 1 to a request without `embedding_types`."""

    id: str
    embeddings: RowsField
    texts: list[str]
    meta: CohereMeta
    response_type: Literal["embeddings_floats"] = "embeddings_floats"


_BODY = BodyType(CohereEmbedBody)


@routes.post("/v2/embed")
async def embed_v2(request: web.Request) -> web.Response:
    """Embed texts; the response has the rows in each of `embedding_types`."""
    body = await read_body(request, _BODY)
    texts, result = await _embed(request, body)
    return await request.app[SERVICE].aside.run(_size(texts, result), _by_type, body, texts, result, "2")


@routes.post("/v1/embed")
async def embed_v1(request: web.Request) -> web.Response:
    """Embed texts; without `embedding_types`, the response has a plain list of rows."""
    body = await read_body(request, _BODY)
    texts, result = await _embed(request, body)
    write = _floats if body.embedding_types is None else _by_type
    return await request.app[SERVICE].aside.run(_size(texts, result), write, body, texts, result, "1")


async def _embed(request: web.Request, body: CohereEmbedBody) -> tuple[list[str], EmbedResult]:
    texts, param = _texts(body, request.app[MAX_REQUEST_TEXTS])
    check_positive(body.max_tokens, "max_tokens")
    result = await request.app[SERVICE].embed(
        EmbedRequest(
            texts=texts,
            model=body.model,
            input_type=input_type_of(body.input_type, "input_type"),
            dimensions=body.output_dimension,
            param=param,
            cache=cache_use(None, request),
            # Cohere cuts off the end by default.
            lengths=Lengths(side_of(body.truncate, "truncate") or "end", body.max_tokens),
            long_text=long_text_of(body.long_text, request.app[SERVICE].long_text, truncate=body.truncate),
        )
    )
    return texts, result


def _texts(body: CohereEmbedBody, most: int) -> tuple[list[str], str]:
    """Return the texts, and the name of the field that has them."""
    if body.texts is not None:
        if body.inputs is not None:
            raise RequestError("both texts and inputs are given; send one of them", param="inputs")
        return texts_of(body.texts, most, "texts"), "texts"
    if body.inputs is None:
        raise RequestError("texts is missing", param="texts")
    return texts_of(body.inputs, most, "inputs"), "inputs"


def _size(texts: list[str], result: EmbedResult) -> int:
    return DIGITS * result.numbers + sum(map(len, texts))


def _floats(_body: CohereEmbedBody, texts: list[str], result: EmbedResult, version: str) -> web.Response:
    answer = CohereFloatsAnswer(uuid.uuid4().hex, result.vectors, texts, _meta(result, version))
    return struct_response(answer, headers=answer_headers(result, result.texts))


def _by_type(body: CohereEmbedBody, texts: list[str], result: EmbedResult, version: str) -> web.Response:
    rows = CohereEmbeddings()
    kinds: list[EmbeddingKind] = body.embedding_types or ["float"]
    for kind in dict.fromkeys(kinds):
        setattr(rows, "float_" if kind == "float" else kind, _rows(result, kind))
    answer = CohereEmbedAnswer(uuid.uuid4().hex, rows, texts, _meta(result, version))
    return struct_response(answer, headers=answer_headers(result, result.texts))


def _rows(result: EmbedResult, kind: EmbeddingKind) -> Any:
    match kind:
        case "float":
            return result.vectors
        case "base64":
            return base64_rows(result.vectors)
        case _:
            return quantised(result.vectors, kind)


def _meta(result: EmbedResult, version: str) -> CohereMeta:
    cuts = [f"text {cut.index} was cut to {cut.tokens} of its {cut.full} tokens" for cut in result.cuts]
    tokens = CohereUnits(sum(result.tokens))
    return CohereMeta(CohereVersion(version), tokens, tokens, cuts or UNSET)
