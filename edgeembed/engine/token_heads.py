"""Heads that compute outputs from the hidden states of a text's tokens.

llama.cpp's graphs end with hidden states or one pooled row. What late-interaction and sparse models compute from them is
computed here, with weights from the metadata of the file (see `edgeembed.engine.outputs`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from edgeembed.engine.dense import DenseHead
from edgeembed.engine.interface import Float32Matrix, Float32Row, Output, Role
from edgeembed.engine.late_interaction import read_multi_head
from edgeembed.engine.outputs import pack
from edgeembed.engine.reading import Tokens
from edgeembed.engine.sparse import MakeLogits, read_sparse_head

Value = Callable[[str], str | None]
"""Returns a metadata value as text; None if the file has none."""


class TokenHead(Protocol):
    """Computes one output of a text."""

    def apply(self, states: Float32Matrix, ids: Tokens, role: Role) -> Float32Matrix:
        """Return float32, shape (rows, outputs), of a text's hidden states, shape (tokens, width), and their token ids."""
        ...


class PooledHead:
    """Computes the dense row as llama.cpp and `DenseHead` do: one row of the mean, the first or the last token."""

    def __init__(self, pooling: str, layers: DenseHead | None = None) -> None:
        self._pooling = pooling
        self._layers = layers

    def apply(self, states: Float32Matrix, ids: Tokens, role: Role) -> Float32Matrix:
        match self._pooling:
            case "cls":
                row = states[:1]
            case "last":
                row = states[-1:]
            case _:
                row = states.mean(axis=0, keepdims=True)
        return self._layers.apply(row) if self._layers else row


class StatesHead:
    """Returns the hidden states as they are."""

    def apply(self, states: Float32Matrix, ids: Tokens, role: Role) -> Float32Matrix:
        return states


def read_token_heads(
    value: Value, width: int, vocabulary: int, outputs: Sequence[Output], make_logits: MakeLogits
) -> dict[Output, TokenHead]:
    """Return the heads of a file for its outputs besides the dense one.

    value: returns a metadata value. width: length of a hidden state. vocabulary: number of token ids. make_logits: as for
    `read_sparse_head`. Raises ValueError if one is missing or malformed.
    """
    heads: dict[Output, TokenHead] = {}
    for output in outputs:
        if output == "multi":
            heads[output] = read_multi_head(value, width, vocabulary)
        elif output == "sparse":
            heads[output] = read_sparse_head(value, width, vocabulary, make_logits)
        elif output != "dense":
            raise ValueError(f"this version cannot compute the output {output!r}")
    return heads


def packed_row(
    heads: Mapping[Output, TokenHead], outputs: Sequence[Output], states: Float32Matrix, ids: Tokens, role: Role
) -> Float32Row:
    """Return the packed row of a text. Raises KeyError for an output without a head."""
    return pack({output: heads[output].apply(states, ids, role) for output in outputs})
