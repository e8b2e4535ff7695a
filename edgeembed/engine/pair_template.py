"""How a reranker reads a query and a document: the file's template, filled and tokenised.

What lies between two special tokens of the template is tokenised as one text, because byte-level BPE joins a space in the
template with the word behind it. Only the template's own special tokens become such, whatever the texts hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeembed.engine.interface import Pair

Tokens = npt.NDArray[np.int32]

TEMPLATE_KEY = "edgeembed.prompt.rerank"
INSTRUCTION_KEY = "edgeembed.prompt.instruction"
SECOND_SEGMENT_KEY = "edgeembed.rerank.second_segment"

_SPECIAL = re.compile(r"(<\|[^<>|]+\|>|\[[A-Z]+\]|</?s>)")


@dataclass(frozen=True)
class PairTemplate:
    """The metadata that says how a pair is read.

    second_segment: added to each id from the document on, the template's tokens behind it included; for models that tell
    the two texts apart, which llama.cpp's graph does not.
    """

    template: str
    instruction: str = ""
    second_segment: int = 0

    @classmethod
    def of(cls, metadata: Callable[[str], str | None]) -> PairTemplate | None:
        """Read it from a file's metadata; None when the file has none."""
        template = metadata(TEMPLATE_KEY)
        if not template:
            return None
        return cls(template, metadata(INSTRUCTION_KEY) or "", int(metadata(SECOND_SEGMENT_KEY) or 0))

    def tokens(self, pair: Pair, tokenize: Callable[[str, bool], Tokens]) -> Tokens:
        """Give the ids of a filled template; `tokenize(text, special)` tokenises without adding anything."""
        values = {
            "query": pair.query,
            "document": pair.document,
            "instruction": self.instruction if pair.instruction is None else pair.instruction,
        }
        parts: list[Tokens] = []
        offset = 0
        for segment in _SPECIAL.split(self.template):
            special = _SPECIAL.fullmatch(segment) is not None
            if "{document}" in segment:
                offset = self.second_segment
            if segment:
                parts.append(tokenize(segment if special else segment.format(**values), special) + np.int32(offset))
        return np.concatenate(parts).astype(np.int32)
