"""Halves of surrogate pairs in JSON: JavaScript writes them for a text that was cut inside an emoji; msgspec refuses
them.
"""

from __future__ import annotations

import re

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_HEX = rb"[0-9a-fA-F]"
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB]" + _HEX + rb"{2}\\u[dD][c-fC-F]" + _HEX + rb"{2}|(?P<half>u[dD][89a-fA-F]" + _HEX + rb"{2})|.)",
    re.DOTALL,
)


def without_half_pairs(raw: bytes) -> bytes:
    """Return JSON with U+FFFD for escaped halves of surrogate pairs, of the same length; the same object if it has none.

    Each escape is a step of its own: a JSON decoder would keep all other threads waiting.
    """
    if not _SURROGATE.search(raw):
        return raw
    whole = _ESCAPE.sub(_replaced, raw)
    return raw if whole == raw else whole


def _replaced(escape: re.Match[bytes]) -> bytes:
    return escape[0] if escape["half"] is None else rb"\ufffd"
