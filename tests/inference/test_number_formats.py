"""Rows in the types and bytes that clients ask for."""

from __future__ import annotations

import base64
from typing import get_args

import numpy as np
import pytest

from edgeembed.inference.number_formats import Dtype, base64_rows, quantised, row_bytes
from edgeembed.inference.postprocess import unit_rows

ROWS = unit_rows(list(np.random.default_rng(7).normal(size=(300, 384)).astype(np.float32)))
DTYPES: tuple[Dtype, ...] = get_args(Dtype)


def test_base64_holds_little_endian_floats_of_each_row() -> None:
    encoded = base64_rows(ROWS)
    assert [base64.b64decode(text, validate=True) for text in encoded] == [row.astype("<f4").tobytes() for row in ROWS]
    assert base64_rows(ROWS.astype(">f4")) == encoded


def test_int8_ranks_as_floats_do_by_dot_product_and_by_cosine() -> None:
    int8 = quantised(ROWS, "int8").astype(np.float64)
    cosines = ROWS @ ROWS.T
    products = int8 @ int8.T
    lengths = np.linalg.norm(int8, axis=1)
    assert np.abs(products / np.outer(lengths, lengths) - cosines).max() < 0.01
    assert np.corrcoef(products.ravel(), cosines.ravel())[0, 1] > 0.999
    assert lengths.max() / lengths.min() < 1.01, "all rows have the same scale"


def test_int8_clips_a_number_that_is_out_of_range() -> None:
    row = np.zeros((1, 384), dtype=np.float32)
    row[0, :2] = 0.8, -0.6
    assert quantised(row, "int8")[0, :3].tolist() == [127, -127, 0]
    assert quantised(row, "uint8")[0, :3].tolist() == [255, 1, 128]


def test_signs_are_packed_eight_in_a_byte_the_first_in_the_highest_bit() -> None:
    row = np.array([[1, -1, 1, 1, -1, -1, -1, 1, 1, -1]], dtype=np.float32)
    assert quantised(row, "ubinary").tolist() == [[0b10110001, 0b10000000]]
    assert quantised(row, "binary").tolist() == [[0b10110001 - 128, 0]]


def test_bfloat16_is_the_upper_half_of_float32_rounded_to_even() -> None:
    numbers = np.array([[1.0, -2.5, 1.0 + 2**-8, 1.0 + 3 * 2**-8, 1.0 + 2**-8 + 2**-20]], dtype=np.float32)
    assert quantised(numbers, "bfloat16").tolist() == [[1.0, -2.5, 1.0, 1.0 + 2**-6, 1.0 + 2**-7]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_hold_the_numbers_in_either_order(dtype: Dtype) -> None:
    numbers = quantised(ROWS[:4], dtype)
    little, big = row_bytes(ROWS[:4], dtype), row_bytes(ROWS[:4], dtype, "big")
    size = 2 if dtype == "bfloat16" else numbers.dtype.itemsize
    for row, low, high in zip(numbers, little, big, strict=True):
        assert len(low) == len(row) * size
        swapped = np.frombuffer(high, dtype=f"V{size}")[::-1].tobytes()[::-1]
        assert b"".join(low[i : i + size][::-1] for i in range(0, len(low), size)) == high and len(swapped) == len(high)
        if dtype != "bfloat16":
            assert np.array_equal(np.frombuffer(low, dtype=row.dtype.newbyteorder("<")), row)
