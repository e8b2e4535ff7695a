"""The first start on a machine without models, configuration and access to the hub."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.e2e.daemon import running

pytestmark = pytest.mark.slow

NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9"}  # the discard port, where nothing listens


def test_without_the_hub_the_starter_model_is_used_and_not_chosen_for_ever(home: Path) -> None:
    with running(home=home, **NO_HUB) as daemon:
        assert "127.0.0.1 cannot be reached" in daemon.log
        assert "The starter model all-minilm-l6-v2:Q8_0 is used until the next start" in daemon.log
        assert daemon.embed("hello").shape == (1, 384)
        assert daemon.get("/health") == (200, {"status": "ok", "model": "all-minilm-l6-v2", "mode": "cpu", "demotions": []})
    assert not (home / "config.toml").exists()
    # The second start downloads nothing.
    with running("--offline", home=home) as daemon:
        assert "cannot be reached" not in daemon.log
        assert daemon.get("/v1/models")[1]["data"][0]["id"] == "all-minilm-l6-v2"


def test_vectors_equal_those_of_sentence_transformers(home: Path) -> None:
    rows = np.load(Path(__file__).parents[1] / "reference" / "minilm_rows.npz")
    texts, expected = [str(text) for text in rows["texts"]], rows["rows"]
    # Some texts are longer than its makers use it for.
    with running("--model", "all-minilm-l6-v2:F32", "--context-tokens", "512", home=home, **NO_HUB) as daemon:
        got = daemon.embed(texts)
    cosines = (got * expected).sum(1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() >= 0.9999
    assert np.allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
