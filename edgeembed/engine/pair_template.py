"""The pair template of a reranker: how a query and a document are put together and tokenised.

The text between two special tokens of the template is tokenised as one, because byte-level BPE joins a space in the template
with the word after it. Where the makers tokenise parts by themselves, the template has "{cut}". Only the template's own
special tokens become such, never those in a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgeembed.engine.interface import Pair
from edgeembed.engine.reading import Tokens

TEMPLATE_KEY = "edgeembed.prompt.rerank"
INSTRUCTION_KEY = "edgeembed.prompt.instruction"
SECOND_SEGMENT_KEY = "edgeembed.rerank.second_segment"

CUT = "{cut}"
"""Separates parts of a template that are tokenised by themselves."""

_SPECIAL = re.compile(r"(<\|[^<>|]+\|>|\[[A-Z]+\]|</?s>|<[be]os>|\{cut\})")


def is_special(name: str) -> bool:
    """Return whether a special token of this name becomes one in a template."""
    return _SPECIAL.fullmatch(name) is not None


def split_at_special(template: str) -> list[tuple[str, bool]]:
    """Return the parts of a template, and whether each is a special token; parts that are empty are left out."""
    return [(part, is_special(part)) for part in _SPECIAL.split(template) if part]


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
        for segment in _SPECIAL.split(self.template):
            special = _SPECIAL.fullmatch(segment) is not None
            if "{document}" in segment:
                offset = self.second_segment
            if segment and segment != CUT:
                parts.append(tokenize(segment if special else segment.format(**values), special) + np.int32(offset))
        return np.concatenate(parts).astype(np.int32)
