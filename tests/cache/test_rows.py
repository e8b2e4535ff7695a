"""Bytes of a row decode to the same row, or to nothing."""

from __future__ import annotations

import numpy as np
import pytest

from edgeembed.cache.rows import CachedRow, decode_row, encode_row, is_vector

KEY = bytes(range(32))
ROW = CachedRow(np.array([1.5, -2.25e-30, 3e38], dtype=np.float32), 77, 0.25, 1_800_000_000)


@pytest.mark.parametrize("dimensions", [1, 384, 4096])
def test_a_row_is_decoded_as_it_was_encoded(dimensions: int) -> None:
    row = CachedRow(np.random.default_rng(1).normal(size=dimensions).astype(np.float32), 2**31, 1.5, 1_800_000_000)
    back = decode_row(KEY, encode_row(KEY, row))
    assert back is not None
    assert (back.tokens, back.seconds, back.created) == (2**31, 1.5, 1_800_000_000)
    assert back.vector.base is None, "it does not keep the encoded bytes in memory"
    assert back.vector.dtype == np.float32 and np.array_equal(back.vector, row.vector)


def test_the_tokens_of_a_text_that_was_cut_are_kept() -> None:
    back = decode_row(KEY, encode_row(KEY, ROW._replace(full=90)))
    assert back is not None and (back.tokens, back.full, back.vector.tolist()) == (77, 90, ROW.vector.tolist())


def test_views_of_a_matrix_are_encoded_correctly() -> None:
    """Rows of a batch are views, not always contiguous."""
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    for view in (matrix[1], matrix[:, 1], matrix[1, ::-1]):
        back = decode_row(KEY, encode_row(KEY, CachedRow(view, 3)))
        assert back is not None and back.vector.tolist() == view.tolist()


def test_every_single_flipped_bit_is_noticed() -> None:
    value = encode_row(KEY, ROW)
    assert decode_row(KEY, value) is not None
    for bit in range(8 * len(value)):
        damaged = bytearray(value)
        damaged[bit // 8] ^= 1 << bit % 8
        assert decode_row(KEY, bytes(damaged)) is None, f"bit {bit}"


def test_every_flipped_bit_of_the_key_is_noticed() -> None:
    value = encode_row(KEY, ROW)
    for bit in range(8 * len(KEY)):
        other = bytearray(KEY)
        other[bit // 8] ^= 1 << bit % 8
        assert decode_row(bytes(other), value) is None, f"bit {bit}"


def test_truncated_lengthened_and_foreign_values_are_noticed() -> None:
    value = encode_row(KEY, ROW)
    for length in range(len(value)):
        assert decode_row(KEY, value[:length]) is None, f"cut to {length}"
    for foreign in (value + b"\0", value + value, b"", bytes(64), None, "text", 5):
        assert decode_row(KEY, foreign) is None


@pytest.mark.parametrize("wrong", [[1.0, float("nan"), 2.0], [float("inf"), 1.0], [1.0, -float("inf")], [0.0, -0.0], []])
def test_a_row_that_is_no_vector_does_not_come_back_whatever_its_checksum_says(wrong: list[float]) -> None:
    row = np.array(wrong, dtype=np.float32)
    assert not is_vector(row)
    assert decode_row(KEY, encode_row(KEY, CachedRow(row, 3))) is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [3e38, -3e38, 1e-30, 1e-45, 1.0])
def test_a_vector_whose_square_exceeds_float32_is_a_vector(value: float) -> None:
    row = np.array([0.0] * 383 + [value], dtype=np.float32)
    assert is_vector(row) and is_vector(row, (384,)) and is_vector(row, (1, 384))
    assert not is_vector(row, (383,))


def test_times_out_of_range_are_clamped() -> None:
    back = decode_row(KEY, encode_row(KEY, CachedRow(ROW.vector, 1, seconds=1e6, created=-5)))
    assert back is not None and (back.seconds, back.created) == (4294.967295, 0)
