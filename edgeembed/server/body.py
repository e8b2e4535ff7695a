"""Request bodies: JSON to structs, with errors that name the field and the item; and the field and header `cache`."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Generic, Literal, TypeVar

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType
from multidict import istr

from edgeembed.common.files import UNREADABLE_JSON
from edgeembed.common.trace import traced
from edgeembed.errors import RequestError, quoted
from edgeembed.inference.aside import LARGE
from edgeembed.inference.requests import CacheUse
from edgeembed.server.app_keys import SERVICE
from edgeembed.server.charsets import as_utf8, charset_of
from edgeembed.server.half_pairs import without_half_pairs
from edgeembed.server.large_bodies import without_long_strings
from edgeembed.server.reading import forget, read_request
from edgeembed.server.unsupported_fields import UNSUPPORTED, UnsupportedField

T = TypeVar("T", bound=msgspec.Struct)

_WHOLE_NUMBER = re.compile(rb"(-?[0-9]{1,15})\.0+")


class BodyType(Generic[T]):
    """How a route reads its bodies: as structs of one type.

    Fields of other dialects that change the numbers, and that the struct does not have, are refused; see
    `unsupported_fields`.
    """

    def __init__(self, struct: type[T], unsupported: Mapping[str, UnsupportedField] = UNSUPPORTED) -> None:
        """Prepare a decoder. unsupported: the fields to refuse, by name, unless the struct has them."""
        own = {field.encode_name for field in msgspec.structs.fields(struct)}
        self._refused = {name: field for name, field in unsupported.items() if name not in own}
        self._none = (UNSET,) * len(self._refused)
        """The refused fields of nearly all bodies. They are a body's last ones, which are compared all at once."""
        seen: list[tuple[str, Any, Any]] = [(name, Any, UNSET) for name in self._refused]
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(
            msgspec.defstruct(struct.__name__, seen, bases=(struct,), module=struct.__module__)
        )
        self._words = dict(_words_of_fields(struct))

    @traced(before="route", within="decode JSON")
    def decode(self, raw: bytes, charset: str = "utf-8") -> T:
        """Return a decoded body. Raises RequestError, RequestTooLargeError."""
        raw = as_utf8(raw, charset)
        if len(raw) <= LARGE:
            body = self._decode(raw)
        else:
            skeleton, strings = without_long_strings(raw)
            body = self._decode(skeleton)
            strings.put_back(body)
        if msgspec.structs.astuple(body)[-len(self._none) :] != self._none:
            for name, field in self._refused.items():
                if (value := getattr(body, name)) is not UNSET and value is not None:
                    field.check(name, value)
        return body

    def _decode(self, raw: bytes) -> T:
        try:
            return self._decoder.decode(raw)
        except msgspec.ValidationError as error:
            message, _, path = str(error).partition(" - at `$")
            field = path.rstrip("`").lstrip(".") or None
            if field is None and (missing := re.search(r"missing required field `(\w+)`", message)):
                field = missing.group(1)
            if (whole := _with_whole_numbers(raw)) is not None:
                return self._decode(whole)
            if words := self._words.get(field or ""):
                message += f"; expected one of {', '.join(words)}"
            raise RequestError(f"{field or 'the body'}: {message}", param=field) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if not raw.strip():
                raise RequestError("missing request body") from error
            if (whole := without_half_pairs(raw)) is not raw:
                return self._decode(whole)
            raise RequestError(f"the body is not valid JSON: {error}") from error


def _with_whole_numbers(raw: bytes) -> bytes | None:
    """Return a body with integers in place of numbers such as 8192.0, which some languages write; None if it has none.

    Only fields of the body itself are looked at.
    """
    try:
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except UNREADABLE_JSON:
        return None
    whole = {name: int(found[1]) for name, value in fields.items() if (found := _WHOLE_NUMBER.fullmatch(bytes(value)))}
    return msgspec.json.encode({**fields, **whole}) if whole else None


def _words_of_fields(struct: type[msgspec.Struct], path: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield each field that takes words or booleans, by its path, with what it takes as JSON has it."""
    for name, kind in typing.get_type_hints(struct).items():
        kinds = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
        words: list[str] = []
        for one in kinds:
            if isinstance(one, type) and issubclass(one, msgspec.Struct):
                yield from _words_of_fields(one, f"{path}{name}.")
            elif one is bool:
                words += ["true", "false"]
            elif typing.get_origin(one) is Literal:
                quote = '"' if bool in kinds else ""
                words += [f"{quote}{word}{quote}" for word in typing.get_args(one)]
        if words:
            yield path + name, words


async def read_body(request: web.Request, body_type: BodyType[T]) -> T:
    """Return the request's body, decoded.

    Raises RequestError naming the field, and the index in it, that is wrong; RequestTooLargeError, UnsupportedMediaError.
    """
    charset = charset_of(request)
    raw = await read_request(request)
    if len(raw) <= LARGE:
        body = body_type.decode(raw, charset)
    else:
        body = await request.app[SERVICE].aside.run(len(raw), body_type.decode, raw, charset)
    forget(request)
    return body


class PeekedFields(msgspec.Struct):
    """The fields, not parsed, by which a path that serves several dialects or tasks tells them apart."""

    input: msgspec.Raw | UnsetType = UNSET
    inputs: msgspec.Raw | UnsetType = UNSET
    texts: msgspec.Raw | UnsetType = UNSET
    documents: msgspec.Raw | UnsetType = UNSET
    prompt: msgspec.Raw | UnsetType = UNSET
    messages: msgspec.Raw | UnsetType = UNSET
    content: msgspec.Raw | UnsetType = UNSET
    model: msgspec.Raw | UnsetType = UNSET


def name_in(model: msgspec.Raw | UnsetType) -> str | None:
    """Return the name of a model in a body; None for what is no name, which the dialect's decoder refuses."""
    try:
        return None if model is UNSET else msgspec.json.decode(model, type=str)
    except msgspec.DecodeError:
        return None


_peek_decoder = msgspec.json.Decoder(PeekedFields)


async def peek_body(request: web.Request) -> PeekedFields:
    """Return the fields that a body has; none for a malformed body, whose error the dialect's decoder raises.

    Raises RequestTooLargeError.
    """
    charset = charset_of(request)
    raw = await read_request(request)
    return await request.app[SERVICE].aside.run(len(raw), peek, raw, charset)


def peek(raw: bytes, charset: str = "utf-8") -> PeekedFields:
    """Return the fields that a body has; see `peek_body`."""
    raw = as_utf8(raw, charset)
    try:
        return _peek_decoder.decode(without_long_strings(raw)[0] if len(raw) > LARGE else raw)
    except UNREADABLE_JSON:
        return PeekedFields()


def json_name(item: Any) -> str:
    """Return the kind of a JSON value with its article, for messages."""
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
DIGEST_HEADER = istr("X-Edgeembed-Digest")
"""SHA-256 of the model file that the rows of a response were computed from."""
CacheField = bool | Literal["no-store", "keep"] | None
"""The type of the body's field `cache`, in the dialects that have it."""
_CACHE_USES: dict[bool | str | None, CacheUse] = {
    True: "on",
    False: "off",
    **{word: word for word in ("on", "off", "no-store", "keep")},
}
_CACHE_WORDS = "on, off, no-store or keep"


def cache_use(field: CacheField, request: web.Request) -> CacheUse:
    """Return how a request uses the cache, from the body's field or else the header.

    Raises RequestError for an unknown word in the header.
    """
    word = request.headers.get(CACHE_HEADER, "on")
    use = _CACHE_USES.get(word.strip().lower())
    if use is None:
        raise RequestError(f"{CACHE_HEADER} is {quoted(word)}; expected {_CACHE_WORDS}", param=str(CACHE_HEADER))
    return use if field is None else _CACHE_USES[field]


def cache_header(hits: int, texts: int) -> dict[str, str]:
    """Return the header that tells whether the cache answered all, some or none of the texts."""
    word = "miss" if hits == 0 else "hit" if hits == texts else "partial"
    return {CACHE_HEADER: word}
