"""Sizes of texts: characters, and an upper bound of the tokens, without a tokenizer."""

from __future__ import annotations

import unicodedata

from edgeembed.common.normal_forms import has_long_run
from edgeembed.engine.interface import Pair, Prompted, Text

COUNTED_CHARACTERS = 262_144
"""Of a longer text no more tokens are counted than its limit, and those of the piece that exceeds it."""
_MARKS = 8
"""Upper bound of the special tokens around a text."""
_CHARACTERS_PER_TOKEN = 4
_ID_BYTES = 4
_TEMPLATE = 1024
"""Upper bound of the bytes of a reranker's template with its default instruction."""
_LONG_CHARACTERS = 4096
"""A longer text would take too long to decompose."""
_MOST_DECOMPOSED = 36
"""Upper bound of the bytes of one character's decomposition."""


def characters_to_read(text: Text) -> int:
    """Return the characters that the tokenizer has to read: of a text with its prompt, or of both texts of a pair."""
    match text:
        case str():
            return len(text)
        case Pair(query, document, instruction):
            return len(query) + len(document) + len(instruction or "")
        case Prompted(prefix, inner, suffix):
            return len(prefix) + len(inner) + len(suffix)


def may_hold_longer_word(text: str, longest: int) -> bool:
    """Return whether a text has more than `longest` characters in a row without a space; False only if no word is longer.

    Five times as fast as splitting the text: only spaces around every so many characters are looked for.
    """
    step, length = longest + 1, len(text)
    for at in range(longest, length, step):
        end = text.find(" ", at, at + step)
        if end == at:
            continue
        if end < 0:
            end = min(length, at + step)
        least = max(0, at - step)
        begin = text.rfind(" ", least, at)
        if end - (begin if begin >= 0 else least - 1) - 1 > longest:
            return True
    return False


def characters_to_compute(text: Text) -> int:
    """Return the size of a text in characters; token ids count as four each."""
    ids = len(text.ids) // _ID_BYTES if isinstance(text, Prompted) and text.ids else 0
    return characters_to_read(text) + ids * _CHARACTERS_PER_TOKEN


def tokens_at_most(text: Text) -> int:
    """Return an upper bound of a text's tokens, without a tokenizer.

    A token stands for at least one byte of the normalised text, which is at most its compatibility decomposition (Unicode
    Standard Annex 15).
    """
    match text:
        case str():
            return _MARKS + _bytes_at_most(text)
        case Pair(query, document):
            return _TEMPLATE + sum(map(_bytes_at_most, (query, document, text.instruction or "")))
        case Prompted(prefix, inner, suffix):
            return _MARKS + len(text.ids or b"") // _ID_BYTES + sum(map(_bytes_at_most, (prefix, inner, suffix)))


def _bytes_at_most(text: str) -> int:
    if text.isascii():
        return len(text)
    if len(text) > _LONG_CHARACTERS or has_long_run(text):
        return _MOST_DECOMPOSED * len(text)
    return len(unicodedata.normalize("NFKD", text).encode())
