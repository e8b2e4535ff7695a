"""Fields that several dialects share: texts, lists of texts or token ids, and what happens to texts that are too long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

from msgspec import Meta
from multidict import istr

from edgeembed.errors import RequestError, TokenInputError
from edgeembed.inference.requests import EmbedResult, RerankResult
from edgeembed.server.body import DIGEST_HEADER, cache_header, json_name

# Bodies take lists of anything, so that the error can name the item that is wrong; the OpenAPI document has the right type.
_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1}
TextField: TypeAlias = Annotated[str, Meta(extra_json_schema=_TEXT)]
TextListField: TypeAlias = Annotated[list[Any], Meta(extra_json_schema=_TEXTS)]
TextsField: TypeAlias = TextField | TextListField
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_TEXTS_OR_IDS = {"anyOf": [_TEXTS, _IDS, {"type": "array", "items": _IDS, "minItems": 1}]}
TextsOrIdsField: TypeAlias = TextField | Annotated[list[Any], Meta(extra_json_schema=_TEXTS_OR_IDS)]
"""Texts, or token ids: a list of them for one text, or a list of such lists."""
AnyTextsField: TypeAlias = (
    str | Annotated[list[Any], Meta(extra_json_schema={"type": "array", "items": {"type": "string"}, "minItems": 1})]
)
"""Texts that may be empty."""
PositiveField: TypeAlias = Annotated[int, Meta(extra_json_schema={"minimum": 1})]
"""A number that is at least 1; see `check_positive`."""

RowsField: TypeAlias = Annotated[
    Any, Meta(extra_json_schema={"type": "array", "items": {"type": "array", "items": {"type": "number"}}})
]
"""Rows in an answer: a numpy array, which becomes lists of numbers."""
RowField: TypeAlias = Annotated[Any, Meta(extra_json_schema={"type": "array", "items": {"type": "number"}})]


def texts_of(
    given: str | list[Any],
    most: int | None,
    param: str,
    *,
    item_text: Callable[[Any, str], str] | None = None,
    token_hint: str = "",
) -> list[str]:
    """Return a field as a list of strings.

    most: items that one request may have; None for any number. item_text: returns the text of an item at a place such as
    "documents[3]", where items are not plain strings. token_hint: added to the error for token ids.

    Raises:
        RequestError: the list is empty or too long, or an item is not a string; it names the first one.
        TokenInputError: the list holds token ids.
    """
    if isinstance(given, str):
        return [given]
    check_count(given, most, param)
    if item_text is not None:
        return [item_text(item, f"{param}[{index}]") for index, item in enumerate(given)]
    wrong = next((index for index, item in enumerate(given) if type(item) is not str), None)
    if wrong is None:
        return given
    if is_token_ids(given) or all(isinstance(item, list) and is_token_ids(item) for item in given):
        raise TokenInputError(
            f"{param} holds token ids, of a vocabulary that is not known here. Send text{token_hint}", param=param
        )
    place = f"{param}[{wrong}]"
    raise RequestError(f"{place} is {json_name(given[wrong])}; expected a string", param=place)


def check_count(items: list[Any], most: int | None, param: str) -> None:
    """Raise RequestError for a list that is empty or has more than `most` items."""
    if not items:
        raise RequestError(f"{param} is an empty list; send at least one item", param=param)
    if most is not None and len(items) > most:
        raise RequestError(
            f"{param} has {len(items)} items; one request may have at most {most} (max_request_texts). "
            "Send fewer at a time, in several requests",
            param=param,
        )


def is_token_ids(items: list[Any]) -> bool:
    """Return whether every item is an integer."""
    return set(map(type, items)) <= {int}


TRUNCATE = "Cut texts that are too long; the prompt and special tokens are kept. Otherwise such texts are an error."
PROMPT = "query or document: add the model's prompt to each text. Without it, texts are embedded as they are."
TRUNCATED_HEADER = istr("X-Edgeembed-Truncated")


def answer_headers(result: EmbedResult | RerankResult, texts: int) -> dict[str, str]:
    """Return the headers with the model file, what the cache answered, and how many texts were cut, if any were."""
    headers = {**cache_header(result.hits, texts), DIGEST_HEADER: result.model.digest}
    if cuts := result.cuts:
        headers[TRUNCATED_HEADER] = str(len(cuts))
    return headers


def check_positive(number: int | None, param: str) -> None:
    """Raise RequestError for a number that is less than 1."""
    if number is not None and number < 1:
        raise RequestError(f"{param} is {number}; expected at least 1", param=param)
