"""Rows after the cache: cut and normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeembed.engine.interface import Float32Row

Matrix = npt.NDArray[np.float32]

LAYER_NORM_EPSILON = 1e-5
"""The default of torch's `layer_norm`, as model cards use it."""


def layer_normed(matrix: Matrix) -> Matrix:
    """Return rows with mean 0 and variance 1 (Layer Normalization, Ba et al. 2016; without gain and bias), float32."""
    centred = matrix - matrix.mean(axis=1, keepdims=True, dtype=np.float64)
    variance = np.square(centred).mean(axis=1, keepdims=True)
    normed: Matrix = (centred / np.sqrt(variance + LAYER_NORM_EPSILON)).astype(np.float32)
    return normed


def cut_rows(rows: Sequence[Float32Row], dimensions: int | None = None, *, layer_norm: bool = False) -> Matrix:
    """Return rows cut to their first `dimensions` numbers, float32, shape (rows, dimensions); a single one is not copied.

    layer_norm: rows that are cut are layer-normalised before, as some models were trained; rows that are not cut never are.
    """
    if layer_norm and dimensions is not None and any(len(row) > dimensions for row in rows):
        return layer_normed(cut_rows(rows))[:, :dimensions]
    if len(rows) == 1:
        return rows[0][None, :dimensions].astype(np.float32, copy=False)
    return np.stack([row[:dimensions] for row in rows]).astype(np.float32, copy=False)


def unit_rows(rows: Sequence[Float32Row], dimensions: int | None = None, *, layer_norm: bool = False) -> Matrix:
    """Return rows cut to their first `dimensions` numbers, then scaled to length 1, float32, shape (rows, dimensions).

    Cut first: a cut unit vector has not length 1 (Matryoshka Representation Learning, Kusupati et al. 2022). A row whose
    first `dimensions` numbers are all zero stays zero. layer_norm: see `cut_rows`.
    """
    matrix = cut_rows(rows, dimensions, layer_norm=layer_norm)
    # float64 sums: the squares of large unnormalised rows lose digits in float32.
    norms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
    norms[norms == 0.0] = 1.0
    unit: Matrix = (matrix / norms[:, None]).astype(np.float32)
    return unit


def scaled_rows(rows: Sequence[Float32Row], dimensions: int | None, norm: int, *, layer_norm: bool = False) -> Matrix:
    """Return rows cut to their first `dimensions` numbers, then divided by a norm, float32, shape (rows, dimensions).

    norm: 1, 2 or more for the p-norm; 0 scales the largest magnitude to 32,760; -1 leaves the numbers as they are. These are
    the values of llama.cpp's `embd_normalize`. A row of zeros stays zero. layer_norm: see `cut_rows`.
    """
    matrix = cut_rows(rows, dimensions, layer_norm=layer_norm)
    if norm < 0:
        return matrix
    magnitudes = np.abs(matrix).astype(np.float64)
    largest = magnitudes.max(axis=1, keepdims=True)
    largest[largest == 0.0] = 1.0
    # Of the numbers divided by the largest one: high powers of large numbers are infinite.
    sums = largest * ((magnitudes / largest) ** norm).sum(axis=1, keepdims=True) ** (1 / norm) if norm else largest / 32760.0
    sums[sums == 0.0] = 1.0
    scaled: Matrix = (matrix / sums).astype(np.float32)
    return scaled


def sparse_vector(
    pairs: Matrix, most: int | None = None, least: float = 0.0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the token ids, ascending, and the weights of a sparse vector. pairs: ids and weights, shape (tokens, 2).

    most: keep only so many, the heaviest. least: leave out lower weights.
    """
    ids, weights = pairs[:, 0].astype(np.int64), np.ascontiguousarray(pairs[:, 1], dtype=np.float32)
    kept = np.flatnonzero(weights >= least) if least else np.arange(len(ids))
    if most is not None and len(kept) > most:
        kept = kept[np.argsort(-weights[kept], kind="stable")[:most]]
    kept = kept[np.argsort(ids[kept], kind="stable")]
    return ids[kept], weights[kept]
