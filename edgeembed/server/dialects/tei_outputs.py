"""What text-embeddings-inference (TEI) computes of tokens: POST /embed_all and /embed_sparse."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import msgspec
import orjson
from aiohttp import web

from edgeembed.engine.interface import Output
from edgeembed.inference.postprocess import Matrix, sparse_vector
from edgeembed.inference.requests import EmbedResult
from edgeembed.server.app_keys import SERVICE
from edgeembed.server.body import BodyType, read_body
from edgeembed.server.dialects.tei_fields import TeiTextsBody, embed_headers, embed_request
from edgeembed.server.dialects.token_rows import json_in_parts, json_list, json_rows
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
    return await _answer(request, _ALL, "tokens", _states)


@routes.post("/embed_sparse")
async def embed_sparse(request: web.Request) -> web.Response:
    """Return the sparse vector of each text: the tokens of the vocabulary that have a weight."""
    return await _answer(request, _SPARSE, "sparse", _weights)


async def _answer(
    request: web.Request,
    body_type: BodyType[TeiTextsBody],
    output: Output,
    written: Callable[[EmbedResult], Iterator[bytes]],
) -> web.Response:
    began = time.perf_counter()
    body = await read_body(request, body_type)
    asked = msgspec.structs.replace(embed_request(request, body), outputs=(output,))
    service = request.app[SERVICE]
    result = await service.embed(asked)
    return json_in_parts(service.aside, result, written(result), embed_headers(result, asked, began))


def _states(result: EmbedResult) -> Iterator[bytes]:
    return json_list(json_rows(states) for states in result.each("tokens"))


def _weights(result: EmbedResult) -> Iterator[bytes]:
    return json_list([_weights_of(pairs)] for pairs in result.each("sparse"))


def _weights_of(pairs: Matrix) -> bytes:
    """Return the sparse vector of a text. pairs: ids and weights, shape (tokens, 2)."""
    ids, values = sparse_vector(pairs)
    written = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
    return b"[%b]" % b",".join([b'{"index":%d,"value":%b}' % pair for pair in zip(ids.tolist(), written, strict=False)])
