"""The dialect of text-embeddings-inference (TEI): /embed, /similarity, /info, /tokenize, and POST / for several of them.

POST /rerank is in `rerank_tei`. Reference: router/src/http/types.rs and server.rs of
huggingface/text-embeddings-inference. The field `model` is an extension, as TEI serves a single model. POST / is what
`huggingface_hub.InferenceClient` uses when its model is the server's address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from edgeembed import __version__
from edgeembed.engine.interface import ModelInfo, Tokenized
from edgeembed.errors import EngineUnavailableError, ModelReplacedError, RequestError, quoted
from edgeembed.inference.postprocess import raw_rows
from edgeembed.inference.requests import EmbedRequest, EmbedResult, TokenizeRequest
from edgeembed.inference.truncation import Lengths
from edgeembed.models.prompts import InputType
from edgeembed.models.registry import ServedModel
from edgeembed.server.app_keys import MAX_INPUTS, SERVICE
from edgeembed.server.body import DIGEST_HEADER, BodyType, cache_header, cache_use, peek_body, read_body
from edgeembed.server.dialects import rerank_tei
from edgeembed.server.fields import (
    PROMPT,
    TRUNCATE,
    TRUNCATED_HEADER,
    AnyTextsField,
    PositiveField,
    TextField,
    TextListField,
    TextsField,
    answer_headers,
    texts_of,
)
from edgeembed.server.responses import json_bytes, json_response, struct_response

routes = web.RouteTableDef()

Direction: TypeAlias = Literal["Left", "Right", "left", "right"]
_PROMPTS: dict[str, InputType] = {"query": "query", "document": "document", "passage": "document"}
"""Prompt names that most sentence-transformers models share, and the input type for each."""


class TeiEmbedBody(msgspec.Struct):
    """Texts to embed. With `normalize: false`, rows are not scaled to length 1."""

    inputs: TextsField
    normalize: bool | None = None
    truncate: Annotated[bool | None, Meta(description=TRUNCATE)] = None
    truncation_direction: Direction | None = None
    prompt_name: Annotated[str | None, Meta(description=PROMPT)] = None
    dimensions: PositiveField | None = None
    model: str | None = None


class SimilarityInputs(msgspec.Struct):
    """One sentence, and others to compare it with."""

    source_sentence: TextField
    sentences: TextListField


class SimilarityParameters(msgspec.Struct):
    """How the sentences are embedded."""

    truncate: Annotated[bool | None, Meta(description=TRUNCATE)] = None
    truncation_direction: Direction | None = None
    prompt_name: Annotated[str | None, Meta(description=PROMPT)] = None


class SimilarityBody(msgspec.Struct):
    """Sentences to compare."""

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None
    model: str | None = None


class TeiTokenizeBody(msgspec.Struct):
    """Texts to split into tokens."""

    inputs: AnyTextsField
    add_special_tokens: bool | None = None
    prompt_name: Annotated[str | None, Meta(description=PROMPT)] = None
    model: str | None = None


class TeiToken(msgspec.Struct):
    """One token. Its position in the text is unknown: `start` and `stop` are null."""

    id: int
    text: str
    special: bool
    start: int | None = None
    stop: int | None = None


class EmbeddingType(msgspec.Struct):
    """An embedder and its pooling."""

    pooling: str


class RerankerType(msgspec.Struct):
    """A reranker, whose single score has no label."""

    id2label: dict[str, str]
    label2id: dict[str, int]


class ModelType(msgspec.Struct):
    """What the model is for; one of the two fields is present."""

    embedding: EmbeddingType | UnsetType = UNSET
    reranker: RerankerType | UnsetType = UNSET


class TeiInfo(msgspec.Struct):
    """The default model and the limits of requests, in tokens with special tokens included. null: no fixed limit."""

    model_id: str
    model_sha: str
    model_dtype: str
    served_model_name: str
    model_type: ModelType
    max_input_length: int
    max_client_batch_size: int
    auto_truncate: bool
    version: str
    max_concurrent_requests: int | None = None
    max_batch_tokens: int | None = None
    max_batch_requests: int | None = None
    tokenization_workers: int | None = None
    sha: str | None = None
    docker_label: str | None = None


_EMBED = BodyType(TeiEmbedBody)
_SIMILARITY = BodyType(SimilarityBody)
_token_encoder = msgspec.json.Encoder()
_TOKENIZE = BodyType(TeiTokenizeBody)


@routes.post("/")
async def root(request: web.Request) -> web.StreamResponse:
    """Embed (`inputs` with texts), compare (`inputs` with `source_sentence`) or rerank (`texts`)."""
    fields = await peek_body(request)
    if fields.texts is not UNSET:
        return await rerank_tei.rerank(request)
    if isinstance(fields.inputs, msgspec.Raw) and bytes(fields.inputs).lstrip().startswith(b"{"):
        return await similarity(request)
    return await embed_texts(request)


@routes.post("/embed")
async def embed_texts(request: web.Request) -> web.Response:
    """Embed a text or a list of texts; the response is a list of rows."""
    body = await read_body(request, _EMBED)
    texts = texts_of(body.inputs, request.app[MAX_INPUTS], "inputs")
    service = request.app[SERVICE]
    result = await service.embed(
        EmbedRequest(
            texts=texts,
            model=body.model,
            input_type=_input_type(body.prompt_name, "prompt_name"),
            dimensions=body.dimensions,
            param="inputs",
            single=isinstance(body.inputs, str),
            cache=cache_use(None, request),
            lengths=_lengths(body.truncate, body.truncation_direction),
        )
    )
    return await service.aside.run(result.numbers, _rows_response, result, body)


@routes.post("/similarity")
async def similarity(request: web.Request) -> web.Response:
    """Compare one sentence with others; the response has the cosine of each, in the request's order."""
    body = await read_body(request, _SIMILARITY)
    sentences = texts_of(body.inputs.sentences, request.app[MAX_INPUTS], "inputs.sentences")
    parameters = body.parameters or SimilarityParameters()
    service, cache = request.app[SERVICE], cache_use(None, request)
    input_type = _input_type(parameters.prompt_name, "parameters.prompt_name")
    lengths = _lengths(parameters.truncate, parameters.truncation_direction)

    async def of(texts: list[str], param: str, *, single: bool) -> EmbedResult:
        return await service.embed(
            EmbedRequest(texts, body.model, input_type, param=param, single=single, cache=cache, lengths=lengths)
        )

    one, many = await asyncio.gather(
        of([body.inputs.source_sentence], "inputs.source_sentence", single=True),
        of(sentences, "inputs.sentences", single=False),
    )
    if one.model.digest != many.model.digest:
        raise ModelReplacedError("the model was replaced meanwhile; send the request again", retry_after=1.0)
    cosines = await service.aside.run(many.numbers, _cosines, one, many)
    headers = {**cache_header(one.hits + many.hits, 1 + len(sentences)), DIGEST_HEADER: one.model.digest}
    if cuts := len(one.cuts) + len(many.cuts):
        headers[TRUNCATED_HEADER] = str(cuts)
    return json_response(cosines, headers=headers)


@routes.get("/info")
async def info(request: web.Request) -> web.Response:
    """Describe the default model; 503 until it is loaded."""
    service = request.app[SERVICE]
    model = service.registry.default
    if model is None:
        raise EngineUnavailableError("no model is served", retry_after=1.0)
    async with service.pool.lease(model) as lease:
        loaded = lease.engine.info
    if loaded is None:
        raise EngineUnavailableError("the model is loading", retry_after=1.0)
    return struct_response(
        TeiInfo(
            model_id=model.name,
            model_sha=model.digest,
            model_dtype=model.type,
            served_model_name=model.name,
            model_type=_model_type(model, loaded),
            max_input_length=loaded.context_tokens,
            max_client_batch_size=request.app[MAX_INPUTS],
            auto_truncate=False,
            version=__version__,
        )
    )


@routes.post("/tokenize")
async def tokenize(request: web.Request) -> web.Response:
    """Return the tokens of a text or of each text in a list."""
    body = await read_body(request, _TOKENIZE)
    service = request.app[SERVICE]
    result = await service.count_tokens(
        TokenizeRequest(
            texts=texts_of(body.inputs, request.app[MAX_INPUTS], "inputs"),
            model=body.model,
            input_type=_input_type(body.prompt_name, "prompt_name"),
            special=body.add_special_tokens is not False,
            written=True,
            param="inputs",
            most_tokens=service.max_listed_tokens,
        )
    )
    written = await service.aside.run(sum(len(text.ids) for text in result.tokens), _tokens_json, result.tokens)
    return json_bytes(written, {})


def _rows_response(result: EmbedResult, body: TeiEmbedBody) -> web.Response:
    normal = body.normalize is not False
    rows = result.vectors if normal else raw_rows([row.vector for row in result.rows], body.dimensions)
    return json_response(rows, headers=answer_headers(result, len(result.rows)))


def _cosines(one: EmbedResult, many: EmbedResult) -> npt.NDArray[np.float64]:
    cosines: npt.NDArray[np.float64] = many.vectors.astype(np.float64) @ one.vectors[0].astype(np.float64)
    return np.clip(cosines, -1.0, 1.0)


def _tokens_json(texts: list[Tokenized]) -> bytes:
    return b"[%b]" % b",".join(b"[%b]" % b",".join(map(_token_encoder.encode, _tokens(text))) for text in texts)


def _tokens(text: Tokenized) -> Iterator[TeiToken]:
    written = text.texts or []
    return (TeiToken(*token) for token in zip(text.ids.tolist(), written, text.special.tolist(), strict=True))


def _model_type(model: ServedModel, loaded: ModelInfo) -> ModelType:
    if model.task == "embed":
        return ModelType(embedding=EmbeddingType(loaded.pooling))
    return ModelType(reranker=RerankerType({}, {}))


def _input_type(prompt_name: str | None, param: str) -> InputType | None:
    if prompt_name is None:
        return None
    if prompt_name not in _PROMPTS:
        raise RequestError(f"{param}: no prompt {quoted(prompt_name)}; expected one of {', '.join(_PROMPTS)}", param=param)
    return _PROMPTS[prompt_name]


def _lengths(truncate: bool | None, direction: Direction | None) -> Lengths:
    if not truncate:
        return Lengths()
    return Lengths(cut="start" if direction in ("Left", "left") else "end")
