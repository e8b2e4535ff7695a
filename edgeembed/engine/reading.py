"""Tokenised texts: their tokens, and how many they share with other texts as a prefix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]
"""Token ids, shape (tokens,)."""

LEAST_SHARED = 4
"""Fewer shared tokens are computed faster than looked up."""


class Prefix:
    """Tokens that many texts begin with: an instruction, or a reranker's template with its query."""

    __slots__ = ("key", "tokens")

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.key = tokens.tobytes()

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A tokenised text. shared: number of its first tokens that equal those of the prefix, never all of them.

    unattended: number of its last tokens that no token attends to; they expand a query (see `late_interaction`).
    """

    tokens: Tokens
    prefix: Prefix | None = None
    shared: int = 0
    unattended: int = 0

    @property
    def own(self) -> int:
        """Number of tokens that are not shared."""
        return len(self.tokens) - self.shared


def read_behind(tokens: Tokens, prefix: Prefix) -> Reading:
    """Return the reading of a text that begins with a prefix.

    Byte-level BPE may join the prefix's last character with the text's first one, and a prefix tokenised alone may end in a
    special token. So the shared tokens are those that both begin with, except the text's last one, which must be computed.
    """
    most = min(len(tokens) - 1, len(prefix))
    if most < LEAST_SHARED:
        return Reading(tokens)
    shared = common(tokens[:most], prefix.tokens)
    return Reading(tokens, prefix, shared) if shared >= LEAST_SHARED else Reading(tokens)


def common(one: Tokens, other: Tokens) -> int:
    """Return how many tokens both begin with."""
    most = min(len(one), len(other))
    different = np.flatnonzero(one[:most] != other[:most])
    return int(different[0]) if len(different) else most


def special_around(tokenize: Callable[[str], Tokens]) -> tuple[Tokens, Tokens]:
    """Return the special tokens before and after every text. tokenize: returns a text's tokens with these."""
    bare, filled = tokenize(""), tokenize("a")
    begin = common(bare, filled)
    return bare[:begin], bare[begin:]
