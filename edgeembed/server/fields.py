"""Fields that several dialects share: texts, lists of texts or token ids, and what happens to texts that are too long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType
from multidict import istr

from edgeembed.engine.interface import Side
from edgeembed.errors import RequestError, TokenInputError, quoted
from edgeembed.inference.requests import ClassifyResult, EmbedResult, RerankResult
from edgeembed.inference.truncation import Lengths
from edgeembed.models.prompts import InputType
from edgeembed.server.body import DIGEST_HEADER, cache_header, json_name

T = TypeVar("T")

# Bodies take lists of anything, so that the error can name the item that is wrong; the OpenAPI document has the right type.
_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1}
TextField: TypeAlias = Annotated[str, Meta(extra_json_schema=_TEXT)]
TextListField: TypeAlias = Annotated[list[Any], Meta(extra_json_schema=_TEXTS)]
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_TEXTS_OR_IDS = {"anyOf": [_TEXTS, _IDS, {"type": "array", "items": _IDS, "minItems": 1}]}
TextsOrIdsField: TypeAlias = TextField | dict[str, Any] | Annotated[list[Any], Meta(extra_json_schema=_TEXTS_OR_IDS)]
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
    given: str | dict[str, Any] | list[Any],
    most: int | None,
    param: str,
    *,
    token_hint: str = "",
) -> list[str]:
    """Return a field as a list of strings.

    Items may be objects with a text, too; see `part_text`. most: items that one request may have; None for any number.
    token_hint: added to the error for token ids.

    Raises:
        RequestError: the list is empty or too long, or an item is not a string; it names the first one.
        TokenInputError: the list holds token ids.
    """
    if not isinstance(given, list):
        return [part_text(given, param)]
    check_count(given, most, param)
    if all(type(item) is str for item in given):
        return given
    if is_token_ids(given) or all(_is_ids_of_text(item) for item in given):
        raise TokenInputError(
            f"{param} holds token ids, of a vocabulary that is not known here. Send text{token_hint}", param=param
        )
    ids_at = next((index for index, item in enumerate(given) if type(item) is int or _is_ids_of_text(item)), None)
    if token_hint and ids_at is not None:
        place = f"{param}[{ids_at}]"
        raise TokenInputError(
            f"{place} is {json_name(given[ids_at])}, which may be token ids; {param} takes texts or ids, but not both"
            + token_hint,
            param=place,
        )
    return [part_text(item, f"{param}[{index}]") for index, item in enumerate(given)]


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


def has_token_ids(given: Any) -> bool:
    """Return whether a field holds a list of token ids, or a list of such lists."""
    if not isinstance(given, list) or not given:
        return False
    return is_token_ids(given) or all(isinstance(item, list) and is_token_ids(item) for item in given)


def id_lists_of(given: list[Any], param: str) -> tuple[list[list[int]], bool]:
    """Return a field as lists of token ids, and whether it is a single list. Raises RequestError naming the item."""
    if given and is_token_ids(given):
        return [given], True
    for index, item in enumerate(given):
        if not isinstance(item, list) or not is_token_ids(item):
            place = f"{param}[{index}]"
            found = "a list of something else" if isinstance(item, list) else json_name(item)
            raise RequestError(f"{place} is {found}; expected a list of token ids", param=place)
    return given, False


_INPUT_TYPES: dict[str, InputType] = {
    "query": "query",
    "document": "document",
    "passage": "document",
    "search_query": "query",
    "search_document": "document",
    "classification": "classification",
    "clustering": "clustering",
    "similarity": "similarity",
    "retrieval.query": "query",
    "retrieval.passage": "document",
    "text-matching": "similarity",
    "separation": "clustering",
    "retrieval_query": "query",
    "retrieval_document": "document",
    "semantic_similarity": "similarity",
    "retrieval-query": "query",
    "retrieval-document": "document",
    "sts": "similarity",
}
"""The words of Cohere, Voyage, NVIDIA, Jina, Gemini and of the prompts of sentence-transformers models."""
InputTypeField: TypeAlias = Annotated[str, Meta(extra_json_schema={"enum": [*_INPUT_TYPES]})]


_SIDES: dict[str, Side] = {"none": "none", "end": "end", "right": "end", "start": "start", "left": "start"}
TruncateField: TypeAlias = Annotated[str, Meta(extra_json_schema={"enum": [*_SIDES]})] | bool


def word_of(word: str | None, words: Mapping[str, T], param: str) -> T | None:
    """Return what a word means, in any case. Raises RequestError with all words for another one."""
    if word is None:
        return None
    if (found := words.get(word.lower())) is None:
        raise RequestError(f"{param} {quoted(word)} is unknown; expected one of {', '.join(words)}", param=param)
    return found


def input_type_of(word: str | None, param: str) -> InputType | None:
    """Return what a word of any dialect says about what the texts are for. Raises RequestError for another one."""
    return word_of(word, _INPUT_TYPES, param)


def side_of(word: str | bool | None, param: str) -> Side | None:
    """Return the side of a long text that is cut off, by a word or boolean of any dialect. Raises RequestError."""
    return word_of(word, _SIDES, param) if not isinstance(word, bool) else "end" if word else "none"


def only_one(**given: T | None) -> T | None:
    """Return the value of a field that has several names; None if none is given. Raises RequestError if two differ."""
    named = {name: value for name, value in given.items() if value is not None}
    if not named:  # as most fields are
        return None
    first, chosen = next(iter(named.items()))
    for name, value in named.items():
        if value != chosen:
            raise RequestError(f"{first} and {name} contradict each other; send one of them", param=name)
    return chosen


def side_to_cut(truncate: str | bool | None, truncation: bool | None, truncation_side: str | None, default: Side) -> Side:
    """Return the side of a long text that is cut off, by the fields of other servers that say so, or else by `default`.

    truncation_side, of vLLM: which side that is, where something else allows cutting. Raises RequestError for fields that
    contradict each other.
    """
    named = side_of(truncation_side, "truncation_side")
    allowed: Side = named or "end"
    side: Side | None = only_one(
        truncate=allowed if truncate is True else side_of(truncate, "truncate"),
        truncation=None if truncation is None else allowed if truncation else "none",
    )
    if side is None:
        return "none" if default == "none" else named or default
    if side != "none":
        only_one(truncate=side, truncation_side=named)
    return side


def lengths_of_text(side: Side, truncation_side: str | None, most: int | None, max_tokens: int | None) -> Lengths:
    """Return how long a text may be. Raises RequestError.

    side: the one that is cut off. truncation_side, most: vLLM's fields, the latter of which is truncate_prompt_tokens: cut
    to so many tokens, -1 is the model's limit. max_tokens: the longest text, if less than that limit.
    """
    check_positive(max_tokens, "max_tokens")
    if most is None:
        return Lengths(side, max_tokens)
    if most != -1:
        check_positive(most, "truncate_prompt_tokens")
    only_one(truncate=side, truncate_prompt_tokens=side_of(truncation_side, "truncation_side") or "end")
    asked = only_one(max_tokens=max_tokens, truncate_prompt_tokens=None if most == -1 else most)
    return Lengths(side, asked, asked="truncate_prompt_tokens")


def _is_ids_of_text(item: Any) -> bool:
    return isinstance(item, list) and item != [] and is_token_ids(item)


_MEDIA = ("image", "image_url", "audio", "input_audio", "video", "video_url")
"""Fields of items for multimodal models (SGLang, Jina). The vector of the text alone would not be that of such an item."""


def part_text(item: Any, place: str) -> str:
    """Return the text of an item: a string, a part with a text, or a message, whose content is a string or a list of parts.

    A list of parts may also stand alone, as in SGLang's rerank requests. The texts of several parts are put together as they
    are. Raises RequestError for anything else, such as an image.
    """
    match item:
        case str():
            return item
        case {"text": str(text), **rest} if rest.get("type") in (None, "text", "input_text"):
            if media := next((name for name in _MEDIA if rest.get(name)), None):
                raise RequestError(f"{place}.{media}: only texts are supported; leave it out", param=place)
            return text
        case {"content": str(text)} | {"prompt_string": str(text)}:
            return text
        case {"content": [_, *_] as parts}:
            return "".join(part_text(part, f"{place}.content[{index}]") for index, part in enumerate(parts))
        case [dict(), *_]:
            return "".join(part_text(part, f"{place}[{index}]") for index, part in enumerate(item))
        case {"type": str(kind)} if kind != "text":
            raise RequestError(f"{place} is of the type {quoted(kind)}; only texts are supported", param=place)
        case _:
            raise RequestError(
                f"{place} is {json_name(item)}; expected a string, or an object with a string under 'text'", param=place
            )


def message_text(messages: list[Any]) -> str:
    """Return the text of the one message that a chat may have here. Raises RequestError."""
    if len(messages) != 1:
        raise RequestError(
            f"messages has {len(messages)} items; expected one, as no chat template is applied. Send each text in input",
            param="messages",
        )
    return part_text(messages[0], "messages[0]")


class TruncatedItem(msgspec.Struct):
    """A text that was cut, with the number of tokens that were read and that it had."""

    index: int
    tokens: int
    full_tokens: int


def truncated_items(result: EmbedResult | RerankResult | ClassifyResult) -> list[TruncatedItem] | UnsetType:
    """Return what an answer says of the texts that were cut; UNSET if none was."""
    return [TruncatedItem(cut.index, cut.tokens, cut.full) for cut in result.cuts] or UNSET


TRUNCATE = "Cut texts that are too long; the prompt and special tokens are kept. Otherwise such texts are an error."
PROMPT = "What the texts are for: adds the model's prompt to each text. Without it, texts are embedded as they are."
TRUNCATED_HEADER = istr("X-Edgeembed-Truncated")


def answer_headers(result: EmbedResult | RerankResult | ClassifyResult, texts: int) -> dict[str, str]:
    """Return the headers with the model file, what the cache answered, and how many texts were cut, if any were."""
    headers = {**cache_header(result.hits, texts), DIGEST_HEADER: result.model.digest}
    if cuts := result.cuts:
        headers[TRUNCATED_HEADER] = str(len(cuts))
    return headers


def check_positive(number: int | None, param: str) -> None:
    """Raise RequestError for a number that is less than 1."""
    if number is not None and number < 1:
        raise RequestError(f"{param} is {number}; expected at least 1", param=param)
