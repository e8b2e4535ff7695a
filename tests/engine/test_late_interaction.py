"""Late interaction: how texts are read, which tokens get a vector, and MaxSim."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgeembed.engine import late_interaction
from edgeembed.engine.dense import DenseHead, DenseLayer
from edgeembed.engine.interface import Float32Matrix
from edgeembed.engine.late_interaction import (
    PREFIX,
    Expansion,
    LateInteraction,
    MultiHead,
    max_sim,
    read_late_interaction,
    read_multi_head,
)
from edgeembed.engine.reading import Reading, Tokens

FULL = LateInteraction(7, 8, Expansion(4, 6, attended=False), (5, 9), 0, "sum")


def values(keys: dict[str, str | int | bool]) -> Callable[[str], str | None]:
    """Return the values as the worker reads them: llama.cpp returns each as text."""
    texts = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in keys.items()}
    return texts.get


def ids(*numbers: int) -> Tokens:
    return np.array(numbers, dtype=np.int32)


def matrix(rows: int, columns: int, seed: int = 0) -> Float32Matrix:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def unit(rows: int, columns: int = 4, seed: int = 0) -> Float32Matrix:
    found = matrix(rows, columns, seed)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("reading", [FULL, LateInteraction(first=1, score="mean"), LateInteraction()])
def test_what_a_model_does_is_read_from_its_file_again(reading: LateInteraction) -> None:
    assert read_late_interaction(values(reading.metadata()), 10) == reading


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": "max"}, "expected sum or mean"),
        ({"query_marker": 10}, "query_marker' is '10', expected a number below 10"),
        ({"document_marker": -1}, "document_marker"),
        ({"expansion": 12}, "expansion"),
        ({"query_length": 9000}, "query_length"),
        ({"expansion_attended": 1}, "expansion_attended' as true or false"),
        ({"skipped": "1,,2"}, "ids of tokens below 10"),
        ({"skipped": "1,10"}, "ids of tokens below 10"),
        ({"first": 2}, "first"),
    ],
)
def test_malformed_keys_are_refused(changes: dict[str, str | int], message: str) -> None:
    keys = FULL.metadata() | {f"{PREFIX}.{key}": value for key, value in changes.items()}
    with pytest.raises(ValueError, match=message):
        read_late_interaction(values(keys), 10)


def test_a_head_needs_its_projection() -> None:
    projection = DenseHead([DenseLayer(matrix(3, 4))])
    keys = {**FULL.metadata(), **projection.metadata(PREFIX)}
    assert read_multi_head(values(keys), 4, 10).apply(matrix(2, 4), ids(1, 2), "document").shape == (2, 3)
    with pytest.raises(ValueError, match="missing"):
        read_multi_head(values(FULL.metadata()), 4, 10)


def test_a_query_is_filled_and_a_document_is_not() -> None:
    text = Reading(ids(1, 2, 3))
    query = FULL.expanded(text, "query", 100)
    assert query.tokens.tolist() == [1, 2, 3, 4, 4, 4]
    assert query.unattended == 3
    assert FULL.expanded(text, "query", 5).tokens.tolist() == [1, 2, 3, 4, 4], "the model's longest text"
    assert FULL.expanded(Reading(ids(*range(7))), "query", 100).unattended == 0, "longer than a filled query"
    assert FULL.expanded(text, "document", 100) is text
    attended = LateInteraction(expansion=Expansion(4, 6, attended=True)).expanded(text, "query", 100)
    assert (len(attended.tokens), attended.unattended) == (6, 0)


def test_tokens_without_a_vector() -> None:
    states, tokens, projection = matrix(4, 4), ids(1, 5, 2, 9), DenseHead([DenseLayer(matrix(3, 4))])
    head = MultiHead(FULL, projection)
    query, document = head.apply(states, tokens, "query"), head.apply(states, tokens, "document")
    assert np.allclose(np.linalg.norm(query, axis=1), 1, atol=1e-6)
    assert np.array_equal(document, query[[0, 2]]), "5 and 9 are skipped in documents"
    behind_first = MultiHead(LateInteraction(first=1, score="mean"), projection)
    assert np.array_equal(behind_first.apply(states, tokens, "query"), query[1:])


def test_max_sim(monkeypatch: pytest.MonkeyPatch) -> None:
    query, documents = unit(5), [unit(count, seed=count) for count in (1, 7, 3, 12, 2)]
    expected = [float((query @ document.T).max(axis=1).sum()) for document in documents]
    assert max_sim(query, documents, "sum") == pytest.approx(expected)
    assert max_sim(query, documents, "mean") == pytest.approx([value / 5 for value in expected])
    monkeypatch.setattr(late_interaction, "_AT_ONCE", 8)  # several products
    assert max_sim(query, documents, "sum") == pytest.approx(expected)
    assert max_sim(query, [documents[0], unit(0), documents[1]], "sum") == pytest.approx([expected[0], 0, expected[1]])
    assert max_sim(query, [], "sum") == []
