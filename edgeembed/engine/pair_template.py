"""The pair template of a reranker: how a query and a document are put together and tokenised.

Only the template's own special tokens become such, never those in a text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgeembed.engine.interface import Pair
from edgeembed.engine.reading import Tokens
from edgeembed.engine.template_parts import CUT, split_at_special

TEMPLATE_KEY = "edgeembed.prompt.rerank"
INSTRUCTION_KEY = "edgeembed.prompt.instruction"
SECOND_SEGMENT_KEY = "edgeembed.rerank.second_segment"


@dataclass(frozen=True)
class PairTemplate:
    """The template in a file's metadata.

    second_segment: added to each id from the document on, up to the end of the template; for models with segment embeddings,
    which llama.cpp's graph does not have.
    """

    template: str
    instruction: str = ""
    second_segment: int = 0

    @classmethod
    def of(cls, metadata: Callable[[str], str | None]) -> PairTemplate | None:
        """Return the template of a file with this metadata; None when it has none."""
        template = metadata(TEMPLATE_KEY)
        if not template:
            return None
        return cls(template, metadata(INSTRUCTION_KEY) or "", int(metadata(SECOND_SEGMENT_KEY) or 0))

    def tokens(self, pair: Pair, tokenize: Callable[[str, bool], Tokens]) -> Tokens:
        """Return the ids of the filled template. tokenize(text, special): tokenises without adding special tokens."""
        values = {
            "query": pair.query,
            "document": pair.document,
            "instruction": self.instruction if pair.instruction is None else pair.instruction,
        }
        parts: list[Tokens] = []
        offset = 0
        for part, special in split_at_special(self.template):
            if "{document}" in part:
                offset = self.second_segment
            if part != CUT:
                parts.append(tokenize(part if special else part.format(**values), special) + np.int32(offset))
        return np.concatenate(parts).astype(np.int32)
