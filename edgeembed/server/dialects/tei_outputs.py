"""What text-embeddings-inference (TEI) computes of tokens: POST /embed_all and /embed_sparse."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
import orjson
from aiohttp import web

from edgeembed.engine.interface import Output
from edgeembed.inference.postprocess import Matrix, sparse_vector
from edgeembed.inference.requests import EmbedRequest, EmbedResult
from edgeembed.server.app_keys import MAX_REQUEST_TEXTS, SERVICE
from edgeembed.server.body import BodyType, cache_use, read_body
from edgeembed.server.dialects.tei_fields import TeiTextsBody, compute_headers, lengths, texts_or_ids
from edgeembed.server.dialects.token_rows import json_in_parts, json_list, json_rows
from edgeembed.server.fields import input_type_of, is_token_ids
from edgeembed.server.unsupported_fields import UNSUPPORTED, UnsupportedField

routes = web.RouteTableDef()

_NOT_SCALED = "hidden states are not scaled; POST /pooling scales them"
_ALL = BodyType(
    TeiTextsBody,
    {
        **UNSUPPORTED,
        **{
            name: UnsupportedField("TEI, Jina, vLLM", _NOT_SCALED, (False,))
            for name in ("normalize", "normalized", "use_activation")
        },
        "embd_normalize": UnsupportedField("llama-server", _NOT_SCALED, (-1,)),
    },
)
_SPARSE = BodyType(TeiTextsBody)


class SparseValue(msgspec.Struct):
    """A token of the vocabulary and its weight in a text."""

    index: int
    value: float


@routes.post("/embed_all")
async def embed_all(request: web.Request) -> web.Response:
    """Return a row for each token of each text, special tokens included: the hidden states of the last layer."""
    return await _answer(request, "tokens")


@routes.post("/embed_sparse")
async def embed_sparse(request: web.Request) -> web.Response:
    """Return the sparse vector of each text: the tokens of the vocabulary that have a weight."""
    return await _answer(request, "sparse")


async def _answer(request: web.Request, output: Output) -> web.Response:
    began = time.perf_counter()
    body = await read_body(request, _ALL if output == "tokens" else _SPARSE)
    texts, ids = texts_or_ids(body.inputs, request.app[MAX_REQUEST_TEXTS])
    service = request.app[SERVICE]
    result = await service.embed(
        EmbedRequest(
            texts=texts,
            model=body.model,
            input_type=input_type_of(body.prompt_name, "prompt_name"),
            param="inputs",
            single=not isinstance(body.inputs, list) or is_token_ids(body.inputs),
            cache=cache_use(None, request),
            lengths=lengths(body.truncate, body.truncation_direction),
            ids=ids,
            outputs=(output,),
        )
    )
    characters = sum(map(len, texts)) + sum(map(len, ids or ()))
    headers = compute_headers(result, result.texts, characters, began)
    pieces = _states(result) if output == "tokens" else _weights(result)
    return await json_in_parts(service.aside, result, pieces, headers)


def _states(result: EmbedResult) -> Iterator[bytes]:
    return json_list(json_rows(states) for states in result.each("tokens"))


def _weights(result: EmbedResult) -> Iterator[bytes]:
    return json_list([_weights_of(pairs)] for pairs in result.each("sparse"))


def _weights_of(pairs: Matrix) -> bytes:
    """Return the sparse vector of a text. pairs: ids and weights, shape (tokens, 2)."""
    ids, values = sparse_vector(pairs)
    written = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
    return b"[%b]" % b",".join([b'{"index":%d,"value":%b}' % pair for pair in zip(ids.tolist(), written, strict=False)])
