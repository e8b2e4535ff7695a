"""POST /v1/tokenize: the tokens of texts, without embedding them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from edgeembed.inference.requests import TokenizeRequest
from edgeembed.models.prompts import InputType
from edgeembed.server.app_keys import MAX_REQUEST_TEXTS, SERVICE
from edgeembed.server.body import BodyType, read_body
from edgeembed.server.fields import PROMPT, AnyTextsField, texts_of
from edgeembed.server.responses import struct_response

routes = web.RouteTableDef()


class TokenizeBody(msgspec.Struct):
    """Texts to count, in the same fields as POST /v1/embeddings."""

    input: AnyTextsField
    model: str | None = None
    input_type: Annotated[InputType | None, Meta(description=PROMPT)] = None
    instruction: str | None = None
    ids: Annotated[bool | None, Meta(description="Whether to return the token ids, too.")] = None


class TokenizedText(msgspec.Struct):
    """The tokens of one text, including those of the prompt and special tokens."""

    index: int
    tokens: int
    ids: list[int] | UnsetType = UNSET


class TokenizeAnswer(msgspec.Struct):
    """The tokens of each text, their total, and the most tokens that one text may have."""

    object: str
    model: str
    data: list[TokenizedText]
    total_tokens: int
    context_tokens: int


_BODY = BodyType(TokenizeBody)


@routes.post("/v1/tokenize")
async def tokenize(request: web.Request) -> web.Response:
    """Count the tokens of texts as the model would read them, without embedding them."""
    body = await read_body(request, _BODY)
    texts = texts_of(body.input, request.app[MAX_REQUEST_TEXTS], "input")
    service = request.app[SERVICE]
    # Counting is cheap at any length; an answer with ids is large.
    most = service.max_listed_tokens if body.ids else None
    result = await service.count_tokens(
        TokenizeRequest(texts, body.model, body.input_type, body.instruction, most_tokens=most, task="embed")
    )
    data = [
        TokenizedText(index, len(text.ids), text.ids.tolist() if body.ids else UNSET)
        for index, text in enumerate(result.tokens)
    ]
    total = sum(text.tokens for text in data)
    return struct_response(TokenizeAnswer("list", result.model.name, data, total, result.context_tokens))
