"""Architectures that llama.cpp lacks, computed as another one of its own with a change.

The file of such a model has its own name in `general.architecture`, so that no program takes it for the other one and
computes wrong vectors. All other keys and the tensors have the names of the other architecture. `llama/model_file.py` tells
llama.cpp to load the file as that one; `llama/score_bias.py` (for `mpnet`) and `llama/gated_gelu.py` (for `gte`) change its
graph.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from edgeembed.engine.float_strings import decode_floats
from edgeembed.engine.interface import Float32Matrix

ARCHITECTURE_KEY = "general.architecture"
STAND_INS = {"mpnet": "bert", "gte": "nomic-bert"}
"""Architecture -> the one that llama.cpp computes instead."""
SCORE_BIAS_KEY = "edgeembed.attention.score_bias"
"""What is added to the attention score of two tokens, for `mpnet`: an array as in `float_strings`, shape
(heads, 2 * distance + 1), by the position of the key minus that of the query, from -distance on. The first and the last
number hold for all tokens that are farther apart."""
_LONGEST_DISTANCE = 2**14
_LARGEST_HALF = 65_504
_STRING = 8
"""GGUF's number of the type."""


def computed_as(architecture: str) -> str:
    """Return the architecture that llama.cpp computes, whose name the keys of a file begin with."""
    return STAND_INS.get(architecture, architecture)


def architecture_of(path: Path) -> str | None:
    """Return the architecture of a GGUF file, which is its first key in the files of our converter; None elsewhere."""
    try:
        with path.open("rb") as file:
            head = file.read(256)
        (length,) = struct.unpack_from("<Q", head, 24)
        kind, size = struct.unpack_from("<IQ", head, 32 + length)
    except (OSError, struct.error):
        return None
    if head[:4] != b"GGUF" or head[32 : 32 + length] != ARCHITECTURE_KEY.encode() or kind != _STRING:
        return None
    return head[44 + length : 44 + length + size].decode("utf-8", "replace")


def decode_bias(value: str, heads: int) -> Float32Matrix:
    """Return the bias, shape (heads, 2 * distance + 1). Raises ValueError if there is none for so many heads."""
    numbers = decode_floats(value)
    columns = numbers.size // heads
    if not numbers.size or numbers.size % heads or columns % 2 != 1 or columns > 2 * _LONGEST_DISTANCE + 1:
        raise ValueError(f"it has {numbers.size} numbers, not an odd number for each of {heads} heads")
    if not (np.abs(numbers) <= _LARGEST_HALF).all():  # also true for NaN
        raise ValueError("a number is not finite in half precision")
    return numbers.reshape(heads, columns)
