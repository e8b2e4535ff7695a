"""The canary texts reveal kernels that compute wrong rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from edgeembed.engine import canary
from edgeembed.engine.interface import Float32Row

Embed = Callable[[Sequence[str]], list[Float32Row]]


def good(texts: Sequence[str]) -> list[Float32Row]:
    """Rows that depend on the text alone, up to the rounding that quantised kernels have between batch shapes."""
    rounding = np.random.default_rng(len(texts))
    return [
        (np.random.default_rng(len(text)).normal(size=64) * (1 + 1e-3 * rounding.normal(size=64))).astype(np.float32)
        for text in texts
    ]


def spoiled(when: Callable[[Sequence[str]], bool], spoil: Callable[[list[Float32Row]], None]) -> Embed:
    def embed(texts: Sequence[str]) -> list[Float32Row]:
        rows = good(texts)
        if when(texts):
            spoil(rows)
        return rows

    return embed


def alone(texts: Sequence[str]) -> bool:
    return len(texts) == 1 and texts[0] == canary.TEXTS[2]


def together(texts: Sequence[str]) -> bool:
    return len(texts) > 1


def one_nan(rows: list[Float32Row]) -> None:
    rows[-1][5] = np.nan


def one_infinite(rows: list[Float32Row]) -> None:
    rows[-1][5] = -np.inf


def zeros(rows: list[Float32Row]) -> None:
    rows[-1][:] = 0.0


def exchanged(rows: list[Float32Row]) -> None:
    rows[0], rows[1] = rows[1], rows[0]


def opposite(rows: list[Float32Row]) -> None:
    rows[3] *= -1


@pytest.mark.parametrize(
    ("when", "spoil", "says"),
    [
        (alone, one_nan, r"text 2 computed alone gave a row that is not finite"),
        (alone, one_infinite, r"text 2 computed alone gave a row that is not finite"),
        (alone, zeros, r"text 2 computed alone gave a row that is all zeros"),
        (together, one_nan, r"text 4 computed in a batch gave a row that is not finite"),
        (together, zeros, r"text 4 computed in a batch gave a row that is all zeros"),
        (together, exchanged, r"text 0 computed alone and in a batch gave different rows: cosine"),
        (together, opposite, r"text 3 computed alone and in a batch gave different rows: cosine -0\.99"),
    ],
)
def test_wrong_rows_are_reported(
    when: Callable[[Sequence[str]], bool], spoil: Callable[[list[Float32Row]], None], says: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(canary.CanaryError, match=says):
            canary.check(spoiled(when, spoil), canary.TEXTS)


def test_an_engine_that_rounds_differently_passes() -> None:
    least = canary.check(good, canary.TEXTS)
    assert canary.LEAST_COSINE <= least < 1.0


def test_huge_unnormalised_rows_pass() -> None:
    """The squares of such numbers do not fit into float32."""

    def huge(texts: Sequence[str]) -> list[Float32Row]:
        return [row * np.float32(1e25) for row in good(texts)]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert canary.check(huge, canary.TEXTS) > canary.LEAST_COSINE
