"""Packed rows: several outputs of a text as one array."""

from __future__ import annotations

import numpy as np
import pytest

from edgeembed.engine.interface import Float32Matrix, Float32Row, Output
from edgeembed.engine.outputs import is_packed, ordered, pack, parse_outputs, unpack
from edgeembed.engine.token_heads import PooledHead


def test_a_packed_row_holds_each_output_as_it_was() -> None:
    dense, multi = np.ones((1, 4), np.float32), np.arange(6, dtype=np.float32).reshape(3, 2)
    sparse = np.array([[250_001, 0.5], [7, 2.25]], np.float32)
    row = pack({"sparse": sparse, "dense": dense, "multi": multi})
    assert row.dtype == np.float32
    found = unpack(row, ("dense", "multi", "sparse"))
    assert list(found) == ["dense", "multi", "sparse"]
    for output, expected in (("dense", dense), ("multi", multi), ("sparse", sparse)):
        assert np.array_equal(found[output], expected)  # type: ignore[index]


def test_an_output_without_rows_is_no_defect() -> None:
    """A text of special tokens alone has no weights; its row is not zero, which would count as wrong."""
    row = pack({"sparse": np.empty((0, 2), np.float32)})
    assert row.any()
    assert unpack(row, ("sparse",))["sparse"].shape == (0, 2)


@pytest.mark.parametrize(
    "row",
    [[], [1], [2, 2, 1, 1, 1], [1, 2, 1, 1, 1], [-1, 2, 1], [np.nan, 2], [1e30, 1e30], [0.5, -0.5]],
)
def test_what_is_no_packed_row_is_refused(row: list[float]) -> None:
    """A worker that was taken over, or a program that writes to the cache, may have made it."""
    with pytest.raises(ValueError, match="a packed row"):
        unpack(np.array(row, dtype=np.float32), ("multi",))


def test_packed_rows_are_distinguished_from_dense_ones() -> None:
    parts: dict[Output, Float32Matrix] = {"multi": np.ones((3, 4), np.float32), "sparse": np.empty((0, 2), np.float32)}
    assert is_packed(pack(parts))
    assert not is_packed(pack(parts)[:-1])
    for row in ([], [1.0], [0.5] * 8, [1.0] * 384, [-1.0, -2.0, 3.0], [np.inf, 1.0], [np.nan, 1.0], [1e30, 1e30]):
        assert not is_packed(np.array(row, dtype=np.float32)), row


def test_outputs_are_read_from_metadata_in_one_order() -> None:
    assert parse_outputs(None) == ("dense",)
    assert parse_outputs("sparse, multi,dense") == ("dense", "multi", "sparse")
    for wrong in ("", "tokens", "dense,scores"):
        with pytest.raises(ValueError, match="expected dense, multi, sparse"):
            parse_outputs(wrong)
    assert ordered(["tokens", "dense", "tokens"]) == ("dense", "tokens")


@pytest.mark.parametrize(("pooling", "expected"), [("mean", [2.0, 3.0]), ("cls", [0.0, 1.0]), ("last", [4.0, 5.0])])
def test_a_dense_row_is_pooled_as_the_model_does(pooling: str, expected: Float32Row) -> None:
    states = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert PooledHead(pooling).apply(states, np.arange(3, dtype=np.int32), "").tolist() == [expected]
