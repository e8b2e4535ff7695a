"""Arrays of float32 as strings: base64 of little-endian numbers, as they stand in the metadata of a model file."""

from __future__ import annotations

import base64

import numpy as np

from edgeembed.engine.interface import Float32Matrix, Float32Row


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
