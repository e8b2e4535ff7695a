"""POST /v1/tokenize: what texts cost, before they are sent."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from edgeembed.inference.requests import TokenizeRequest
from edgeembed.models.prompts import InputType
from edgeembed.server.app_keys import MAX_INPUTS, SERVICE
from edgeembed.server.body import decode
from edgeembed.server.fields import PROMPT, AnyTextOrTexts, texts_of
from edgeembed.server.responses import struct_response

routes = web.RouteTableDef()


class TokenizeBody(msgspec.Struct):
    """Texts to count, in the fields that POST /v1/embeddings has. `ids: true` gives the tokens themselves too."""

    input: AnyTextOrTexts
    model: str | None = None
    input_type: Annotated[InputType | None, Meta(description=PROMPT)] = None
    instruction: str | None = None
    ids: Annotated[bool | None, Meta(description="Whether the tokens' ids come too.")] = None


class TokenizedText(msgspec.Struct):
    """One text's tokens, special ones and the prompt's included."""

    index: int
    tokens: int
    ids: list[int] | UnsetType = UNSET


class TokenizeAnswer(msgspec.Struct):
    """The tokens of each text and of all together, and how many the longest text may have."""

    object: str
    model: str
    data: list[TokenizedText]
    total_tokens: int
    context_tokens: int


_CHOICES = {"input_type": ("query", "document")}
_body_decoder = msgspec.json.Decoder(TokenizeBody)


@routes.post("/v1/tokenize")
async def tokenize(request: web.Request) -> web.Response:
    """Count the tokens of texts, as the model would read them, without computing anything."""
    body = decode(await request.read(), _body_decoder, _CHOICES)
    texts = texts_of(body.input, request.app[MAX_INPUTS], "input")
    service = request.app[SERVICE]
    # Numbers of tokens cost nothing to answer; ids are for embedding them, which takes so many.
    most = service.max_request_tokens if body.ids else None
    result = await service.count_tokens(
        TokenizeRequest(texts, body.model, body.input_type, body.instruction, most_tokens=most)
    )
    data = [
        TokenizedText(index, len(text.ids), text.ids.tolist() if body.ids else UNSET)
        for index, text in enumerate(result.tokens)
    ]
    total = sum(text.tokens for text in data)
    return struct_response(TokenizeAnswer("list", result.model.name, data, total, result.context_tokens))
