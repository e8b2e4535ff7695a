"""What the routes of text-embeddings-inference (TEI) have in common: fields, limits of a batch, headers.

Reference: router/src/http/types.rs and server.rs, router/src/lib.rs and core/src/tokenization.rs of
huggingface/text-embeddings-inference.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from aiohttp import web
from msgspec import Meta
from multidict import istr

from edgeembed.errors import EmptyInputError, RequestError
from edgeembed.inference.requests import ClassifyResult, EmbedRequest, EmbedResult, RerankResult
from edgeembed.inference.truncation import Lengths
from edgeembed.server.app_keys import MAX_REQUEST_TEXTS
from edgeembed.server.body import cache_use
from edgeembed.server.fields import (
    PROMPT,
    InputTypeField,
    TextsOrIdsField,
    answer_headers,
    input_type_of,
    is_token_ids,
    side_of,
    texts_of,
)

Direction: TypeAlias = Literal["Left", "Right", "left", "right"]
TruncateField: TypeAlias = Annotated[
    bool | None,
    Meta(
        description="Whether texts that are too long are cut (the default) or refused. Prompt and special tokens are kept."
    ),
]
DirectionField: TypeAlias = Annotated[
    Direction | None, Meta(description="The side that is cut: Right (the default) or Left.")
]
PromptNameField: TypeAlias = Annotated[InputTypeField | None, Meta(description=PROMPT)]


class TeiTextsBody(msgspec.Struct):
    """Texts, or token ids of the model in place of each: a list of them for one text, or a list of such lists."""

    inputs: TextsOrIdsField
    truncate: TruncateField = None
    truncation_direction: DirectionField = None
    prompt_name: PromptNameField = None
    model: str | None = None


def lengths(truncate: bool | None, direction: Direction | None) -> Lengths:
    """Return what happens to long texts: since TEI 1.9 they are cut, unless the client does not want it."""
    return Lengths("none" if truncate is False else side_of(direction, "truncation_direction") or "end")


def embed_request(request: web.Request, body: TeiTextsBody) -> EmbedRequest:
    """Return what a body asks for; its vectors are dense ones. Raises RequestError, EmptyInputError."""
    texts, ids = texts_or_ids(body.inputs, request.app[MAX_REQUEST_TEXTS])
    return EmbedRequest(
        texts=texts,
        model=body.model,
        input_type=input_type_of(body.prompt_name, "prompt_name"),
        param="inputs",
        single=not isinstance(body.inputs, list) or is_token_ids(body.inputs),
        cache=cache_use(None, request),
        lengths=lengths(body.truncate, body.truncation_direction),
        ids=ids,
    )


def check_batch(items: list[Any], most: int, param: str) -> None:
    """Raise EmptyInputError for an empty list, and RequestError for more than `most` items, in TEI's words."""
    if not items:
        raise EmptyInputError(f"{param} cannot be empty; send at least one item", param=param)
    if len(items) > most:
        raise RequestError(f"{param}: batch size {len(items)} > maximum allowed batch size {most}", param=param)


def batch_of(given: str | list[Any], most: int, param: str) -> list[str]:
    """Return a field as a list of at most `most` texts. Raises RequestError, EmptyInputError."""
    if isinstance(given, list):
        check_batch(given, most, param)
    return texts_of(given, None, param)


def texts_or_ids(inputs: str | dict[str, Any] | list[Any], most: int) -> tuple[list[str], list[list[int]] | None]:
    """Return the texts of a request, or none and the token ids.

    Raises EmptyInputError for an empty list; RequestError for too many items, or for texts and ids together.
    """
    if not isinstance(inputs, list):
        return texts_of(inputs, None, "inputs"), None
    if inputs and is_token_ids(inputs):
        return [], [inputs]
    check_batch(inputs, most, "inputs")
    lists = [isinstance(item, list) and is_token_ids(item) for item in inputs]
    if all(lists):
        return [], inputs
    if any(lists) and all(listed or isinstance(item, str) for listed, item in zip(lists, inputs, strict=True)):
        raise RequestError("inputs has both texts and token ids; send them in separate requests", param="inputs")
    return texts_of(inputs, None, "inputs"), None


_HEADERS = tuple(istr(name) for name in ("x-compute-time", "x-total-time", "x-compute-characters", "x-compute-tokens"))


def embed_headers(result: EmbedResult, asked: EmbedRequest, began: float) -> dict[str, str]:
    """Return the headers of an answer with vectors; see `compute_headers`. A token id counts as a character."""
    characters = sum(map(len, asked.texts)) + sum(map(len, asked.ids or ()))
    return compute_headers(result, result.texts, characters, began)


def compute_headers(
    result: EmbedResult | RerankResult | ClassifyResult, texts: int, characters: int, began: float
) -> dict[str, str]:
    """Return the headers of an answer. began: of the request, by `time.perf_counter()`.

    TEI also tells how long it tokenised, waited and computed. A text here may come from the cache, or share its time with
    others, so these are left out.
    """
    took = str(int((time.perf_counter() - began) * 1000))
    values = (took, took, str(characters), str(sum(result.tokens)))
    return {**answer_headers(result, texts), **dict(zip(_HEADERS, values, strict=True))}
