"""Fields that several dialects share: lists of texts, and what is to happen to texts that are too long."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from msgspec import Meta
from multidict import istr

from edgeembed.errors import RequestError, TokenInputError
from edgeembed.inference.requests import EmbedResult, RerankResult
from edgeembed.server.body import cache_header, json_name

# Bodies take lists of anything, so that the error can name the item that is wrong; the OpenAPI document says what is right.
_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1}
TextList: TypeAlias = Annotated[list[Any], Meta(extra_json_schema=_TEXTS)]
Text: TypeAlias = Annotated[str, Meta(extra_json_schema=_TEXT)]
TextOrTexts: TypeAlias = Text | TextList
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_TEXTS_OR_IDS = {"anyOf": [_TEXTS, _IDS, {"type": "array", "items": _IDS, "minItems": 1}]}
TextsOrIds: TypeAlias = Text | Annotated[list[Any], Meta(extra_json_schema=_TEXTS_OR_IDS)]
"""The same, or token ids: of one text, or lists of them."""
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


TRUNCATE = "Whether a text that is too long is cut; the prompt and special tokens stay whole. Otherwise it is an error."
PROMPT = "query or document puts the model's own prompt around each text; without it texts stay as they are."
TRUNCATED_HEADER = istr("X-Edgeembed-Truncated")


def answer_headers(result: EmbedResult | RerankResult, texts: int) -> dict[str, str]:
    """Give the headers that say how many of the texts the cache answered, and, if any, how many were cut."""
    headers = cache_header(result.hits, texts)
    if cuts := result.cuts:
        headers[TRUNCATED_HEADER] = str(len(cuts))
    return headers


def check_positive(number: int | None, param: str) -> None:
    """Raise RequestError for a number that is less than 1."""
    if number is not None and number < 1:
        raise RequestError(f"{param} must be at least 1; {number} was asked for", param=param)
