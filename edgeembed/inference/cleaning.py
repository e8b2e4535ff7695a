"""What happens to a text before its prompt is put around it: it is cleaned."""

from __future__ import annotations

import re
import unicodedata

# What no tokenizer can read and no reader sees: controls of ASCII and Latin-1, but for tab, line feed, carriage return and
# next line; and halves of surrogate pairs, which a program leaves that cuts a text in the middle of an emoji.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")


_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Clean a text: NFC (Unicode Standard Annex 15), no control characters, U+FFFD for what is half a surrogate pair.

    Two texts that look the same then have the same vector, and the same row of the cache.
    """
    if text.isascii():
        return _CONTROL.sub("", text) if not text.isprintable() else text
    text = _SURROGATE.sub("\ufffd", _CONTROL.sub("", text))
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def without_surrogates(text: str) -> str:
    """Replace halves of surrogate pairs alone, which cannot be written as UTF-8."""
    return _SURROGATE.sub("\ufffd", text)
