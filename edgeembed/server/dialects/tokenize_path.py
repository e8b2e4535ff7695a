"""POST /tokenize and /detokenize, which several dialects share.

A body with `prompt` or `messages` is that of vLLM and SGLang, one with `content` is llama-server's, and all others are those
of text-embeddings-inference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta

from edgeembed.inference.requests import DetokenizeRequest, TokenizeRequest, TokenizeResult
from edgeembed.server.app_keys import SERVICE
from edgeembed.server.body import BodyType, peek_body, read_body
from edgeembed.server.dialects import tei_tokens
from edgeembed.server.dialects.tei_tokens import TOKEN_SIZE, slices
from edgeembed.server.error_formats import DIALECT
from edgeembed.server.responses import array_json, json_bytes, parted_list, struct_response

routes = web.RouteTableDef()


class VllmTokenizeBody(msgspec.Struct):
    """vLLM: a text to split into tokens."""

    prompt: str
    model: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class VllmTokens(msgspec.Struct):
    """vLLM: the ids of a text's tokens, and the texts of the tokens if they were asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class LlamaTokenizeBody(msgspec.Struct):
    """llama-server: a text to split into tokens. The name of a special token inside it is plain text."""

    content: str
    model: str | None = None
    add_special: bool | None = None
    with_pieces: bool | None = None


class LlamaToken(msgspec.Struct):
    """llama-server: a token with its text, or the bytes of a part of a character."""

    id: int
    piece: str | list[int]


class LlamaTokens(msgspec.Struct):
    """llama-server: the ids of a text's tokens, or ids and texts."""

    tokens: list[int | LlamaToken]


class DetokenizeBody(msgspec.Struct):
    """vLLM, SGLang, llama-server: token ids of the model."""

    tokens: Annotated[list[int], Meta(extra_json_schema={"items": {"type": "integer", "minimum": 0}})]
    model: str | None = None
    skip_special_tokens: Annotated[
        bool | None, Meta(description="SGLang: whether text is without special tokens. Default: true.")
    ] = None


class DetokenizeAnswer(msgspec.Struct):
    """The text, under the name of each server: `prompt` is that of vLLM, `content` of llama-server, `text` of SGLang."""

    prompt: str
    content: str
    text: str


_VLLM = BodyType(VllmTokenizeBody)
_LLAMA = BodyType(LlamaTokenizeBody)
_DETOKENIZE = BodyType(DetokenizeBody)


@routes.post("/tokenize")
async def tokenize(request: web.Request) -> web.Response:
    """Split texts into tokens, for clients of text-embeddings-inference, of vLLM (`prompt`) or llama-server (`content`)."""
    fields = await peek_body(request)
    if fields.inputs is UNSET and not (fields.prompt is UNSET and fields.messages is UNSET):
        request[DIALECT] = "openai"
        return await _vllm(request)
    if fields.inputs is UNSET and fields.content is not UNSET:
        request[DIALECT] = "openai"
        return await _llama(request)
    return await tei_tokens.tokenize(request)


@routes.post("/detokenize")
async def detokenize(request: web.Request) -> web.Response:
    """Return the text that token ids stand for, for clients of vLLM, SGLang or llama-server."""
    body = await read_body(request, _DETOKENIZE)
    if not body.tokens:
        return struct_response(DetokenizeAnswer("", "", ""))
    asked = DetokenizeRequest([body.tokens], body.model, special=True, param="tokens", single=True)
    (whole,) = await request.app[SERVICE].detokenize(asked)
    text = whole
    if body.skip_special_tokens is not False:
        (text,) = await request.app[SERVICE].detokenize(msgspec.structs.replace(asked, special=False))
    return struct_response(DetokenizeAnswer(whole, whole, text))


async def _vllm(request: web.Request) -> web.Response:
    body = await read_body(request, _VLLM)
    special = body.add_special_tokens is not False
    result = await _read(request, body.prompt, body.model, "prompt", special=special, places=bool(body.return_token_strs))
    return await _written(request, _vllm_json, result, bool(body.return_token_strs))


async def _llama(request: web.Request) -> web.Response:
    body = await read_body(request, _LLAMA)
    pieces = bool(body.with_pieces)
    result = await _read(request, body.content, body.model, "content", special=bool(body.add_special), places=pieces)
    return await _written(request, _llama_json, result, pieces)


async def _written(
    request: web.Request, write: Callable[[TokenizeResult, bool], bytes], result: TokenizeResult, pieces: bool
) -> web.Response:
    size = len(result.tokens[0].ids) * (TOKEN_SIZE if pieces else 1)
    return json_bytes(await request.app[SERVICE].aside.run(size, write, result, pieces), {})


def _vllm_json(result: TokenizeResult, pieces: bool) -> bytes:
    """Return `VllmTokens` as JSON."""
    (read,) = result.tokens
    texts = b"null"
    if pieces:
        found = read.pieces or []
        texts = parted_list([piece.decode("utf-8", "replace") for piece in found[part]] for part in slices(len(found)))
    values = (len(read.ids), result.context_tokens, array_json(read.ids), texts)
    return b'{"count":%d,"max_model_len":%d,"tokens":%b,"token_strs":%b}' % values


def _llama_json(result: TokenizeResult, pieces: bool) -> bytes:
    """Return `LlamaTokens` as JSON."""
    (read,) = result.tokens
    if not pieces:
        return b'{"tokens":%b}' % array_json(read.ids)
    found = read.pieces or []
    parts = ([*map(_llama_token, read.ids[part].tolist(), found[part])] for part in slices(len(found)))
    return b'{"tokens":%b}' % parted_list(parts)


def _llama_token(id_: int, piece: bytes) -> LlamaToken:
    try:
        return LlamaToken(id_, piece.decode())
    except UnicodeDecodeError:
        return LlamaToken(id_, [*piece])


async def _read(
    request: web.Request, text: str, model: str | None, param: str, *, special: bool, places: bool
) -> TokenizeResult:
    service = request.app[SERVICE]
    return await service.count_tokens(
        TokenizeRequest([text], model, special=special, places=places, param=param, most_tokens=service.max_listed_tokens)
    )
