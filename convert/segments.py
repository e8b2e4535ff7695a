"""Token types for models that distinguish the two texts of a pair, which llama.cpp's graph does not support.

BERT adds one of two learned rows to each token's embedding: row 0 in the first text of a pair, row 1 in the second.
llama.cpp always adds row 0. Therefore the table of word embeddings gets a second half, in which row 1 - row 0 is added to
every row: a token of the second text uses the row of its id plus the size of the vocabulary, and the sum is the one that the
model was trained with. The pieces of the second half match no text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import Keys, TokenType

from edgeembed.errors import ConversionError
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.unigram import UNUSED_SCORE
from edgeembed_convert.views import TensorSource
from edgeembed_convert.weights import Float32Array

OFFSET_KEY = "edgeembed.rerank.second_segment"
"""Number added to the id of each token from the document to the end, including the template's tokens after it."""


@dataclass(frozen=True)
class TwoSegments:
    """Word embeddings, shape (2 * vocabulary, hidden): the original ones, then those for the second text of a pair."""

    words: TensorSource
    types: TensorSource
    """Token type embeddings, at least two rows."""

    @property
    def name(self) -> str:
        return self.words.name

    @property
    def file(self) -> Path:
        return self.words.file

    @property
    def shape(self) -> tuple[int, ...]:
        return (2 * self.words.shape[0], self.words.shape[1])

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def rows(self) -> Iterator[Float32Array]:
        yield from self.words.rows()
        first, second = np.concatenate(list(self.types.rows()))[:2]
        for rows in self.words.rows():
            yield rows + (second - first)


def add_second_segment(metadata: Metadata, arch: str) -> Metadata:
    """Return the metadata with the vocabulary doubled, and OFFSET_KEY. Raises ConversionError."""
    pieces, kinds = metadata[Keys.Tokenizer.LIST], metadata[Keys.Tokenizer.TOKEN_TYPE]
    assert isinstance(pieces, list) and isinstance(kinds, list)
    count = len(pieces)
    # Texts are split at spaces, so no word of a text matches such a piece.
    second = [f"<2nd {number}>" for number in range(count)]
    if set(second) & set(pieces):
        raise ConversionError(
            "the vocabulary contains pieces such as '<2nd 0>', which are reserved for the second text of a pair"
        )
    scores = metadata.get(Keys.Tokenizer.SCORES)
    if isinstance(scores, list):
        metadata = {**metadata, Keys.Tokenizer.SCORES: [*map(float, scores), *[UNUSED_SCORE] * count]}
    return {
        **metadata,
        Keys.LLM.VOCAB_SIZE.format(arch=arch): 2 * count,
        Keys.Tokenizer.LIST: [*map(str, pieces), *second],
        Keys.Tokenizer.TOKEN_TYPE: [*map(int, kinds), *[int(TokenType.UNUSED)] * count],
        OFFSET_KEY: count,
    }
