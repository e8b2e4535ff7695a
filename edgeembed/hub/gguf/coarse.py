"""Weights with so few bits that a file's vectors are far from those of the model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from edgeembed.hub.gguf.file import TensorInfo
from edgeembed.hub.gguf.tensors import TYPES

_FEWEST_BITS = 4
"""A file whose weights have fewer is served, but what that costs is said."""


def describe_coarse_weights(tensors: Sequence[TensorInfo]) -> str | None:
    """Return what it costs that most weights have less than four bits; None if they have more."""
    values = Counter[int]()
    for tensor in tensors:
        # The table of embeddings often has another type, and outweighs the layers of a small model.
        if len(tensor.shape) > 1 and tensor.name != "token_embd.weight" and tensor.kind in TYPES:
            values[tensor.kind] += math.prod(tensor.shape)
    if not values:
        return None
    name, block, size = TYPES[values.most_common(1)[0][0]]
    bits = 8 * size / block
    if bits >= _FEWEST_BITS:
        return None
    return (
        f"most of its weights are {name}, {bits:.1f} bits each. With less than {_FEWEST_BITS} bits, vectors differ a lot "
        "from those of the original weights, and searches find less; take a file with 4 bits or more, such as Q4_K_M, or "
        "better Q8_0"
    )
