"""Late interaction: a vector for each token of a text, compared with those of another text (ColBERT, bge-m3).

A query and a document are read otherwise: each may have a marker behind its first token, and a query may be filled with
tokens that expand it. A document's score for a query is the sum of the best cosines that the query's vectors find in it
(MaxSim; Khattab and Zaharia, "ColBERT", 2020); with bge-m3 their mean. What a model does is in its file's metadata, under
`edgeembed.multi.*`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edgeembed.engine.dense import DenseHead, read_head
from edgeembed.engine.float_strings import read_ids
from edgeembed.engine.interface import Float32Matrix, Role
from edgeembed.engine.reading import Reading, Tokens

PREFIX = "edgeembed.multi"
LAYERS_KEY = f"{PREFIX}.count"
"""Metadata key: the number of layers that make a vector of a token's state; see `dense`."""
SCORE_KEY = f"{PREFIX}.score"
"""Metadata key: how the best cosines of a query's vectors become one score."""
_QUERY_KEY, _DOCUMENT_KEY = f"{PREFIX}.query_marker", f"{PREFIX}.document_marker"
_LENGTH_KEY, _EXPANSION_KEY = f"{PREFIX}.query_length", f"{PREFIX}.expansion"
_ATTENDED_KEY = f"{PREFIX}.expansion_attended"
_SKIPPED_KEY, _FIRST_KEY = f"{PREFIX}.skipped", f"{PREFIX}.first"
_LONGEST_QUERY = 8192
_LONGEST_VECTOR = 8192
"""Of one token, in any layer: a text of 8192 tokens then takes 256 MB, not gigabytes."""
_TINY = np.float32(1e-12)
_AT_ONCE = 16_384
"""Vectors of documents that are compared in one product: 8 MB of 128 numbers each."""
_NONE: Tokens = np.empty(0, dtype=np.int32)

Score = Literal["sum", "mean"]


@dataclass(frozen=True)
class Expansion:
    """The tokens that fill a query.

    token: their id. length: tokens of a filled query. attended: whether the query's own tokens attend to them; if not, no
    token does.
    """

    token: int
    length: int
    attended: bool


@dataclass(frozen=True)
class LateInteraction:
    """How a model reads texts for late interaction, and which of their tokens get a vector.

    query_marker, document_marker: ids of the tokens behind the first one of a text. expansion: of queries. skipped: ids of
    tokens of documents that get no vector. first: the first token with a vector.
    """

    query_marker: int | None = None
    document_marker: int | None = None
    expansion: Expansion | None = None
    skipped: tuple[int, ...] = ()
    first: int = 0
    score: Score = "sum"

    @property
    def has_markers(self) -> bool:
        """Whether a token behind the first one says whether a text is a query or a document."""
        return self.query_marker is not None or self.document_marker is not None

    def marker(self, role: Role) -> Tokens:
        """Return what is behind the first token of a text: an id, or nothing. Texts without a role have none."""
        found = {"query": self.query_marker, "document": self.document_marker}.get(role)
        return _NONE if found is None else np.array([found], dtype=np.int32)

    def expanded(self, reading: Reading, role: Role, most: int) -> Reading:
        """Return a text; a query with the tokens that expand it. most: tokens of the longest text that the model takes."""
        expansion = self.expansion
        missing = min(expansion.length, most) - len(reading.tokens) if expansion and role == "query" else 0
        if expansion is None or missing <= 0:
            return reading
        tokens = np.concatenate([reading.tokens, np.full(missing, expansion.token, dtype=np.int32)])
        return replace(reading, tokens=tokens, unattended=0 if expansion.attended else missing)

    def metadata(self) -> dict[str, str | int | bool]:
        """Return the keys for a file."""
        keys: dict[str, str | int | bool] = {SCORE_KEY: self.score}
        for key, value in ((_QUERY_KEY, self.query_marker), (_DOCUMENT_KEY, self.document_marker)):
            if value is not None:
                keys[key] = value
        if self.expansion is not None:
            keys[_EXPANSION_KEY] = self.expansion.token
            keys[_LENGTH_KEY] = self.expansion.length
            keys[_ATTENDED_KEY] = self.expansion.attended
        if self.skipped:
            keys[_SKIPPED_KEY] = ",".join(map(str, self.skipped))
        if self.first:
            keys[_FIRST_KEY] = self.first
        return keys


def read_late_interaction(value: Callable[[str], str | None], vocabulary: int) -> LateInteraction | None:
    """Return how a file's model reads texts; None if it has no vectors for late interaction.

    value: returns a metadata value as text, or None. vocabulary: number of token ids. Raises ValueError.
    """
    score = value(SCORE_KEY)
    if score is None:
        return None
    if score not in ("sum", "mean"):
        raise ValueError(f"key {SCORE_KEY!r} is {score!r}, expected sum or mean")

    def number(key: str, most: int) -> int | None:
        text = value(key)
        if text is not None and not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) < most):
            raise ValueError(f"key {key!r} is {text!r}, expected a number below {most}")
        return None if text is None else int(text)

    token, length, attended = number(_EXPANSION_KEY, vocabulary), number(_LENGTH_KEY, _LONGEST_QUERY), value(_ATTENDED_KEY)
    expansion = None
    if token is not None:
        if length is None or attended not in ("true", "false"):
            raise ValueError(f"key {_EXPANSION_KEY!r} needs {_LENGTH_KEY!r}, and {_ATTENDED_KEY!r} as true or false")
        expansion = Expansion(token, length, attended == "true")
    return LateInteraction(
        query_marker=number(_QUERY_KEY, vocabulary),
        document_marker=number(_DOCUMENT_KEY, vocabulary),
        expansion=expansion,
        skipped=read_ids(value, _SKIPPED_KEY, vocabulary),
        first=number(_FIRST_KEY, 2) or 0,
        score=score,  # type: ignore[arg-type]
    )


class MultiHead:
    """Computes a text's vectors, each of length 1, from the hidden states of its tokens."""

    def __init__(self, reading: LateInteraction, projection: DenseHead) -> None:
        self._reading = reading
        self._projection = projection
        self._skipped = np.array(reading.skipped, dtype=np.int32)

    def apply(self, states: Float32Matrix, ids: Tokens, role: Role) -> Float32Matrix:
        """Return float32, shape (vectors, numbers), of a text's hidden states, shape (tokens, width), and its token ids."""
        first = self._reading.first
        states, ids = states[first:], ids[first:]
        if role != "query" and len(self._skipped):
            states = states[~np.isin(ids, self._skipped)]
        vectors = self._projection.apply(states)
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        unit: Float32Matrix = vectors / np.maximum(lengths, _TINY)[:, None]
        return unit


def read_multi_head(value: Callable[[str], str | None], width: int, vocabulary: int) -> MultiHead:
    """Return the head of a file that computes its vectors. Raises ValueError.

    width: length of a hidden state. vocabulary: number of token ids.
    """
    reading, projection = read_late_interaction(value, vocabulary), read_head(value, width, PREFIX, _LONGEST_VECTOR)
    if reading is None or projection is None:
        raise ValueError(f"keys {PREFIX}.*: {SCORE_KEY!r} or {LAYERS_KEY!r} is missing")
    return MultiHead(reading, projection)


def max_sim(query: Float32Matrix, documents: Sequence[Float32Matrix], score: Score) -> list[float]:
    """Return the score of each document for a query; 0 if one of them has no vectors.

    query, documents: unit vectors, float32, shape (vectors, numbers).
    """
    scores = np.zeros(len(documents))
    filled = [place for place, document in enumerate(documents) if len(document)] if len(query) else []
    for group in _groups([len(documents[place]) for place in filled]):
        some = filled[group]
        starts = np.cumsum([0, *(len(documents[place]) for place in some)])[:-1]
        cosines = np.concatenate([documents[place] for place in some]) @ query.T
        scores[some] = np.maximum.reduceat(cosines, starts, axis=0).sum(axis=1, dtype=np.float64)
    found: list[float] = (scores / len(query) if score == "mean" and len(query) else scores).tolist()
    return found


def _groups(lengths: Sequence[int]) -> Iterator[slice]:
    """Yield documents that are compared together, by the numbers of their vectors."""
    begin, total = 0, 0
    for place, length in enumerate(lengths):
        if place > begin and total + length > _AT_ONCE:
            yield slice(begin, place)
            begin, total = place, 0
        total += length
    if lengths:
        yield slice(begin, len(lengths))
