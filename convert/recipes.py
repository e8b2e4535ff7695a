"""Types of our own: which type each weight matrix gets, by its part in the model.

A matrix that costs little quality for each byte saved has four bits, one that costs much has more. Columns that matter are
rounded with less error (`importance`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

FOUR, FIVE, EIGHT = ("Q4_K", "IQ4_NL"), ("Q5_K", "Q5_1"), ("Q8_0",)
"""Types of so many bits, the best first; K types have blocks of 256 values, the others of 32."""
TOKENS = "token_embd."
UNFIT = "F16"
"""Type of rows that fit none of them."""


@dataclass(frozen=True)
class Recipe:
    """A type of our own."""

    types: Mapping[str, Sequence[str]]
    """By a part of a matrix's name: its types, of which the first that fits is taken."""
    rest: Sequence[str]
    """Of all other matrices."""
    file_type: LlamaFileType
    """What llama.cpp calls the file: the type of most values outside the token embeddings."""

    def type_of(self, name: str, columns: int) -> str:
        """Return the type of a weight matrix with rows of so many values."""
        kinds = next((kinds for part, kinds in self.types.items() if part in name), self.rest)
        return next((kind for kind in kinds if columns % GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0] == 0), UNFIT)

    @property
    def weighed(self) -> bool:
        """Whether the importance of columns changes the file: that of the token embeddings is not measured."""
        others = [kinds for part, kinds in self.types.items() if part != TOKENS]
        return any(kinds != EIGHT for kinds in (*others, self.rest))

    @property
    def kinds(self) -> frozenset[str]:
        """All types in it."""
        return frozenset(kind for kinds in (*self.types.values(), self.rest) for kind in kinds)


# Measured on all-MiniLM-L6-v2 and paraphrase-MiniLM-L3-v2: 1 - cosine to F32, in thousandths, that four bits (IQ4_NL) in one
# kind of matrix alone cost for each megabyte saved: token embeddings 0.1 and 0.4; queries 0.9 and 0.7; keys 1.2 and 1.4;
# ffn_down 2.4 and 3.5; ffn_up 3.3 and 3.3; attention outputs 5 and 13; values 15 and 15. Which layers cost most differs from
# model to model: the last two of six, the second of three.
_LITTLE = dict.fromkeys((TOKENS, "attn_q.", "attn_k."), FOUR)
RECIPES = {
    "Q8_E": Recipe({TOKENS: FOUR}, EIGHT, LlamaFileType.MOSTLY_Q8_0),
    "Q5_E": Recipe(_LITTLE, FIVE, LlamaFileType.MOSTLY_Q5_K_M),
    "Q4_E": Recipe({**_LITTLE, "ffn_": FOUR}, FIVE, LlamaFileType.MOSTLY_Q4_K_M),
}
