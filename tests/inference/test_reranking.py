"""Scores from vectors of two models, which aliases with an input type make possible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeembed.engine.interface import Row
from edgeembed.errors import ModelReplacedError, RequestError
from edgeembed.inference.requests import EmbedResult
from edgeembed.inference.reranking import result_of_vectors
from edgeembed.models.registry import ServedModel


def result(name: str, digest: str, *rows: list[float]) -> EmbedResult:
    model = ServedModel(name, digest, path=Path(f"/{name}.gguf"))
    found = [Row(np.array(row, dtype=np.float32), 3) for row in rows]
    return EmbedResult(model, [b""] * len(found), found, None, 0)


def test_queries_and_documents_may_have_a_model_each() -> None:
    found = result_of_vectors(result("queries", "a", [1, 0]), result("passages", "b", [0, 2], [3, 0]))
    assert found.scores == [0.0, 1.0]
    assert found.model.name == "passages"


def test_a_model_that_was_replaced_between_them_is_noticed() -> None:
    with pytest.raises(ModelReplacedError):
        result_of_vectors(result("one", "a", [1, 0]), result("one", "b", [0, 2]))


def test_models_whose_rows_have_other_lengths_cannot_be_compared() -> None:
    with pytest.raises(RequestError, match="mean queries and passages, whose vectors have different lengths"):
        result_of_vectors(result("queries", "a", [1, 0]), result("passages", "b", [0, 2, 1]))
