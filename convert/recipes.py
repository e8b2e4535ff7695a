"""Types of our own: which type each weight matrix gets, by its part in the model.

A matrix that costs little quality for each byte saved has four bits, one that costs much has eight. All types have blocks of
32 values, so that rows of 384 values fit, too. Columns that matter are rounded with less error (`importance`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gguf import LlamaFileType

REST = "Q8_0"


@dataclass(frozen=True)
class Recipe:
    """A type of our own."""

    types: Mapping[str, str]
    """By a part of a matrix's name: its type. All other matrices are REST."""
    file_type: LlamaFileType
    """What llama.cpp calls the file: the type of most values outside the token embeddings."""

    def type_of(self, name: str) -> str:
        """Return the type of a weight matrix."""
        return next((kind for part, kind in self.types.items() if part in name), REST)

    @property
    def kinds(self) -> frozenset[str]:
        """All types in it."""
        return frozenset({*self.types.values(), REST})


# Measured on all-MiniLM-L6-v2 and paraphrase-MiniLM-L3-v2: 1 - cosine to F32, in thousandths, that four bits (IQ4_NL) in one
# kind of matrix alone cost for each megabyte saved: token embeddings 0.1 and 0.4; queries 0.9 and 0.7; keys 1.2 and 1.4;
# ffn_down 2.4 and 3.5; ffn_up 3.3 and 3.3; attention outputs 5 and 13; values 15 and 15. Which layers cost most differs from
# model to model: the last two of six, the second of three.
_FOUR = dict.fromkeys(("token_embd.", "attn_q.", "attn_k."), "IQ4_NL")
RECIPES = {
    "Q8_E": Recipe({"token_embd.": "IQ4_NL"}, LlamaFileType.MOSTLY_Q8_0),
    "Q5_E": Recipe({**_FOUR, "ffn_": "Q5_1"}, LlamaFileType.MOSTLY_Q5_1),
    "Q4_E": Recipe({**_FOUR, "ffn_": "IQ4_NL"}, LlamaFileType.MOSTLY_IQ4_NL),
}
