"""Sparse heads without llama.cpp: which tokens get which weights, and how their keys are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from edgeembed.engine import sparse
from edgeembed.engine.interface import Float32Matrix, Role
from edgeembed.engine.sparse import MaskedLmWeights, Pooling, TextTokensHead, VocabularyHead, read_sparse_head

WIDTH, VOCABULARY = 4, 6
IDS = np.array([1, 5, 3, 5, 2], dtype=np.int32)


class Identity:
    """Logits that are given: the hidden states are those of the first tokens of the vocabulary."""

    def __init__(self, most: int = sparse.CHUNK_TOKENS) -> None:
        self.most = most

    def logits(self, states: Float32Matrix) -> Iterator[Float32Matrix]:
        for first in range(0, len(states), self.most):
            yield states[first : first + self.most]

    def close(self) -> None:
        pass


def weights(bias: object = 0.0) -> MaskedLmWeights:
    return MaskedLmWeights(
        weight=np.eye(WIDTH, dtype=np.float32),
        weight_bias=np.zeros(WIDTH, dtype=np.float32),
        norm=np.ones(WIDTH, dtype=np.float32),
        norm_bias=None,
        epsilon=1e-12,
        bias=np.broadcast_to(np.asarray(bias, dtype=np.float32), VOCABULARY).copy(),
    )


def vocabulary_head(pooling: Pooling = "max", logarithms: int = 1, chunk: int = 2, bias: object = 0.0) -> VocabularyHead:
    return VocabularyHead(weights(bias), pooling, logarithms, make=lambda _: Identity(chunk))


def as_dict(pairs: Float32Matrix) -> dict[int, float]:
    assert pairs.dtype == np.float32
    assert pairs.shape == (len(pairs), 2)
    return {int(number): float(weight) for number, weight in pairs}


def test_a_token_of_the_text_has_the_largest_of_its_weights_and_excluded_ones_have_none() -> None:
    states = np.array([[9, 0], [1, 0], [-3, 0], [4, 0], [2, 0]], dtype=np.float32)
    head = TextTokensHead(np.array([1, 7], dtype=np.float32), 0.5, excluded=(1, 0))
    assert as_dict(head.apply(states, IDS, "")) == {2: 2.5, 5: 4.5}


def test_a_text_of_excluded_tokens_alone_has_no_weights() -> None:
    head = TextTokensHead(np.ones(2, dtype=np.float32), 1.0, excluded=(1, 2))
    assert head.apply(np.ones((2, 2), dtype=np.float32), np.array([1, 2], dtype=np.int32), "").shape == (0, 2)


def test_the_vocabulary_has_the_logarithm_of_the_largest_logit_with_its_bias() -> None:
    logits = np.array([[1, -5, 0, 2, 0, 0], [3, -1, 0, 1, 0, 0], [2, -2, 0.5, 0, 0, 0]], dtype=np.float32)
    found = as_dict(vocabulary_head(bias=[0, 0, 0, 0, 1, -1]).apply(logits, IDS[:3], "document"))
    assert found == pytest.approx({0: np.log1p(3), 2: np.log1p(0.5), 3: np.log1p(2), 4: np.log1p(1)})


def test_the_sum_is_over_the_logarithms_of_all_tokens() -> None:
    logits = np.array([[1, -5, 0, 2, 0, 0], [3, 1, 0, 1, 0, 0], [2, -2, 0, 0, 0, 0]], dtype=np.float32)
    found = as_dict(vocabulary_head("sum").apply(logits, IDS[:3], ""))
    assert found == pytest.approx({0: np.log1p([1, 3, 2]).sum(), 1: np.log1p(1), 3: np.log1p([2, 1]).sum()}, rel=1e-6)


def test_two_logarithms() -> None:
    logits = np.array([[3, 0, 0, 0, 0, 0]], dtype=np.float32)
    assert as_dict(vocabulary_head(logarithms=2).apply(logits, IDS[:1], "")) == pytest.approx({0: np.log1p(np.log1p(3))})


def test_a_text_in_pieces_has_the_weights_of_the_whole() -> None:
    logits = np.random.default_rng(0).standard_normal((9, VOCABULARY)).astype(np.float32)
    whole, pieces = (vocabulary_head(chunk=chunk).apply(logits, IDS, "") for chunk in (64, 2))
    assert np.array_equal(whole, pieces)


def test_a_text_has_at_most_the_largest_weights_of_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "MOST_WEIGHTS", 3)
    logits = np.array([[1, 4, 2, 3, 2, 2]], dtype=np.float32)
    assert list(as_dict(vocabulary_head().apply(logits, IDS[:1], ""))) == [1, 2, 3]


def test_weights_that_are_no_numbers_are_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker refuses a row with one; without them, a fault would look like a text with few weights."""
    states = np.full((3, VOCABULARY), np.nan, dtype=np.float32)
    states[:, 0] = 1
    for most in (sparse.MOST_WEIGHTS, 3):
        monkeypatch.setattr(sparse, "MOST_WEIGHTS", most)
        for pooling in ("max", "sum"):
            assert np.isnan(vocabulary_head(pooling).apply(states, IDS[:3], "")).any()
    head = TextTokensHead(np.ones(VOCABULARY, dtype=np.float32), 0.0, excluded=())
    with np.errstate(invalid="ignore"):
        assert np.isnan(head.apply(states, IDS[:3], "")).any()


@pytest.mark.parametrize(("role", "free"), [("query", True), ("document", False), ("", False)])
def test_queries_with_weights_of_their_own_need_no_hidden_states(role: Role, free: bool) -> None:
    table = np.array([0, 0, 7, 0, 5, 2], dtype=np.float32)
    head = VocabularyHead(weights(), "max", 1, table, lambda _: Identity())
    assert head.needs_states(role) is not free
    assert vocabulary_head().needs_states(role)
    if free:
        assert as_dict(head.apply(np.empty((0, WIDTH), dtype=np.float32), IDS, role)) == {2: 7.0, 5: 2.0}


HEADS = {
    "text": TextTokensHead(np.arange(WIDTH, dtype=np.float32), -0.25, (0, 2, 5)),
    "vocabulary": VocabularyHead(weights(0.5), "sum", 2, np.arange(VOCABULARY, dtype=np.float32)),
    "without optional parts": VocabularyHead(replace(weights(), weight_bias=None), "max", 1),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_head_is_read_as_it_was_written(head: sparse.SparseHead) -> None:
    keys = {key: str(value) for key, value in head.metadata().items()}
    read = read_sparse_head(keys.get, WIDTH, VOCABULARY, lambda _: Identity())
    assert {key: str(value) for key, value in read.metadata().items()} == keys


@pytest.mark.parametrize(
    ("head", "key", "value", "message"),
    [
        ("text", "edgeembed.sparse.kind", None, "expected text or vocabulary"),
        ("text", "edgeembed.sparse.weight", None, "does not have 4 numbers"),
        ("text", "edgeembed.sparse.bias", "AACAfw==", "not finite"),
        ("text", "edgeembed.sparse.excluded", "0,6", "ids of tokens below 6"),
        ("vocabulary", "edgeembed.sparse.pooling", "mean", "expected max or sum"),
        ("vocabulary", "edgeembed.sparse.logarithms", "9", "expected 1 or 2"),
        ("vocabulary", "edgeembed.sparse.norm.epsilon", "nan", "expected a number from 0 to 1"),
        ("vocabulary", "edgeembed.sparse.transform.weight", "AAAA", "does not have 16 numbers"),
        ("vocabulary", "edgeembed.sparse.bias", None, "does not have 6 numbers"),
        ("vocabulary", "edgeembed.sparse.query.weights", "****", "does not have 6 numbers"),
    ],
)
def test_a_malformed_key_is_named(head: str, key: str, value: str | None, message: str) -> None:
    keys = {name: str(stored) for name, stored in HEADS[head].metadata().items()}
    if value is None:
        del keys[key]
    else:
        keys[key] = value
    with pytest.raises(ValueError, match=f"{key}.*{message}"):
        read_sparse_head(keys.get, WIDTH, VOCABULARY, lambda _: Identity())
