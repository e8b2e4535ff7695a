"""What the tokenizer made of a text: its tokens, and how many of them it shares with other texts in front."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]
"""Token ids, shape (tokens,)."""

LEAST_SHARED = 4
"""Fewer tokens in common are computed faster than they are looked up."""


class Prefix:
    """Tokens that many texts begin with: an instruction, or a reranker's scaffold with its query."""

    __slots__ = ("key", "tokens")

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.key = tokens.tobytes()

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A tokenised text. shared: its first tokens that equal the prefix's own, always fewer than all."""

    tokens: Tokens
    prefix: Prefix | None = None
    shared: int = 0

    @property
    def own(self) -> int:
        """Tokens that only this text has."""
        return len(self.tokens) - self.shared


def read_behind(tokens: Tokens, prefix: Prefix) -> Reading:
    """Give a text's reading behind a prefix.

    Byte-level BPE may join the prefix's last character with the text's first one, and a prefix that was tokenised alone may
    end in a special token: what is shared is the longest common run of tokens, and never the whole text, whose last token
    has to be computed.
    """
    most = min(len(tokens) - 1, len(prefix))
    if most < LEAST_SHARED:
        return Reading(tokens)
    different = np.flatnonzero(tokens[:most] != prefix.tokens[:most])
    shared = int(different[0]) if len(different) else most
    return Reading(tokens, prefix, shared) if shared >= LEAST_SHARED else Reading(tokens)
