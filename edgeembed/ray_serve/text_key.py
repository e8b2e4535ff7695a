"""The key of a request: requests with equal keys go to the same replica, which has their rows in its cache."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import orjson

MOST_BYTES = 65_536
"""A longer body is not parsed; its key is this much of it, as with `installers/several`."""
_FIELDS = ("input", "inputs", "prompt", "text", "texts")
"""Where the dialects have a text, or a list of texts."""


def key_of(body: bytes) -> str:
    """Return the key of a body: its text, whatever else it contains, if it has a single one; else all of it."""
    key = body[:MOST_BYTES]
    if len(body) <= MOST_BYTES:
        with contextlib.suppress(ValueError):  # compressed, or no JSON
            key = _single_text(orjson.loads(body)) or key
    return hashlib.blake2b(key, digest_size=16).hexdigest()


def _single_text(parsed: Any) -> bytes | None:
    if not isinstance(parsed, dict):
        return None
    found = next((parsed[name] for name in _FIELDS if name in parsed), None)
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    try:
        return found.encode() if isinstance(found, str) else None
    except UnicodeEncodeError:  # half of a surrogate pair
        return None
