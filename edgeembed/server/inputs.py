"""Fields that several dialects share: lists of texts, and what is to happen to texts that are too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta

from edgeembed.errors import InputTooLongError, RequestError, TokenInputError
from edgeembed.server.bodies import json_name
from edgeembed.service import EmbeddingService, EmbedRequest, EmbedResult, RerankRequest, RerankResult

# Bodies take lists of anything, so that the error can name the item that is wrong; the OpenAPI document says what is right.
_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1}
TextList: TypeAlias = Annotated[list[Any], Meta(extra_json_schema=_TEXTS)]
Text: TypeAlias = Annotated[str, Meta(extra_json_schema=_TEXT)]
TextOrTexts: TypeAlias = Text | TextList
AnyTextOrTexts: TypeAlias = (
    str | Annotated[list[Any], Meta(extra_json_schema={"type": "array", "items": {"type": "string"}, "minItems": 1})]
)
"""The same where a text may be empty."""
Positive: TypeAlias = Annotated[int, Meta(extra_json_schema={"minimum": 1})]
"""A number that is at least 1; whoever uses it says so, and by which name it was sent."""

Matrix: TypeAlias = Annotated[
    Any, Meta(extra_json_schema={"type": "array", "items": {"type": "array", "items": {"type": "number"}}})
]
"""Rows of an answer: a numpy array, which becomes lists of numbers."""
Vector: TypeAlias = Annotated[Any, Meta(extra_json_schema={"type": "array", "items": {"type": "number"}})]


def texts_of(given: str | list[Any], most: int, param: str) -> list[str]:
    """Give a field as a list of strings.

    Raises RequestError for an empty list or one of more than `most` items, and naming the first item that is no string.
    """
    if isinstance(given, str):
        return [given]
    if not given:
        raise RequestError(f"{param} is an empty list; send at least one text", param=param)
    if len(given) > most:
        raise RequestError(f"{param} has {len(given)} items; at most {most} are taken in one request", param=param)
    wrong = next((index for index, item in enumerate(given) if type(item) is not str), None)
    if wrong is None:
        return given
    place = f"{param}[{wrong}]"
    item = given[wrong]
    if type(item) is int or (isinstance(item, list) and item and all(type(token) is int for token in item)):
        raise TokenInputError(f"{place} holds token ids, whose vocabulary nobody can know here; send text", param=place)
    raise RequestError(f"{place} is {json_name(item)}; a string is expected", param=place)


TRUNCATE = "Whether a text that is too long may be cut. This version cuts nothing: such a text is an error either way."
PROMPT = "query or document puts the model's own prompt around each text; without it texts stay as they are."
Side: TypeAlias = Literal["none", "end", "start"]


@dataclass(frozen=True)
class Lengths:
    """What a client wants to happen to texts that are too long.

    cut: which side of such a text may be cut off. max_tokens: the longest text, where that is less than the model takes.
    asked: how the client asked for it, for the message; None when it did not say anything and this is its dialect's default.
    """

    cut: Side = "none"
    max_tokens: int | None = None
    asked: str | None = None


async def embed(service: EmbeddingService, request: EmbedRequest, lengths: Lengths) -> EmbedResult:
    """Embed texts none of which has to be cut. Raises what the service raises, and RequestError for a text to cut.

    Cutting is the worker's work, which alone knows tokens. Until it can, nothing is cut in silence: a request whose texts
    fit is what it asks for, and any other one is refused.
    """
    try:
        result = await service.embed(request)
    except InputTooLongError as error:
        raise _unsupported(error, lengths) from error
    _refuse_longer(result.tokens, lengths, request)
    return result


async def rerank(service: EmbeddingService, request: RerankRequest, lengths: Lengths) -> RerankResult:
    """Score documents none of which has to be cut; the same as `embed`, with the tokens of query and document together."""
    try:
        result = await service.rerank(request)
    except InputTooLongError as error:
        raise _unsupported(error, lengths) from error
    _refuse_longer(result.tokens, lengths, request)
    return result


def _unsupported(error: InputTooLongError, lengths: Lengths) -> InputTooLongError:
    if lengths.cut == "none" or lengths.asked is None:
        return error
    message = f"{error.message}; {lengths.asked} asks to cut it, which this version cannot do"
    return InputTooLongError(message, tokens=error.tokens, limit=error.limit, param=error.param)


def _refuse_longer(tokens: Sequence[int], lengths: Lengths, request: EmbedRequest | RerankRequest) -> None:
    most = lengths.max_tokens
    long = next((index for index, count in enumerate(tokens) if most is not None and count > most), None)
    if long is None or most is None:
        return
    place = request.param if request.single else f"{request.param}[{long}]"
    raise InputTooLongError(
        f"{place} has {tokens[long]} tokens, and {lengths.asked} allows {most}; this version cannot cut texts",
        tokens=tokens[long],
        limit=most,
        param=place,
    )
