"""The field `long_text`, our own in every dialect: what happens to texts that are too long, instead of cutting them."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from edgeembed.errors import RequestError
from edgeembed.inference.requests import LongText

LONG_TEXT = (
    "What happens to texts that are too long. mean: each is divided into overlapping windows that end with a sentence, and "
    "its vector is the mean of theirs, weighted by their tokens. none: they are cut or refused. The default is the server's "
    "setting long_text, unless the request has a field that cuts or refuses them."
)
_LONG_DOCUMENT = (
    "What happens to documents that are too long with their query. max: each is divided into overlapping windows, of which "
    "the best one counts. none: they are cut or refused. The default is max with the server's setting long_text = mean, "
    "unless the request has a field that cuts or refuses them."
)
LongDocument: TypeAlias = Literal["none", "max"]
LongTextField: TypeAlias = Annotated[Literal["none", "mean"] | None, Meta(description=LONG_TEXT)]
"""For answers without a place for windows."""
LongDocumentField: TypeAlias = Annotated[LongDocument | None, Meta(description=_LONG_DOCUMENT)]


def long_text_of(asked: LongText | None, default: LongText, *, ids: bool = False, **cutting: str | int | None) -> LongText:
    """Return what happens to texts that are too long: what the request's field says, or else `default`.

    ids: the request has token ids in place of texts. cutting: its fields that say that such texts are cut or refused, by
    name: they go before the default. Raises RequestError if long_text contradicts one of them, or is sent with ids.
    """
    cut = next((name for name, value in cutting.items() if value is not None), None)
    if asked is None:
        return "none" if cut or ids else default
    if asked != "none" and cut:
        raise RequestError(f"long_text and {cut} contradict each other; send one of them", param="long_text")
    if asked != "none" and ids:
        raise RequestError("long_text divides texts, but the request has token ids; send texts", param="long_text")
    return asked


def divides(asked: LongDocument | None, default: LongText, **cutting: str | int | None) -> bool:
    """Return whether documents to rank that are too long are divided into windows; see `long_text_of`."""
    return long_text_of("mean" if asked == "max" else asked, default, ids=False, **cutting) != "none"
