"""Fields of rerank and score requests: queries and documents in their many forms, and how many documents come back."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from msgspec import Meta

from edgeembed.engine.interface import Side
from edgeembed.errors import RequestError
from edgeembed.inference.truncation import Lengths
from edgeembed.server.fields import check_positive, part_text, texts_of

_TEXT = {"type": "string", "minLength": 1}
_PART = {"type": "object", "properties": {"text": _TEXT}, "required": ["text"]}
_PARTS = {"type": "array", "items": _PART, "minItems": 1}
_CONTENT = {"type": "object", "properties": {"content": {"anyOf": [_TEXT, _PARTS]}}, "required": ["content"]}
_DOCUMENT = {"anyOf": [_TEXT, _PART, _CONTENT, _PARTS]}

DocumentField: TypeAlias = Annotated[Any, Meta(extra_json_schema=_DOCUMENT)]
"""A text, an object with `text`, or parts with text, with or without `content` around them."""
DocumentsField: TypeAlias = Annotated[
    Any, Meta(extra_json_schema={"anyOf": [_TEXT, {"type": "array", "items": _DOCUMENT, "minItems": 1}]})
]
"""A text, or a list with one or more in the forms of `DocumentField`."""
CountField: TypeAlias = Annotated[int, Meta(extra_json_schema={"minimum": 0})]
"""A number that is at least 0; see `most_of`."""

TOP_N = "Return only the N best. 0: all."
INSTRUCTION = "The task, for models whose prompt has one."
MOST = "The longest query and document together, in tokens; what is longer is cut. -1: the model's limit."
MOST_OF_DOCUMENT = "The longest document, in tokens. What is longer is cut. 0: no such limit."


def texts_to_rank(given: Any, most: int, param: str) -> list[str]:
    """Return a field as a list of strings. most: items that a request may have. Raises RequestError naming the item."""
    return texts_of(given, most, param) if isinstance(given, list) else [part_text(given, param)]


def most_of(number: int | None, param: str) -> int | None:
    """Return how many documents to return; None for all. Raises RequestError for a negative number."""
    if number is not None and number < 0:
        raise RequestError(f"{param} is {number}; expected 0 (all) or more", param=param)
    return number or None


def lengths_of(side: Side, pair: int | None, document: int | None) -> Lengths:
    """Return how long pairs may be. Raises RequestError.

    side: of a pair that is too long, the side that is cut. pair: truncate_prompt_tokens of vLLM; -1 is the model's limit.
    document: max_tokens_per_doc of Cohere and vLLM, by which documents are cut whatever `side` is; 0 is no limit.
    """
    if pair is not None:
        most = None if pair == -1 else pair
        check_positive(most, "truncate_prompt_tokens")
        return Lengths(side, most, query=True, asked="truncate_prompt_tokens")
    if document:
        check_positive(document, "max_tokens_per_doc")
        of_document = "end" if side == "none" else side
        return Lengths(of_document, document, own=True, query=side != "none", asked="max_tokens_per_doc")
    return Lengths(side, query=side != "none")
