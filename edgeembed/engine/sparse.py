"""Heads of sparse models: which tokens of the vocabulary stand for a text, and with which weights.

Two kinds are known. bge-m3's multiplies the state of each token of the text by a vector, and a token that occurs more than
once has its largest weight (Chen et al., "BGE M3-Embedding", 2024). SPLADE has the head of a masked language model: each
token of the text has a logit for every token of the vocabulary, and the weight of these is the logarithm of the largest
(Formal et al., "SPLADE v2", 2021). Some SPLADE models read queries without a forward pass: each token has a weight of its
own, its inverse document frequency (Geng et al., "Towards Competitive Search Relevance For Inference-Free Learned Sparse
Retrievers", 2024). The weights of a head are metadata under `edgeembed.sparse.*`.

An output has a row for each token of the vocabulary: its id and its weight, which is above 0; in the order of the ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from edgeembed.engine.float_strings import decoded_count, encode_floats, read_floats, read_ids
from edgeembed.engine.interface import Float32Matrix, Float32Row, Role
from edgeembed.engine.reading import Tokens

KIND_KEY = "edgeembed.sparse.kind"
"""Which tokens get weights: `text`, those of the text (bge-m3); `vocabulary`, any of the vocabulary (SPLADE)."""
EXCLUDED_KEY = "edgeembed.sparse.excluded"
"""Ids of tokens of the text that get no weight, separated by commas."""
POOLING_KEY = "edgeembed.sparse.pooling"
LOGARITHMS_KEY = "edgeembed.sparse.logarithms"
EPSILON_KEY = "edgeembed.sparse.norm.epsilon"
QUERY_KEY = "edgeembed.sparse.query.weights"
"""A weight for each token of the vocabulary, by which queries are read."""
_WEIGHT, _BIAS = "edgeembed.sparse.weight", "edgeembed.sparse.bias"
_TRANSFORM, _TRANSFORM_BIAS = "edgeembed.sparse.transform.weight", "edgeembed.sparse.transform.bias"
_NORM, _NORM_BIAS = "edgeembed.sparse.norm.weight", "edgeembed.sparse.norm.bias"

MOST_WEIGHTS = 4096
"""Of a text: the largest ones. Trained models have a few hundred; one without training has a weight for half of its
vocabulary, which would be ten times the size of all vectors of a text."""
CHUNK_TOKENS = 64
"""Tokens of a text whose logits are in memory at the same time: 8 MB with BERT's vocabulary."""

Value = Callable[[str], str | None]
Pooling = Literal["max", "sum"]
_POOLINGS: Mapping[str, Pooling] = {"max": "max", "sum": "sum"}


@dataclass(frozen=True)
class MaskedLmWeights:
    """The head of a masked language model but for its matrix, which is that of the token embeddings.

    weight, weight_bias: of a dense layer, shapes (width, width) and (width,), with GELU behind it; norm, norm_bias: of a
    layer norm; bias: shape (vocabulary,).
    """

    weight: Float32Matrix
    weight_bias: Float32Row | None
    norm: Float32Row
    norm_bias: Float32Row | None
    epsilon: float
    bias: Float32Row


class Logits(Protocol):
    """Computes the logits of hidden states."""

    def logits(self, states: Float32Matrix) -> Iterator[Float32Matrix]:
        """Yield logits without the bias of the vocabulary, shape (some tokens, vocabulary), for all states in order.

        An array is valid until the next one is asked for. Raises ComputeError.
        """
        ...

    def close(self) -> None:
        """Free all memory."""
        ...


MakeLogits = Callable[[MaskedLmWeights], Logits]


@dataclass(frozen=True)
class TextTokensHead:
    """Weighs the tokens of the text. weight: shape (width,). excluded: ids of tokens that get no weight."""

    weight: Float32Row
    bias: float
    excluded: tuple[int, ...]

    def apply(self, states: Float32Matrix, ids: Tokens, role: Role) -> Float32Matrix:
        """Return ids and weights, shape (tokens with a weight, 2), of hidden states, shape (tokens, width)."""
        weights = np.maximum(states @ self.weight + np.float32(self.bias), np.float32(0))
        weights[np.isin(ids, self.excluded)] = 0
        found, places = np.unique(ids, return_inverse=True)
        largest = np.zeros(len(found), dtype=np.float32)
        np.maximum.at(largest, places, weights)
        return _pairs(found, largest)

    def metadata(self) -> dict[str, str | int | float]:
        """Return the keys for a file."""
        return {
            KIND_KEY: "text",
            _WEIGHT: encode_floats(self.weight),
            _BIAS: encode_floats(np.array([self.bias], dtype=np.float32)),
            EXCLUDED_KEY: ",".join(map(str, self.excluded)),
        }


class VocabularyHead:
    """Weighs all tokens of the vocabulary by the logits of a masked language model; queries maybe by a table."""

    def __init__(
        self,
        weights: MaskedLmWeights,
        pooling: Pooling,
        logarithms: int,
        query: Float32Row | None = None,
        make: MakeLogits | None = None,
    ) -> None:
        """pooling: over the tokens of the text. logarithms: how often log(1 + x) is applied to the positive logits.

        query: weights of a query's tokens, shape (vocabulary,). make: called when the first text is computed.
        """
        self._weights = weights
        self._pooling = pooling
        self._logarithms = logarithms
        self._query = query
        self._make = make
        self._logits: Logits | None = None

    def free(self) -> None:
        """Free what computes the logits; it is made again for the next text."""
        if self._logits is not None:
            self._logits.close()
            self._logits = None

    def needs_states(self, role: Role) -> bool:
        """Return whether the output depends on more than the ids of the tokens."""
        return role != "query" or self._query is None

    def apply(self, states: Float32Matrix, ids: Tokens, role: Role) -> Float32Matrix:
        """Return ids and weights, shape (tokens with a weight, 2), of hidden states, shape (tokens, width).

        The special tokens around a text count like all others; those around a query with weights of its own get none.
        """
        if role == "query" and self._query is not None:
            own = np.unique(ids)
            return _pairs(own, self._query[own])
        weights = self._pooled(states)
        return _pairs(np.arange(len(weights)), weights)

    def _pooled(self, states: Float32Matrix) -> Float32Row:
        if self._logits is None:
            assert self._make is not None
            self._logits = self._make(self._weights)
        bias = self._weights.bias
        pooled: Float32Row | None = None
        for logits in self._logits.logits(states):
            if self._pooling == "max":  # the logarithm and the bias keep the order: they are applied once
                part = logits.max(axis=0)
                pooled = part if pooled is None else np.maximum(pooled, part, out=pooled)
            else:
                part = self._scaled(logits + bias).sum(axis=0)
                pooled = part if pooled is None else np.add(pooled, part, out=pooled)
        assert pooled is not None
        return self._scaled(pooled + bias) if self._pooling == "max" else pooled

    def _scaled(self, logits: Float32Matrix) -> Float32Matrix:
        found = np.maximum(logits, np.float32(0))
        for _ in range(self._logarithms):
            np.log1p(found, out=found)
        return found

    def metadata(self) -> dict[str, str | int | float]:
        """Return the keys for a file."""
        weights = self._weights
        arrays: Mapping[str, Float32Matrix | None] = {
            _TRANSFORM: weights.weight, _TRANSFORM_BIAS: weights.weight_bias, _NORM: weights.norm,
            _NORM_BIAS: weights.norm_bias, _BIAS: weights.bias, QUERY_KEY: self._query,
        }  # fmt: skip
        return {
            KIND_KEY: "vocabulary",
            POOLING_KEY: self._pooling,
            LOGARITHMS_KEY: self._logarithms,
            EPSILON_KEY: repr(weights.epsilon),
            **{key: encode_floats(array) for key, array in arrays.items() if array is not None},
        }


SparseHead = TextTokensHead | VocabularyHead


def masked_lm_vocabulary(value: Value) -> int:
    """Return the number of tokens for which the masked-LM head of a file has logits; 0 if it has no such head.

    value: as for `read_sparse_head`. The keys are not checked.
    """
    return decoded_count(value(_BIAS) or "") if value(KIND_KEY) == "vocabulary" else 0


def read_sparse_head(value: Value, width: int, vocabulary: int, make: MakeLogits) -> SparseHead:
    """Return the sparse head of a file.

    value: returns a metadata value as text, or None. width: of a hidden state. vocabulary: number of its tokens. make: for
    `VocabularyHead`. Raises ValueError with the key if it is missing or malformed.
    """
    kind = value(KIND_KEY)
    if kind == "text":
        bias = float(read_floats(value, _BIAS, 1)[0])
        return TextTokensHead(read_floats(value, _WEIGHT, width), bias, read_ids(value, EXCLUDED_KEY, vocabulary))
    if kind != "vocabulary":
        raise ValueError(f"key {KIND_KEY!r} is {kind!r}; expected text or vocabulary")
    pooling, logarithms = _POOLINGS.get(value(POOLING_KEY) or ""), value(LOGARITHMS_KEY)
    if pooling is None:
        raise ValueError(f"key {POOLING_KEY!r} is {value(POOLING_KEY)!r}; expected max or sum")
    if logarithms not in ("1", "2"):
        raise ValueError(f"key {LOGARITHMS_KEY!r} is {logarithms!r}; expected 1 or 2")

    def optional(key: str, count: int) -> Float32Row | None:
        return read_floats(value, key, count) if value(key) is not None else None

    weights = MaskedLmWeights(
        weight=read_floats(value, _TRANSFORM, width * width).reshape(width, width),
        weight_bias=optional(_TRANSFORM_BIAS, width),
        norm=read_floats(value, _NORM, width),
        norm_bias=optional(_NORM_BIAS, width),
        epsilon=_epsilon(value(EPSILON_KEY)),
        bias=read_floats(value, _BIAS, vocabulary),
    )
    return VocabularyHead(weights, pooling, int(logarithms), optional(QUERY_KEY, vocabulary), make)


def _pairs(ids: npt.NDArray[np.integer], weights: Float32Row) -> Float32Matrix:
    """Return ids and weights, shape (tokens, 2): the largest weights above 0. ids: in their order, each once.

    Weights that are no numbers are kept: left out, they would make a wrong row look right.
    """
    kept = np.flatnonzero(~(weights <= 0))
    if len(kept) > MOST_WEIGHTS:  # of equal weights, those of smaller ids
        least = np.partition(weights, -MOST_WEIGHTS)[-MOST_WEIGHTS]
        larger, equal = np.flatnonzero(~(weights <= least)), np.flatnonzero(weights == least)
        kept = np.sort(np.concatenate([larger, equal[: MOST_WEIGHTS - len(larger)]]))
    return np.stack([ids[kept].astype(np.float32), weights[kept]], axis=1)


def _epsilon(text: str | None) -> float:
    try:
        found = float(text or "")
    except ValueError:
        found = -1.0
    if not 0 <= found < 1:
        raise ValueError(f"key {EPSILON_KEY!r} is {text!r}; expected a number from 0 to 1")
    return found
