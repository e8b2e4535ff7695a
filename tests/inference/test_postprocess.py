"""What happens to rows behind the cache."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from edgeembed.inference.postprocess import scaled_rows, unit_rows

ROWS = np.random.default_rng(7).normal(size=(5, 48)).astype(np.float32) * 40


@pytest.mark.parametrize("dimensions", [None, 48, 17, 1])
def test_cut_rows_have_length_one_and_keep_their_direction(dimensions: int | None) -> None:
    unit = unit_rows(list(ROWS), dimensions)
    assert unit.dtype == np.float32 and unit.shape == (5, dimensions or 48)
    assert np.allclose(np.linalg.norm(unit.astype(np.float64), axis=1), 1.0, atol=1e-6)
    cut = ROWS[:, :dimensions].astype(np.float64)
    assert np.allclose(unit, cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_rows_whose_squares_leave_float32(scale: float) -> None:
    row = np.array([3.0, -4.0], dtype=np.float32) * np.float32(scale)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.allclose(unit_rows([row]), [[0.6, -0.8]], atol=1e-6)


def test_a_row_that_is_zero_after_the_cut_stays_zero() -> None:
    rows = [np.array([0, 0, 5], dtype=np.float32), np.array([0, 2, 5], dtype=np.float32)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert unit_rows(rows, 2).tolist() == [[0.0, 0.0], [0.0, 1.0]]


def test_layer_normalised_rows_are_normalised_whole_before_they_are_cut() -> None:
    rows = [row + np.float32(11.0) for row in ROWS]  # a mean that is not 0 is what makes the difference
    by_hand = []
    for row in np.array(rows, dtype=np.float64):
        normed = (row - row.sum() / 48) / np.sqrt(((row - row.sum() / 48) ** 2).sum() / 48 + 1e-5)
        by_hand.append(normed[:17] / np.sqrt((normed[:17] ** 2).sum()))
    unit = unit_rows(rows, 17, layer_norm=True)
    assert unit.dtype == np.float32 and unit.shape == (5, 17)
    assert np.allclose(unit, by_hand, atol=1e-6)
    assert np.abs(unit - unit_rows(rows, 17)).max() > 0.1


@pytest.mark.parametrize("dimensions", [None, 48])
def test_rows_that_are_not_cut_are_not_layer_normalised(dimensions: int | None) -> None:
    rows = list(ROWS + np.float32(11.0))
    assert np.array_equal(unit_rows(rows, dimensions, layer_norm=True), unit_rows(rows))


def test_a_row_of_equal_numbers_has_nothing_left_after_layer_normalising() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert unit_rows([np.full(8, 3.0, dtype=np.float32)], 4, layer_norm=True).tolist() == [[0.0] * 4]


def test_the_rows_themselves_stay_as_they_are() -> None:
    rows = [row.copy() for row in ROWS]  # the cache owns them
    unit_rows(rows)
    unit_rows(rows, 7, layer_norm=True)
    assert np.array_equal(rows, ROWS)


@pytest.mark.parametrize("norm", [1, 2, 3, 7])
def test_rows_are_divided_by_a_norm(norm: int) -> None:
    scaled = scaled_rows(list(ROWS), 17, norm).astype(np.float64)
    assert np.allclose((np.abs(scaled) ** norm).sum(axis=1), 1.0, atol=1e-6)
    assert np.allclose(scaled / np.linalg.norm(scaled, axis=1, keepdims=True), unit_rows(list(ROWS), 17), atol=1e-6)


def test_norms_that_are_none() -> None:
    assert np.array_equal(scaled_rows(list(ROWS), None, -1), ROWS)
    assert np.abs(scaled_rows(list(ROWS), None, 0)).max(axis=1) == pytest.approx([32760] * 5)
    large, zeros = np.full((2, 4), 1e30, dtype=np.float32), np.zeros((1, 4), dtype=np.float32)
    assert np.allclose(scaled_rows([*large, *zeros], None, 100), [[4**-0.01] * 4] * 2 + [[0.0] * 4]), "nothing overflows"


@pytest.mark.parametrize("norm", [-1, 0, 1, 2])
def test_whatever_the_norm_a_cut_row_has_the_same_direction(norm: int) -> None:
    """So a client that turns normalising off, and does it itself, gets the same vectors."""
    rows = list(ROWS + np.float32(11.0))
    scaled = scaled_rows(rows, 17, norm, layer_norm=True).astype(np.float64)
    unit = unit_rows(rows, 17, layer_norm=True)
    assert np.allclose(scaled / np.linalg.norm(scaled, axis=1, keepdims=True), unit, atol=1e-6)
