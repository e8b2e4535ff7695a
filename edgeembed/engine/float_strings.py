"""Arrays as strings, as they stand in the metadata of a model file: base64 of little-endian float32, and lists of ids."""

from __future__ import annotations

import base64
from collections.abc import Callable

import numpy as np

from edgeembed.engine.interface import Float32Matrix, Float32Row

MOST_IDS = 4096
"""Of a list."""


def encode_floats(values: Float32Matrix) -> str:
    """Return an array's numbers as a string; its length depends only on how many they are."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")


def decode_floats(text: str) -> Float32Row:
    """Return the numbers of a string, shape (numbers,). Raises ValueError for a string of something else."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"it is not base64 of float32: {error}") from error
    if len(raw) % 4:
        raise ValueError(f"it is not base64 of float32: {len(raw)} bytes are no whole numbers")
    return np.frombuffer(raw, dtype="<f4").astype(np.float32)


def encoded_length(count: int) -> int:
    """Return the length of a string of so many numbers."""
    return -(-4 * count // 3) * 4


def decoded_count(text: str) -> int:
    """Return how many numbers a valid string has, without decoding it."""
    return len(text.rstrip("=")) * 3 // 4 // 4


def read_floats(value: Callable[[str], str | None], key: str, count: int) -> Float32Row:
    """Return the numbers of a metadata key, shape (count,). Raises ValueError if they are others, or not all finite.

    value: returns a metadata value as text, or None. Nothing is decoded before the length is known to be right.
    """
    text = value(key)
    if text is None or len(text) != encoded_length(count):
        raise ValueError(f"key {key!r} is missing or does not have {count} numbers, as the other keys require")
    try:
        found = decode_floats(text)  # a string of that length has `count` numbers, or is refused
    except ValueError as error:
        raise ValueError(f"key {key!r}: {error}") from error
    if not np.isfinite(found).all():
        raise ValueError(f"key {key!r} has a number that is not finite")
    return found


def read_ids(value: Callable[[str], str | None], key: str, vocabulary: int) -> tuple[int, ...]:
    """Return the ids of tokens in a metadata key, which has commas between them; none if it is missing. Raises ValueError.

    vocabulary: number of token ids.
    """
    text = value(key)
    parts = text.split(",", MOST_IDS) if text else []
    if len(parts) > MOST_IDS or not all(
        part.isascii() and part.isdigit() and len(part) < 10 and int(part) < vocabulary for part in parts
    ):
        raise ValueError(f"key {key!r} must have at most {MOST_IDS} ids of tokens below {vocabulary}, with commas")
    return tuple(map(int, parts))
