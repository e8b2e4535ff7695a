"""Tokens in the dialect of text-embeddings-inference (TEI): POST /tokenize and /decode.

POST /tokenize, which other dialects share, is in `tokenize_path`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import numpy as np
from aiohttp import web
from msgspec import Meta

from edgeembed.engine.interface import Tokenized
from edgeembed.inference.requests import DetokenizeRequest, TokenizeRequest, TokenizeResult
from edgeembed.server.app_keys import MAX_REQUEST_TEXTS, SERVICE
from edgeembed.server.body import BodyType, read_body
from edgeembed.server.dialects.tei_fields import PromptNameField, batch_of, check_batch
from edgeembed.server.fields import AnyTextsField, id_lists_of, input_type_of
from edgeembed.server.responses import json_bytes, json_response, parted_list

routes = web.RouteTableDef()


class TeiTokenizeBody(msgspec.Struct):
    """Texts to split into tokens."""

    inputs: AnyTextsField
    add_special_tokens: bool | None = None
    prompt_name: PromptNameField = None
    model: str | None = None


class TeiToken(msgspec.Struct):
    """A token, and its part of the text: from byte `start` to byte `stop` of the text in UTF-8, with its prompt in front.

    A special token has a name and no place. Where a token is a part of a character, it has that character's place.
    """

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


_ID_LISTS = {
    "anyOf": [
        {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}},
    ]
}


class TeiDecodeBody(msgspec.Struct):
    """Token ids of the model: a list for one text, or a list of such lists."""

    ids: Annotated[list[Any], Meta(extra_json_schema=_ID_LISTS)]
    skip_special_tokens: bool | None = None
    model: str | None = None


_TOKENIZE = BodyType(TeiTokenizeBody)
_DECODE = BodyType(TeiDecodeBody)
_AT_ONCE = 4096
"""Tokens that are written at once, as NumPy and the encoder keep all other threads waiting."""
TOKEN_SIZE = 16
"""Writing a token with its text takes as long as what is done to so many characters; see `Aside.run`."""


async def tokenize(request: web.Request) -> web.Response:
    """Return the tokens of a text or of each text in a list."""
    body = await read_body(request, _TOKENIZE)
    service = request.app[SERVICE]
    result = await service.count_tokens(
        TokenizeRequest(
            texts=batch_of(body.inputs, request.app[MAX_REQUEST_TEXTS], "inputs"),
            model=body.model,
            input_type=input_type_of(body.prompt_name, "prompt_name"),
            special=body.add_special_tokens is not False,
            places=True,
            param="inputs",
            most_tokens=service.max_listed_tokens,
        )
    )
    written = await service.aside.run(TOKEN_SIZE * sum(len(text.ids) for text in result.tokens), _tokens_json, result)
    return json_bytes(written, {})


@routes.post("/decode")
async def decode(request: web.Request) -> web.Response:
    """Return the text that token ids stand for, or the text of each list of ids."""
    body = await read_body(request, _DECODE)
    ids, single = id_lists_of(body.ids, "ids")
    check_batch(ids, request.app[MAX_REQUEST_TEXTS], "ids")
    asked = DetokenizeRequest(ids, body.model, special=body.skip_special_tokens is False, single=single)
    return json_response(await request.app[SERVICE].detokenize(asked))


def _tokens_json(result: TokenizeResult) -> bytes:
    texts = zip(result.tokens, result.prompted, strict=True)
    return b"[%b]" % b",".join([parted_list(_tokens(read, text)) for read, text in texts])


def _tokens(read: Tokenized, text: str) -> Iterator[list[TeiToken]]:
    """Yield the tokens of a text, some at a time."""
    assert read.pieces is not None and read.spans is not None
    byte_of = _bytes_of(text)
    for part in slices(len(read.ids)):
        spans = read.spans[part]
        places = byte_of[np.maximum(spans, 0)].tolist()
        rows = zip(
            read.ids[part].tolist(), read.pieces[part], read.special[part].tolist(), spans.tolist(), places, strict=True
        )
        yield [
            TeiToken(id_, piece.decode("utf-8", "replace"), special, None, None)
            if begin < 0
            else TeiToken(id_, text[begin:end], special, start, stop)
            for id_, piece, special, (begin, end), (start, stop) in rows
        ]


def slices(tokens: int) -> Iterator[slice]:
    """Yield the parts in which so many tokens are written."""
    for at in range(0, tokens, _AT_ONCE):
        yield slice(at, at + _AT_ONCE)


def _bytes_of(text: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return at which byte of the text in UTF-8 each character begins, and where the last one ends."""
    encoded = np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8)
    return np.append(np.flatnonzero((encoded & 0xC0) != 0x80), len(encoded))
