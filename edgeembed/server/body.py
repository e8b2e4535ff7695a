"""Request bodies: JSON into structs, with errors that name the field and the item."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec
from aiohttp import web
from multidict import istr

from edgeembed.errors import RequestError
from edgeembed.inference.cleaning import without_surrogates
from edgeembed.inference.requests import CacheUse

T = TypeVar("T")


_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")


def decode(raw: bytes, decoder: msgspec.json.Decoder[T], choices: Mapping[str, Sequence[str]], *, again: bool = False) -> T:
    """Read a body. `choices` has the words that a field may hold, for the message.

    Raises RequestError naming the field, and the index inside it, that is wrong.
    """
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        field = path.rstrip("`").lstrip(".") or None
        if field is None and (missing := re.search(r"missing required field `(\w+)`", message)):
            field = missing.group(1)
        if words := choices.get(field or ""):
            message += f"; one of {', '.join(words)} is expected"
        raise RequestError(f"{field or 'the body'}: {message}", param=field) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if not again and _HALF_PAIR.search(raw):
            return decode(_mended(raw), decoder, choices, again=True)
        raise RequestError(f"the body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise RequestError("the body's lists or objects are nested too deeply") from error


def _mended(raw: bytes) -> bytes:
    """Write a body again whose strings hold halves of surrogate pairs, as JavaScript writes them; Python can read those."""
    try:
        text = json.dumps(json.loads(raw), ensure_ascii=False)
    except (ValueError, RecursionError):
        return raw
    return without_surrogates(text).encode()


def json_name(item: Any) -> str:
    """Say what a JSON value is, in a word."""
    match item:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case dict():
            return "an object"
        case _:
            return "a list"


CACHE_HEADER = istr("X-Edgeembed-Cache")
CacheField = bool | Literal["no-store", "keep"] | None
"""The body's field `cache`, in every dialect of ours."""
_CACHE_USES: dict[bool | str | None, CacheUse] = {
    True: "on",
    False: "off",
    **{word: word for word in ("on", "off", "no-store", "keep")},
}
_CACHE_WORDS = "on, off, no-store or keep"


def cache_use(field: CacheField, request: web.Request) -> CacheUse:
    """Say what a request does with the cache, by its body's field or its header; the field counts where both are there.

    Raises RequestError for a header with another word.
    """
    word = request.headers.get(CACHE_HEADER, "on")
    use = _CACHE_USES.get(word.strip().lower())
    if use is None:
        raise RequestError(f"{CACHE_HEADER}: {word!r}; {_CACHE_WORDS} is expected", param=str(CACHE_HEADER))
    return use if field is None else _CACHE_USES[field]


def cache_header(hits: int, texts: int) -> dict[str, str]:
    """Give the header that says how many of the texts the cache answered."""
    word = "miss" if hits == 0 else "hit" if hits == texts else "partial"
    return {CACHE_HEADER: word}
