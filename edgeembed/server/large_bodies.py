"""Decoding JSON bodies in steps: the decoder blocks all other threads, so it never gets a large body as a whole.

What is left of a body without its long strings is small, or the body is refused: lists and objects take a decoder far more
time per byte than strings. Each long string is decoded by itself.
"""

from __future__ import annotations

import re
import secrets
from typing import Any

import msgspec

from edgeembed.errors import RequestError, RequestTooLargeError
from edgeembed.server.half_pairs import without_half_pairs

MOST_STRING_BYTES = 4 * 2**20
"""Of one string: twenty times what the longest context takes."""
MOST_SKELETON_BYTES = 8 * 2**20
"""Of everything but the long strings: enough for 300,000 token ids, each on a line of its own."""
MOST_ITEMS = 2**19
"""Commas outside of strings, which separate items and fields."""
MOST_LISTS = 2**16
"""Lists and objects."""
MOST_STRINGS = 2**17
_LONG_STRING = 64
"""Bytes; shorter ones stay where they are."""
_WINDOW = 64 * 1024
"""Bytes that are searched for the end of a string in one step."""
_MARK = f"(a long string, {secrets.token_hex(8)}-%d)"
"""Takes the place of a string. No client can send it by accident, or knows it."""
_INSIDE_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)


class LongStrings(dict[str, str]):
    """The strings that were taken out of a body, by their mark."""

    def put_back(self, value: Any) -> Any:
        """Return a decoded value with the strings in place of their marks; lists, dicts and structs are changed."""
        if not self:
            return value
        match value:
            case str():
                return self.get(value, value)
            case list():
                value[:] = [self.put_back(item) for item in value]
            case dict():
                items = [(self.put_back(key), self.put_back(item)) for key, item in value.items()]
                value.clear()
                value.update(items)
            case msgspec.Struct():
                for name in value.__struct_fields__:
                    setattr(value, name, self.put_back(getattr(value, name)))
        return value


def without_long_strings(raw: bytes) -> tuple[bytes, LongStrings]:
    """Return a body with marks in place of its long strings, and these strings.

    Raises RequestTooLargeError when what is left is too large, or a string is; RequestError for one that is not valid.
    """
    strings = LongStrings()
    kept: list[bytes] = []
    size = items = lists = count = 0
    done = 0
    while True:
        begin = raw.find(b'"', done)
        gap_end = len(raw) if begin < 0 else begin
        size += gap_end - done
        if size > MOST_SKELETON_BYTES:
            raise _too_large(f"{MOST_SKELETON_BYTES:,} bytes besides long strings")
        items += raw.count(b",", done, gap_end)
        lists += raw.count(b"[", done, gap_end) + raw.count(b"{", done, gap_end)
        count += 1
        if items > MOST_ITEMS or lists > MOST_LISTS or count > MOST_STRINGS:
            raise _too_large(f"{MOST_ITEMS:,} items, {MOST_STRINGS:,} strings or {MOST_LISTS:,} lists and objects")
        end = _end_of_string(raw, begin) if begin >= 0 else -1
        if end < 0:  # no more strings; or one without an end, which the decoder reports
            kept.append(raw[done:gap_end] + raw[begin : begin + 1] if begin >= 0 else raw[done:])
            return b"".join(kept), strings
        if end - begin <= _LONG_STRING:
            size += end - begin
            kept.append(raw[done:end])
        else:
            mark = _MARK % len(strings)
            strings[mark] = _string(raw[begin:end])
            kept += (raw[done:begin], b'"%b"' % mark.encode())
        done = end


def _end_of_string(raw: bytes, begin: int) -> int:
    """Return the index behind the quote that ends the string at `begin`; -1 if there is none.

    Raises RequestTooLargeError for a string that is too long.
    """
    limit = begin + 1 + MOST_STRING_BYTES
    quote = raw.find(b'"', begin + 1, limit)
    if quote >= 0 and raw[quote - 1] != ord("\\"):
        return quote + 1
    at = begin + 1
    while at < min(limit, len(raw)):
        found = _INSIDE_STRING.match(raw, at, at + _WINDOW)
        assert found is not None  # it also matches an empty string
        if found.end() == at and raw[at] != ord('"'):
            return -1  # a backslash at the very end
        at = found.end()
        if raw[at : at + 1] == b'"':
            return at + 1
    if at < len(raw):
        raise RequestTooLargeError(
            f"a string in the body is longer than {MOST_STRING_BYTES / 2**20:g} MiB, the most that one may have. "
            "Split the text"
        )
    return -1


def _string(raw: bytes) -> str:
    try:
        return msgspec.json.decode(raw, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if (whole := without_half_pairs(raw)) is not raw:
            return _string(whole)
        raise RequestError(f"the body is not valid JSON: {error}") from error


def _too_large(most: str) -> RequestTooLargeError:
    return RequestTooLargeError(f"the body has more than {most}; send fewer texts at a time")
