"""Whose rows they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeembed.engine.interface import Float32Row
from edgeembed.upstream.identity import CANARY_TEXTS, IdentityStore, ProbeResult, least_cosine
from tests.fake_upstreams import other_row, unit_row

URL = "http://gpu-box:8000/v1"


def sight(rows: list[Float32Row]) -> ProbeResult:
    return ProbeResult(rows=rows, rider_tokens=3, context_tokens=512, encoding="base64")


def rows_like(cosine: float) -> list[Float32Row]:
    """Give the canary rows turned by so much."""
    found = []
    for text in CANARY_TEXTS:
        row, aside = unit_row(text).astype(np.float64), other_row(text).astype(np.float64)
        aside -= (aside @ row) * row
        found.append((cosine * row + np.sqrt(1 - cosine**2) * aside / np.linalg.norm(aside)).astype(np.float32))
    return found


@pytest.fixture
def book(tmp_path: Path) -> IdentityStore:
    return IdentityStore(tmp_path / "state" / "upstream.json")


def test_last_digits_may_differ_and_a_model_may_not(book: IdentityStore) -> None:
    first, _ = book.recognise(URL, "m", sight(rows_like(1.0)), 0.99)
    again, cosine = book.recognise(URL, "m", sight(rows_like(0.995)), 0.99)
    assert again.digest == first.digest and cosine == pytest.approx(0.995, abs=1e-4)
    other, _ = book.recognise(URL, "m", sight(rows_like(0.98)), 0.99)
    assert other.digest != first.digest


def test_small_steps_do_not_lead_away(book: IdentityStore) -> None:
    """What counts is the first sight: a server that drifts is another one when it is far from where it began."""
    first, _ = book.recognise(URL, "m", sight(rows_like(1.0)), 0.99)
    book.recognise(URL, "m", sight(rows_like(0.992)), 0.99)
    far, _ = book.recognise(URL, "m", sight(rows_like(0.97)), 0.99)
    assert far.digest != first.digest


def test_a_model_that_comes_back_or_moves_is_known_again(book: IdentityStore, tmp_path: Path) -> None:
    first, _ = book.recognise(URL, "m", sight([unit_row(text) for text in CANARY_TEXTS]), 0.99)
    other, _ = book.recognise(URL, "m", sight([other_row(text) for text in CANARY_TEXTS]), 0.99)
    reopened = IdentityStore(tmp_path / "state" / "upstream.json")
    last = reopened.last(URL, "m")
    assert last is not None and last.digest == other.digest != first.digest
    back, _ = reopened.recognise("http://new-box:8000/v1", "m", sight([unit_row(text) for text in CANARY_TEXTS]), 0.99)
    assert back.digest == first.digest
    assert reopened.last("http://new-box:8000/v1", "other name") is None
    renamed, _ = reopened.recognise(URL, "n", sight([unit_row(text) for text in CANARY_TEXTS]), 0.99)
    assert renamed.digest != first.digest, "the name is a part of it"


def test_what_is_kept_comes_back_as_it_was(book: IdentityStore) -> None:
    rows = [unit_row(text) * 3 for text in CANARY_TEXTS]
    made, _ = book.recognise(URL, "m", sight(rows), 0.99)
    kept = book.last(URL, "m")
    assert kept is not None
    np.testing.assert_array_equal(np.stack(kept.canary_rows), np.stack(rows))
    assert (kept.dimensions, kept.rider_tokens, kept.context_tokens, kept.normalised) == (16, 3, 512, False)
    assert made.digest == kept.digest


def test_a_damaged_file_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "upstream.json"
    path.write_text("{")
    book = IdentityStore(path)
    assert book.last(URL, "m") is None
    book.recognise(URL, "m", sight([unit_row(text) for text in CANARY_TEXTS]), 0.99)
    assert book.last(URL, "m") is not None
    assert "begins anew" in caplog.text


def test_rows_of_another_length_or_without_numbers_are_nobodys() -> None:
    row = unit_row("a")
    assert least_cosine([row], [row]) == pytest.approx(1.0)
    assert least_cosine([row], [row[:8]]) == 0.0
    assert least_cosine([row], [row * np.float32("nan")]) == 0.0
    assert least_cosine([row * 0], [row]) == 0.0
    assert least_cosine([], []) == 0.0
