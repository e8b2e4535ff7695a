"""Fixed texts that show, before a worker says ready, that its kernels compute what they should."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from edgeembed.engine.protocol import Float32Row

TokensT = TypeVar("TokensT")

TEXTS = (
    "edgeembed",
    "The quick brown fox jumps over the lazy dog.",
    "Größe, цвет, 颜色, رنگ, रंग: one text in several scripts. 🙂",
    "def mean(values: list[float]) -> float:\n    return sum(values) / len(values)\n",
    # Long enough for the kernels that only start at 64 tokens.
    "A daemon turns this computer into a private embedding server. It answers on localhost, it remembers the vectors of "
    "frequent queries, and it keeps running for years: on a laptop, on an edge box, on a workstation. Texts never leave "
    "the machine; nobody else learns what is being searched for, what is being written, or what is being thought.",
)

LEAST_COSINE = 0.999
"""Between a text's row computed alone and in a batch with the others. Quantised kernels round differently with the batch's
shape; a broken kernel is far off."""


class CanaryError(Exception):
    """The rows are wrong; the message says which and how."""


def check(embed: Callable[[Sequence[TokensT]], list[Float32Row]], texts: Sequence[TokensT]) -> float:
    """Embed each text alone and all in one batch, and compare; gives the least cosine. Raises CanaryError."""
    single = [embed([text])[0] for text in texts]
    batch = embed(texts)
    for rows, where in ((single, "alone"), (batch, "in a batch")):
        for number, row in enumerate(rows):
            if reason := defect(row):
                raise CanaryError(f"canary text {number} computed {where} gave a row that is {reason}")
    cosines = [cosine(one, other) for one, other in zip(single, batch, strict=True)]
    for number, value in enumerate(cosines):
        if not value >= LEAST_COSINE:  # also true for NaN
            raise CanaryError(
                f"canary text {number} computed alone and in a batch gave different rows: cosine {value:.6f}, "
                f"at least {LEAST_COSINE} is right"
            )
    return min(cosines)


def defect(row: Float32Row) -> str | None:
    """Say what makes a row unusable, if anything does."""
    if not np.isfinite(row).all():
        return "not finite"
    if not row.any():
        return "all zeros"
    return None


def cosine(one: Float32Row, other: Float32Row) -> float:
    """Give the cosine similarity of two rows, computed in float64."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
