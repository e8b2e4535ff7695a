"""What clients ask for and what they get: the types between a dialect and the service."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from edgeembed.cache import CachedRow
from edgeembed.engine.classes import Classes
from edgeembed.engine.interface import DENSE, Float32Matrix, Float32Row, Output, Row, Task, Tokenized
from edgeembed.engine.outputs import unpack
from edgeembed.inference.postprocess import Matrix, scaled_rows, unit_rows
from edgeembed.inference.truncation import ANY_LENGTH, Lengths
from edgeembed.models.prompts import InputType
from edgeembed.models.served_model import ServedModel

CacheUse = Literal["on", "off", "no-store", "keep"]
"""How a request uses the cache. off: not at all. no-store: reads, and stores nothing new. keep: stores its rows ahead of all
others, because they will be asked for again."""


LongText = Literal["none", "mean", "chunks"]
"""What happens to a text that is too long. none: it is cut or refused, see `Lengths`. mean: it is divided into windows, and
its row is the mean of theirs. chunks: the windows' rows are returned, too. See `edgeembed.inference.windows`."""


class EmbedRequest(msgspec.Struct, frozen=True):
    """Texts to embed, and how. `param` names the request field that holds the texts, for error messages."""

    texts: Sequence[str]
    model: str | None = None
    input_type: InputType | None = None
    instruction: str | None = None
    prefix: str | None = None
    """Goes before each text, instead of the model's prompt."""
    dimensions: int | None = None
    param: str = "input"
    single: bool = False
    """The field held one string, not a list: error messages name no index."""
    first: str | None = None
    """The field that held the first text, where that is another one than `param`."""
    cache: CacheUse = "on"
    lengths: Lengths = ANY_LENGTH
    ids: Sequence[Sequence[int]] | None = None
    """Token ids of the model instead of texts; `texts` is empty then."""
    may_be_empty: bool = False
    """An empty text is read as the special tokens alone, as some servers do; otherwise it is an error."""
    repeatable: bool = False
    """Compute the texts by themselves and without the cache: the same texts give the same bits each time."""
    long_text: LongText = "none"
    outputs: tuple[Output, ...] = DENSE
    """What to compute of each text, in one pass; in the order of `OUTPUTS`."""


class RerankRequest(msgspec.Struct, frozen=True):
    """Documents to score against a query. `param` and `query_param` name the request's fields that hold them."""

    query: str | Sequence[str]
    """One for all documents, or a list with one for each."""
    documents: Sequence[str]
    model: str | None = None
    instruction: str | None = None
    param: str = "documents"
    query_param: str = "query"
    single: bool = False
    cache: CacheUse = "on"
    lengths: Lengths = ANY_LENGTH
    plain: bool = False
    """An embedder may answer, too, by the cosine of the texts as they are. Otherwise it has to be named for that, and its
    prompts are put around query and documents."""
    windows: bool = False
    """A document that is too long is divided into windows, of which the best one counts."""

    @property
    def queries(self) -> Sequence[str]:
        return [self.query] if isinstance(self.query, str) else self.query

    def place_of_query(self, index: int) -> str:
        """Return what a query is called in the client's request."""
        return self.query_param if isinstance(self.query, str) else f"{self.query_param}[{index}]"


class ClassifyRequest(msgspec.Struct, frozen=True):
    """Texts to classify, or pairs of texts. `param` names the request's field that holds them."""

    texts: Sequence[str]
    seconds: Sequence[str | None] | None = None
    """The second text of each pair; None for single texts."""
    model: str | None = None
    param: str = "input"
    single: bool = False
    cache: CacheUse = "on"
    lengths: Lengths = ANY_LENGTH
    ids: Sequence[Sequence[int]] | None = None
    """Token ids of the model instead of texts; `texts` is empty then."""
    or_reranker: bool = False
    """A reranker may answer, too, if all are pairs: its score is that of its only label."""


class TokenizeRequest(msgspec.Struct, frozen=True):
    """Texts to tokenise. input_type, instruction: the prompt around them, as in an EmbedRequest.

    special: include the special tokens around a text. places: find the text of each token and where it is. most_tokens:
    limit for all texts together, as the answer holds every id; None for no limit. task: of the model; None for any.
    """

    texts: Sequence[str]
    model: str | None = None
    input_type: InputType | None = None
    instruction: str | None = None
    special: bool = True
    places: bool = False
    param: str = "input"
    most_tokens: int | None = None
    task: Task | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """A text that was cut: its index in the request, the tokens that were read, and the tokens that it has."""

    index: int
    tokens: int
    full: int


class WindowRow(NamedTuple):
    """The row of a part of a text. start, end: in characters of the text as the client sent it."""

    start: int
    end: int
    row: Row | CachedRow


class EmbedResult(msgspec.Struct, dict=True):
    """The rows of a request, in its order.

    keys: what was looked up in the cache: each text, or each window of it. hits: how many of these the cache had.
    memory_label: the model's label in the cache if all rows came from the cache's memory, else None. outputs: what each row
    holds; packed, unless it is DENSE. windows: the parts of each text, if the request wants them; of a text that is not too
    long, the whole is the only one.
    """

    model: ServedModel
    keys: Sequence[bytes]
    rows: Sequence[Row | CachedRow]
    dimensions: int | None
    hits: int
    memory_label: str | None = None
    outputs: tuple[Output, ...] = DENSE
    windows: list[list[WindowRow]] | None = None

    @cached_property
    def vectors(self) -> Matrix:
        """Unit rows, float32, shape (texts, dimensions)."""
        return self.vectors_of(slice(None))

    def vectors_of(self, some: slice) -> Matrix:
        """Return the unit rows of some texts."""
        return unit_rows(self._dense_rows(some), self.dimensions, layer_norm=self._layer_norm)

    def scaled(self, norm: int) -> Matrix:
        """Return all rows divided by another norm, or by none; see `scaled_rows`."""
        return scaled_rows(self._dense_rows(slice(None)), self.dimensions, norm, layer_norm=self._layer_norm)

    def parts(self, output: Output, some: slice = slice(None)) -> list[Float32Matrix]:
        """Return an output of some texts, each of shape (rows, width): multi (vectors, dimensions), tokens (tokens, width),
        sparse (words, 2) with ids and weights, dense (1, dimensions).
        """
        if self.outputs == DENSE:
            return [row.vector[None] for row in self.rows[some]]
        return [unpack(row.vector, self.outputs)[output] for row in self.rows[some]]

    def each(self, output: Output) -> Iterator[Float32Matrix]:
        """Yield an output of each text; see `parts`."""
        for index in range(len(self.rows)):
            yield from self.parts(output, slice(index, index + 1))

    def _dense_rows(self, some: slice) -> list[Float32Row]:
        """Return the dense rows of some texts, as the engine computed them."""
        if self.outputs == DENSE:
            return [row.vector for row in self.rows[some]]
        return [part[0] for part in self.parts("dense", some)]

    @property
    def _layer_norm(self) -> bool:
        return self.model.matryoshka is not None and self.model.matryoshka.layer_norm

    @property
    def numbers(self) -> int:
        """Numbers in all vectors, those of windows included."""
        if self.outputs != DENSE:
            parts = (part.row for parts in self.windows or () for part in parts)
            return sum([len(row.vector) for row in itertools.chain(self.rows, parts)])
        rows = len(self.rows) + sum(map(len, self.windows or ()))
        return rows * (self.dimensions or len(self.rows[0].vector)) if self.rows else 0

    @property
    def texts(self) -> int:
        """How many texts, or windows of texts, were looked up in the cache."""
        return len(self.keys)

    @property
    def tokens(self) -> list[int]:
        """Tokens of each text, as far as it was read."""
        return [row.tokens for row in self.rows]

    @property
    def cuts(self) -> list[Cut]:
        """The texts that were cut."""
        return cuts_of(self.rows)


@dataclass(frozen=True)
class RerankResult:
    """The scores of a request, in its order.

    scores: relevance of each document, 0 to 1; of an embedder, the cosine, or with vectors of tokens the mean of the best
    cosines. raw_scores: a reranker's logits, or the sum of those cosines; documents are sorted by them. tokens: of each
    pair. texts: how many texts, or pairs, were looked up in the cache. hits: how many of these it had. cuts: the pairs that
    were cut.
    """

    model: ServedModel
    scores: list[float]
    raw_scores: list[float]
    tokens: list[int]
    hits: int
    texts: int
    cuts: list[Cut]

    def best(self, most: int | None) -> list[int]:
        """Return the indexes of the `most` best documents, or of all, best first."""
        return sorted(range(len(self.scores)), key=lambda index: -self.raw_scores[index])[:most]


@dataclass(frozen=True)
class ClassifyResult:
    """The classes of a request's texts, in its order.

    logits, probabilities: float64, shape (texts, classes). tokens: of each text or pair. hits: how many of them the cache
    had. cuts: those that were cut.
    """

    model: ServedModel
    classes: Classes
    logits: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64]
    tokens: list[int]
    hits: int
    cuts: list[Cut]


class TokenizeResult(msgspec.Struct, frozen=True):
    """tokens: of each text. context_tokens: the longest text that the model takes.

    prompted: the texts, with the prompt around them, that the spans of the tokens refer to.
    """

    model: ServedModel
    tokens: list[Tokenized]
    context_tokens: int
    prompted: list[str]


class DetokenizeRequest(msgspec.Struct, frozen=True):
    """Token ids of the model, in one or more lists. special: keep the names of special tokens."""

    ids: Sequence[Sequence[int]]
    model: str | None = None
    special: bool = False
    param: str = "ids"
    single: bool = False


def cuts_of(rows: Sequence[Row | CachedRow]) -> list[Cut]:
    """Return the texts that were cut, by the rows that were computed from what was left of them."""
    return [Cut(index, row.tokens, row.full) for index, row in enumerate(rows) if isinstance(row, Row) and row.full]


def place_of(request: EmbedRequest | RerankRequest | ClassifyRequest, index: int) -> str:
    """Return what a text is called in the client's request: the field, with an index if it holds a list."""
    if isinstance(request, EmbedRequest) and request.first is not None:
        return request.first if index == 0 else f"{request.param}[{index - 1}]"
    return request.param if request.single else f"{request.param}[{index}]"
