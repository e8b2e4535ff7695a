"""The classifier of a reranker: the linear layer that turns the last token's hidden state into scores.

llama.cpp's graphs have it for Qwen3 and some encoders. For other decoders (Qwen2, Gemma) it refuses a file with such a
tensor; their classifier, which is one or two rows of the LM head, is a string in the metadata, and the engine computes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeembed.engine.float_strings import decode_floats
from edgeembed.engine.interface import Float32Matrix

CLASSIFIER_KEY = "edgeembed.rerank.classifier"
"""The weights, shape (labels, width), as in `float_strings`."""


@dataclass(frozen=True)
class ClassifierHead:
    """A classifier of the last token. weight: float32, shape (labels, width)."""

    weight: Float32Matrix
    softmax: bool = False

    @property
    def inputs(self) -> int:
        """Length of a hidden state."""
        return int(self.weight.shape[1])

    def apply(self, rows: Float32Matrix) -> Float32Matrix:
        """Return the scores, shape (texts, labels), of hidden states, shape (texts, width)."""
        logits: Float32Matrix = rows @ self.weight.T
        if not self.softmax:
            return logits
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        result: Float32Matrix = powers / powers.sum(axis=1, keepdims=True)
        return result


def decode_classifier(text: str, labels: int, width: int) -> Float32Matrix:
    """Return the weights, shape (labels, width). Raises ValueError if the text is not that of finite weights."""
    weight = decode_floats(text)
    if weight.size != labels * width:
        raise ValueError(f"it has {weight.size} numbers, expected {labels * width}: {labels} rows of {width}")
    if not np.isfinite(weight).all():
        raise ValueError("it has numbers that are not finite")
    return weight.reshape(labels, width)
