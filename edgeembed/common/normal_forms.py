"""Unicode's normal forms (Unicode Standard Annex 15) in time that grows with the length of a text, whatever it holds."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator
from typing import Literal

MOST_MARKS = 32
"""Combining characters in a row that are put into order; Annex 15 has no use for more than 30. Python takes time that grows
with their square: seconds for 100,000."""
PIECE_CHARACTERS = 16_384
"""Python keeps all other threads waiting meanwhile, so it gets a long text in pieces of about this length."""
_BEHIND = 16
"""Characters that decide whether the next one joins them; compositions have at most four."""

Form = Literal["NFC", "NFD"]


def normalize(form: Form, text: str) -> str:
    """Return a text in a normal form. More than `MOST_MARKS` combining characters in a row stay as they are."""
    if len(text) <= MOST_MARKS:
        return _normalized(form, text)
    parts, done = [], 0
    for begin, end in _long_runs(text):
        parts += [*_pieces(form, text[done:begin]), text[begin:end]]
        done = end
    return "".join([*parts, *_pieces(form, text[done:])])


def segments(form: Form, text: str, begin: int, end: int) -> Iterator[int]:
    """Yield the end of each part between two indexes that is put into a normal form by itself."""
    if unicodedata.is_normalized(form, text[begin:end]):
        yield from range(begin + 1, end + 1)
        return
    for at in range(begin + 1, end):
        if not _joins_part(form, text[max(begin, at - _BEHIND) : at], text[at]):
            yield at
            begin = at
    yield end


def has_long_run(text: str) -> bool:
    """Return whether a text has more than `MOST_MARKS` combining characters in a row."""
    return len(text) > MOST_MARKS and next(_long_runs(text), None) is not None


def _normalized(form: Form, text: str) -> str:
    return text if unicodedata.is_normalized(form, text) else unicodedata.normalize(form, text)


def _pieces(form: Form, text: str) -> Iterator[str]:
    begin = 0
    while begin < len(text):
        end = begin + PIECE_CHARACTERS
        while end < len(text) and _joins(form, text, end):
            end += 1
        yield _normalized(form, text[begin:end])
        begin = end


def _joins(form: Form, text: str, at: int) -> bool:
    """Return whether the character at an index may change its place with those before it, or be composed with them."""
    if _is_mark(text[at]):
        return True
    before, whole = (unicodedata.normalize(form, text[max(0, at - _BEHIND) : end]) for end in (at, at + 1))
    return whole != before + unicodedata.normalize(form, text[at])


@functools.lru_cache(maxsize=16_384)
def _joins_part(form: Form, part: str, char: str) -> bool:
    return _joins(form, part + char, len(part))


@functools.lru_cache(maxsize=4096)
def _is_mark(char: str) -> bool:
    # Some characters are not combining, but begin with a combining one when they are decomposed.
    return unicodedata.combining(unicodedata.normalize("NFKD", char)[0]) != 0


def _long_runs(text: str) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each run of more than `MOST_MARKS` combining characters."""
    done = 0
    for at in range(0, len(text), MOST_MARKS):  # one of which is in each of these runs
        if at < done or not _is_mark(text[at]):
            continue
        begin, end = at, at + 1
        while begin > done and _is_mark(text[begin - 1]):
            begin -= 1
        while end < len(text) and _is_mark(text[end]):
            end += 1
        if end - begin > MOST_MARKS:
            yield begin, end
        done = end
