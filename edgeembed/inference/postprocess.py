"""Rows after the cache: cut, normalised, encoded."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeembed.engine.interface import Float32Row

Matrix = npt.NDArray[np.float32]

LAYER_NORM_EPSILON = 1e-5
"""The default of torch's `layer_norm`, as model cards use it."""


def raw_rows(rows: Sequence[Float32Row], dimensions: int | None = None) -> Matrix:
    """Return rows cut to their first `dimensions` numbers, not normalised, float32, shape (rows, dimensions)."""
    return np.stack([row[:dimensions] for row in rows]).astype(np.float32, copy=False)


def layer_normed(matrix: Matrix) -> Matrix:
    """Return rows with mean 0 and variance 1 (Layer Normalization, Ba et al. 2016; without gain and bias), float32."""
    centred = matrix - matrix.mean(axis=1, keepdims=True, dtype=np.float64)
    variance = np.square(centred).mean(axis=1, keepdims=True)
    normed: Matrix = (centred / np.sqrt(variance + LAYER_NORM_EPSILON)).astype(np.float32)
    return normed


def unit_rows(rows: Sequence[Float32Row], dimensions: int | None = None, *, layer_norm: bool = False) -> Matrix:
    """Return rows cut to their first `dimensions` numbers, then scaled to length 1, float32, shape (rows, dimensions).

    Cut first: a cut unit vector has not length 1 (Matryoshka Representation Learning, Kusupati et al. 2022). A row whose
    first `dimensions` numbers are all zero stays zero. layer_norm: rows that are cut are layer-normalised before, as some
    models were trained; rows that are not cut never are.
    """
    if layer_norm and dimensions is not None and any(len(row) > dimensions for row in rows):
        matrix = layer_normed(raw_rows(rows))[:, :dimensions]
    else:
        matrix = raw_rows(rows, dimensions)
    # float64 sums: the squares of large unnormalised rows lose digits in float32.
    norms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
    norms[norms == 0.0] = 1.0
    unit: Matrix = (matrix / norms[:, None]).astype(np.float32)
    return unit


def base64_rows(matrix: Matrix) -> list[str]:
    """Return each row as base64 of little-endian float32, as OpenAI's `encoding_format: base64` does."""
    return [base64.b64encode(row.tobytes()).decode("ascii") for row in matrix.astype("<f4", copy=False)]


def int8_rows(matrix: Matrix) -> npt.NDArray[np.int8]:
    """Return rows scaled so that the largest magnitude is 127, and rounded; the cosine of two rows hardly changes."""
    largest = np.abs(matrix).max(axis=1, keepdims=True)
    largest[largest == 0.0] = 1.0
    scaled: npt.NDArray[np.int8] = np.rint(matrix * (127.0 / largest)).astype(np.int8)
    return scaled


def sign_bits(matrix: Matrix) -> npt.NDArray[np.uint8]:
    """Return the signs of each row, eight in a byte, the first in the highest bit, padded with zeros."""
    return np.packbits(matrix > 0, axis=1)
