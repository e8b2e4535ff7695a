"""What happens to rows behind the cache: cut, normalise, encode."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeembed.engine.protocol import Float32Row

Matrix = npt.NDArray[np.float32]


def unit_rows(rows: Sequence[Float32Row], dimensions: int | None = None) -> Matrix:
    """Cut each row to its first `dimensions` numbers and scale it to length 1, float32, shape (rows, dimensions).

    Cutting comes first: a cut unit vector is no unit vector (Matryoshka Representation Learning, Kusupati et al. 2022). A
    row whose first `dimensions` numbers are all zero stays zero.
    """
    matrix = np.stack([row[:dimensions] for row in rows]).astype(np.float32, copy=False)
    # float64 sums: the squares of large unnormalised rows lose digits in float32.
    norms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
    norms[norms == 0.0] = 1.0
    unit: Matrix = (matrix / norms[:, None]).astype(np.float32)
    return unit


def base64_rows(matrix: Matrix) -> list[str]:
    """Encode each row as base64 of little-endian float32, as OpenAI's `encoding_format: base64` does."""
    return [base64.b64encode(row.tobytes()).decode("ascii") for row in matrix.astype("<f4", copy=False)]
