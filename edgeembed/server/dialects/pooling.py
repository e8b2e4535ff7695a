"""vLLM's dialect: POST /pooling, whose answers have one row for each text, or for each of its tokens.

Reference: entrypoints/pooling/pooling of vLLM (`PoolingCompletionRequest`, `PoolingResponse`). Its other fields are those of
POST /v1/embeddings.
"""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec
import numpy as np
import orjson
from aiohttp import web
from msgspec import UNSET, Meta

from edgeembed.errors import RequestError, quoted
from edgeembed.inference.number_formats import row_bytes
from edgeembed.inference.postprocess import Matrix
from edgeembed.inference.requests import ClassifyRequest, ClassifyResult, EmbedResult
from edgeembed.inference.service import EmbeddingService
from edgeembed.server.app_keys import MAX_REQUEST_TEXTS, SERVICE
from edgeembed.server.body import BodyType, cache_use, read_body
from edgeembed.server.dialects.embeddings_answer import bytes_of_items, bytes_response, matrix_of
from edgeembed.server.dialects.embeddings_body import (
    EmbeddingFields,
    NumberFormat,
    embed_request,
    lengths,
    number_format,
    refuse_long_text,
    texts_and_ids,
)
from edgeembed.server.dialects.token_rows import (
    check_width,
    json_in_parts,
    json_list,
    json_rows,
    token_output,
    token_rows,
)
from edgeembed.server.fields import TruncatedItem, answer_headers, has_token_ids, truncated_items
from edgeembed.server.responses import json_bytes

routes = web.RouteTableDef()

Task: TypeAlias = Literal["embed", "token_embed", "classify"]
TaskField: TypeAlias = Annotated[str, Meta(extra_json_schema={"enum": [*get_args(Task)]})]
_NUMBERS = {"type": "array", "items": {"type": "number"}}
PoolingData: TypeAlias = Annotated[
    Any, Meta(extra_json_schema={"anyOf": [_NUMBERS, {"type": "array", "items": _NUMBERS}, {"type": "string"}]})
]
_SUPPORTED = (
    "Supported tasks: embed (a row for each text), token_embed (a row for each token), classify (a score for each class)"
)
_BASE64_ROWS = 96
"""Rows that are written at once; a multiple of three, so that no padding stands between them."""
_FOR_VECTORS = (
    "dimensions",
    "output_dimension",
    "embd_normalize",
    "input_type",
    "prompt_name",
    "prompt",
    "instruction",
    "long_text",
    "repeatable",
)


class PoolingBody(EmbeddingFields):
    """Texts, or token ids of the model in place of each, and what to return of them."""

    task: Annotated[
        TaskField | None,
        Meta(
            description="embed: a vector for each text. token_embed: one for each token. classify: a score for each class. "
            "The default is token_embed, or classify for a classifier."
        ),
    ] = None
    multi_vector: Annotated[
        bool | None,
        Meta(
            description="With token_embed. true: the vectors of a head for late interaction. false: the hidden states. The "
            "default is the head's vectors if the model has one."
        ),
    ] = None


class PoolingItem(msgspec.Struct):
    """The row of a text or those of its tokens; with `encoding_format: base64`, the bytes of all its numbers."""

    index: int
    object: Literal["pooling"]
    data: PoolingData
    shape: Annotated[
        list[int] | msgspec.UnsetType, Meta(description="With base64 and token_embed: rows, and numbers in each.")
    ] = UNSET


class PoolingUsage(msgspec.Struct):
    """The tokens of all texts after cutting, including those of prompts and special tokens."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class PoolingAnswer(msgspec.Struct):
    """The rows in the order of the texts. `truncated` is present if a text was cut."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[PoolingItem]
    usage: PoolingUsage
    truncated: list[TruncatedItem] | msgspec.UnsetType = UNSET


_BODY = BodyType(PoolingBody)


@routes.post("/pooling")
async def pooling(request: web.Request) -> web.Response:
    """Return a vector for each token of each text, one for each text, or a score for each class."""
    body = await read_body(request, _BODY)
    task = await _task(body, request.app[SERVICE])
    if body.multi_vector and task != "token_embed":
        raise RequestError("multi_vector is about vectors of tokens, whose task is token_embed", param="multi_vector")
    body.task = None
    if body.token_ids is None and has_token_ids(body.input):  # which are the model's own in this dialect
        body.token_ids = "model"
    numbers = number_format(body)
    answer = {"embed": _embed, "token_embed": _token_embed, "classify": _classify}[task]
    return await answer(request, body, numbers)


async def _embed(request: web.Request, body: PoolingBody, numbers: NumberFormat) -> web.Response:
    if body.long_text == "chunks":
        raise RequestError("POST /v1/embeddings has long_text chunks; here, send mean", param="long_text")
    service = request.app[SERVICE]
    result = await service.embed(embed_request(request, body))
    headers = answer_headers(result, result.texts)
    if numbers.encoding in ("bytes", "bytes_only"):
        return await bytes_response(service.aside, result, numbers, headers)
    matrix = await service.aside.run(result.numbers, matrix_of, result, numbers)
    return json_in_parts(service.aside, result, _json(result, iter(matrix[:, None]), False, numbers), headers)


async def _token_embed(request: web.Request, body: PoolingBody, numbers: NumberFormat) -> web.Response:
    refuse_long_text(body)
    service, asked = request.app[SERVICE], embed_request(request, body)
    model = (await service.registry.resolve(body.model, "embed", input_type=asked.input_type)).model
    output = token_output(model, body.multi_vector)
    result = await service.embed(msgspec.structs.replace(asked, outputs=(output,)))
    headers = answer_headers(result, result.texts)
    check_width(result, output)
    rows = token_rows(result, output, numbers.norm, result.dimensions)
    if numbers.encoding in ("bytes", "bytes_only"):
        shapes = [(len(each), result.dimensions or each.shape[1]) for each in result.each(output)]
        return bytes_of_items(service.aside, result, rows, shapes, numbers, headers)
    return json_in_parts(service.aside, result, _json(result, rows, True, numbers), headers)


async def _classify(request: web.Request, body: PoolingBody, numbers: NumberFormat) -> web.Response:
    for name in _FOR_VECTORS:
        if getattr(body, name) is not None:
            raise RequestError(f"{name} is for vectors, and the task is to classify; leave it out", param=name)
    if numbers.dtype not in ("float32", "float16", "bfloat16"):
        raise RequestError(f"{numbers.dtype} is for vectors, and the task is to classify", param="embed_dtype")
    service = request.app[SERVICE]
    texts, ids, single = texts_and_ids(body, request.app[MAX_REQUEST_TEXTS], "")
    asked = ClassifyRequest(
        texts=texts,
        model=body.model,
        single=single,
        cache=cache_use(body.cache, request),
        lengths=lengths(body, service.truncate),
        ids=ids,
    )
    result = await service.classify(asked)
    headers = answer_headers(result, len(result.tokens))
    scores = (result.logits if numbers.norm != 2 else result.probabilities).astype(np.float32)
    rows = iter(scores[:, None])
    if numbers.encoding in ("bytes", "bytes_only"):
        return bytes_of_items(service.aside, result, rows, [scores.shape[1:]] * len(scores), numbers, headers)
    written = await service.aside.run(scores.size, b"".join, _json(result, rows, False, numbers))
    return json_bytes(written, headers)


async def _task(body: PoolingBody, service: EmbeddingService) -> Task:
    """Return the task of a request; by default, that of the model. Raises RequestError for one that is none of ours."""
    match body.task:
        case None:
            target = await service.registry.look_up(body.model) if body.model else None
            model = target.model if target else await service.registry.default_model()
            return "classify" if model is not None and model.task == "classify" else "token_embed"
        case "embed" | "token_embed" | "classify" as task:
            return task
        case "token_classify":
            advice = "POST /embed_sparse has the weights of the tokens of a text"
            raise RequestError(f"Unsupported task: 'token_classify'. {_SUPPORTED}. {advice}", param="task")
        case other:
            raise RequestError(f"Unsupported task: {quoted(other)}. {_SUPPORTED}", param="task")


def _json(
    result: EmbedResult | ClassifyResult, rows: Iterator[Matrix], tokens: bool, numbers: NumberFormat
) -> Iterator[bytes]:
    yield b'{"id":"pool-%b","object":"list","created":%d,"model":%b,"data":' % (
        uuid.uuid4().hex.encode(),
        time.time(),
        orjson.dumps(result.model.name),
    )
    yield from json_list(_item(index, matrix, tokens, numbers) for index, matrix in enumerate(rows))
    read = sum(result.tokens)
    yield b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":0}' % (read, read)
    if (items := truncated_items(result)) is not UNSET:
        yield b',"truncated":%b' % msgspec.json.encode(items)
    yield b"}"


def _item(index: int, matrix: Matrix, tokens: bool, numbers: NumberFormat) -> Iterator[bytes]:
    yield b'{"index":%d,"object":"pooling","data":' % index
    if numbers.encoding == "base64":
        yield b'"'
        for begin in range(0, len(matrix), _BASE64_ROWS):
            some = matrix[begin : begin + _BASE64_ROWS]
            yield base64.b64encode(b"".join(row_bytes(some, numbers.dtype, numbers.endianness)))
        yield b'"'
        if tokens:
            yield b',"shape":[%d,%d]' % matrix.shape
    elif tokens:
        yield from json_rows(matrix, numbers.dtype)
    else:
        yield b"".join(json_rows(matrix, numbers.dtype))[1:-1]
    yield b"}"
