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
            canary.check(spoiled(when, spoil), canary.TEXTS, "F16")


def test_an_engine_that_rounds_differently_passes() -> None:
    least = canary.check(good, canary.TEXTS, "F16")
    assert canary.least_together("F16") <= least < 1.0


def turned(cosine: float) -> Embed:
    """Rows that in a batch have this cosine to those alone."""

    def embed(texts: Sequence[str]) -> list[Float32Row]:
        far = np.sqrt(1 / cosine**2 - 1) if len(texts) > 1 else 0.0
        return [np.array([1.0, far], dtype=np.float32) for _ in texts]

    return embed


# The lowest cosines of real files with sound kernels: Gemma 3 270M requantised to each type, and SmolLM2's Q4_1. The last
# three are not measured: the lowest of a type with K blocks is assumed for them.
SOUND = [
    ("all F32", 0.9999999), ("F16", 0.999999), ("BF16", 0.99997), ("Q8_0", 0.99863), ("Q6_K", 0.99686),
    ("Q5_K - Medium", 0.99671), ("Q4_K - Medium", 0.99681), ("Q4_1", 0.99942),
    ("IQ4_XS - 4.25 bpw", 0.9968), ("Q4_E", 0.9968), ("unknown, may not work (guessed)", 0.9968),
]  # fmt: skip


@pytest.mark.parametrize(("file_type", "cosine"), SOUND)
def test_rounding_of_activations_is_allowed_for_by_type(file_type: str, cosine: float) -> None:
    assert canary.check(turned(cosine), canary.TEXTS, file_type) == pytest.approx(cosine, abs=1e-6)


@pytest.mark.parametrize("file_type", [file_type for file_type, _ in SOUND])
def test_a_wrong_kernel_is_caught_at_every_type(file_type: str) -> None:
    with pytest.raises(canary.CanaryError, match=r"cosine 0\.98.*expected at least 0\.99.* for "):
        canary.check(turned(0.9899), canary.TEXTS, file_type)


@pytest.mark.parametrize("file_type", ["all F32", "F16", "BF16"])
def test_weights_that_are_not_quantised_leave_no_room_for_rounding(file_type: str) -> None:
    with pytest.raises(canary.CanaryError, match=r"expected at least 0\.999 "):
        canary.check(turned(0.9987), canary.TEXTS, file_type)


def test_huge_unnormalised_rows_pass() -> None:
    """The squares of such numbers do not fit into float32."""

    def huge(texts: Sequence[str]) -> list[Float32Row]:
        return [row * np.float32(1e25) for row in good(texts)]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert canary.check(huge, canary.TEXTS, "F16") > canary.least_together("F16")


# --- heads ------------------------------------------------------------------------------------------------------------


def _sparse(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    ids = random.choice(30_000, 40, replace=False)
    return np.stack([ids, random.uniform(0.1, 3, 40)], axis=1).astype(np.float32)


def test_sketches_of_other_words_are_not_alike() -> None:
    one, other = (canary.sketch("sparse", _sparse(seed)) for seed in (1, 2))
    assert canary.cosine(one, canary.sketch("sparse", _sparse(1)[::-1])) > 0.999999, "the order of words does not matter"
    assert abs(canary.cosine(one, other)) < 0.5


def test_a_head_that_computes_something_else_is_found() -> None:
    parts = {text.text: _sparse(number) for number, text in enumerate(canary.HEAD_TEXTS)}
    stored = canary.encode_rows([canary.sketch("sparse", part) for part in parts.values()])
    canary.check_head("sparse", stored, lambda text: parts[text.text], "Q8_0")
    canary.check_head("sparse", stored, lambda text: None, "Q8_0")  # the settings allow shorter texts only
    scaled = {text: part * [1, 1.3] for text, part in parts.items()}
    canary.check_head("sparse", stored, lambda text: scaled[text.text], "Q8_0")
    with pytest.raises(canary.CanaryError, match="'sparse' of canary text 0 is too far"):
        canary.check_head("sparse", stored, lambda text: parts[text.text] + [1, 0], "Q8_0")
    with pytest.raises(canary.CanaryError, match="'sparse' of canary text 0 is too far"):
        canary.check_head("sparse", stored, lambda text: np.empty((0, 2), np.float32), "Q8_0")
    with pytest.raises(canary.CanaryError, match="damaged"):
        canary.check_head("sparse", "AAAA", lambda text: parts[text.text], "Q8_0")
