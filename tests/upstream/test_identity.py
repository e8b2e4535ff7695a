"""The identity of an upstream model: its rows of the canary texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeembed.engine.interface import Float32Row
from edgeembed.upstream.identity import CANARY_TEXTS, IdentityStore, ProbeResult, least_cosine
from tests.fake_upstreams import other_row, unit_row

URL = "http://gpu-box:8000/v1"


def probed(rows: list[Float32Row]) -> ProbeResult:
    return ProbeResult(rows=rows, canary_tokens=[3, 4, 5, 6, 7], context_tokens=512, encoding="base64")


def rows_like(cosine: float) -> list[Float32Row]:
    """Return rows with this cosine to the canary rows."""
    found = []
    for text in CANARY_TEXTS:
        row, aside = unit_row(text).astype(np.float64), other_row(text).astype(np.float64)
        aside -= (aside @ row) * row
        found.append((cosine * row + np.sqrt(1 - cosine**2) * aside / np.linalg.norm(aside)).astype(np.float32))
    return found


@pytest.fixture
def identities(tmp_path: Path) -> IdentityStore:
    return IdentityStore(tmp_path / "state" / "upstream-identities.json")


def test_rows_may_differ_in_the_last_digits_but_not_in_the_model(identities: IdentityStore) -> None:
    first, _ = identities.recognise(URL, "m", probed(rows_like(1.0)), 0.99)
    again, cosine = identities.recognise(URL, "m", probed(rows_like(0.995)), 0.99)
    assert again.digest == first.digest and cosine == pytest.approx(0.995, abs=1e-4)
    other, _ = identities.recognise(URL, "m", probed(rows_like(0.98)), 0.99)
    assert other.digest != first.digest


def test_a_slow_drift_ends_in_another_identity(identities: IdentityStore) -> None:
    """Rows are compared with the first ones of an identity, not with the last ones."""
    first, _ = identities.recognise(URL, "m", probed(rows_like(1.0)), 0.99)
    identities.recognise(URL, "m", probed(rows_like(0.992)), 0.99)
    far, _ = identities.recognise(URL, "m", probed(rows_like(0.97)), 0.99)
    assert far.digest != first.digest


def test_a_model_that_comes_back_or_moves_keeps_its_identity(identities: IdentityStore, tmp_path: Path) -> None:
    first, _ = identities.recognise(URL, "m", probed([unit_row(text) for text in CANARY_TEXTS]), 0.99)
    other, _ = identities.recognise(URL, "m", probed([other_row(text) for text in CANARY_TEXTS]), 0.99)
    reopened = IdentityStore(tmp_path / "state" / "upstream-identities.json")
    last = reopened.last(URL, "m")
    assert last is not None and last.digest == other.digest != first.digest
    back, _ = reopened.recognise("http://new-box:8000/v1", "m", probed([unit_row(text) for text in CANARY_TEXTS]), 0.99)
    assert back.digest == first.digest
    assert reopened.last("http://new-box:8000/v1", "other name") is None
    renamed, _ = reopened.recognise(URL, "n", probed([unit_row(text) for text in CANARY_TEXTS]), 0.99)
    assert renamed.digest != first.digest, "the name is part of the identity"


def test_identities_survive_the_file(identities: IdentityStore) -> None:
    rows = [unit_row(text) * 3 for text in CANARY_TEXTS]
    made, _ = identities.recognise(URL, "m", probed(rows), 0.99)
    kept = identities.last(URL, "m")
    assert kept is not None
    np.testing.assert_array_equal(np.stack(kept.canary_rows), np.stack(rows))
    assert (kept.dimensions, kept.canary_tokens, kept.context_tokens, kept.normalised) == (16, [3, 4, 5, 6, 7], 512, False)
    assert made.digest == kept.digest


@pytest.mark.parametrize("damaged", [b"{", b'[{"url":"\xff"}]', b"[" * 100_000])
def test_a_damaged_file_is_replaced(damaged: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "upstream-identities.json"
    path.write_bytes(damaged)
    identities = IdentityStore(path)
    assert identities.last(URL, "m") is None
    identities.recognise(URL, "m", probed([unit_row(text) for text in CANARY_TEXTS]), 0.99)
    assert identities.last(URL, "m") is not None
    assert "is found out again" in caplog.text


def test_rows_of_another_length_or_without_numbers_match_nothing() -> None:
    row = unit_row("a")
    assert least_cosine([row], [row]) == pytest.approx(1.0)
    assert least_cosine([row], [row[:8]]) == 0.0
    assert least_cosine([row], [row * np.float32("nan")]) == 0.0
    assert least_cosine([row * 0], [row]) == 0.0
    assert least_cosine([], []) == 0.0
