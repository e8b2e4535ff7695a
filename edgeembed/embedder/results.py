"""What the Python API returns, apart from numpy's arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Numbers: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document and its relevance."""

    index: int
    """The document's place in the list that was given."""
    score: float
    """From a reranker, between 0 and 1; from an embedder, the cosine; from a late-interaction model, the mean of the best
    cosines (MaxSim)."""
    document: str


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """The tokens of the vocabulary that have a weight in a text. `one @ other` is the dot product of two."""

    indices: npt.NDArray[np.int64]
    """Token ids, ascending."""
    values: Floats
    """The weight of each."""

    def __len__(self) -> int:
        return len(self.indices)

    def __matmul__(self, other: SparseVector) -> float:
        _, ours, theirs = np.intersect1d(self.indices, other.indices, assume_unique=True, return_indices=True)
        return float(self.values[ours] @ other.values[theirs])


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """Several outputs of a text, computed together; None for those that were not asked for."""

    dense: Floats | None = None
    """The vector, shape (dimensions,)."""
    multi: Floats | None = None
    """A vector for each token, from a late-interaction head; shape (vectors, dimensions)."""
    sparse: SparseVector | None = None
    tokens: Floats | None = None
    """The hidden state of each token, shape (tokens, width)."""
