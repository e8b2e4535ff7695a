"""Cleaning of texts, before prompts are added."""

from __future__ import annotations

import re

from edgeembed.common.normal_forms import normalize
from edgeembed.common.origins import Origins, compose_with_origins

# What tokenizers cannot read and people do not see: control characters of ASCII and Latin-1, except tab, line feed, carriage
# return and next line; and halves of surrogate pairs, left by programs that cut a text in the middle of an emoji.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Return a text in NFC (Unicode Standard Annex 15), without control characters, with U+FFFD for half a surrogate pair.

    Texts that look the same then have the same vector, and share a cached row. Absurd runs of combining characters stay as
    they are (see `normalize`).
    """
    if text.isascii():
        return _CONTROL.sub("", text) if not text.isprintable() else text
    return normalize("NFC", _SURROGATE.sub("\ufffd", _CONTROL.sub("", text)))


def origins_of(text: str, cleaned: str) -> Origins:
    """Return where the characters of a cleaned text come from in the text as it was sent."""
    kept = Origins.same(len(text)).without([match.start() for match in _CONTROL.finditer(text)])
    composed, origins = compose_with_origins(_SURROGATE.sub("\ufffd", _CONTROL.sub("", text)))
    return origins.behind(kept) if composed == cleaned else Origins.same(len(cleaned))


def without_surrogates(text: str) -> str:
    """Return a text with U+FFFD for halves of surrogate pairs, which UTF-8 cannot hold."""
    return _SURROGATE.sub("\ufffd", text)
