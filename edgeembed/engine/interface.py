"""What an engine is: the texts that it takes, the rows that it gives, and how it says how it is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from edgeembed.common.status import EngineStatus

Float32Row = npt.NDArray[np.float32]

Task = Literal["embed", "rerank"]
"""What a model is for: rows of texts, or scores of pairs."""

Priority = Literal[0, 1]
INTERACTIVE: Priority = 0
"""A few texts that somebody waits for."""
BULK: Priority = 1
"""Many texts; they give way to interactive ones."""


class Row(NamedTuple):
    """One embedded text.

    vector: float32, shape (dimensions,), pooled, not normalised, full-dimension.
    tokens: the text's length in the model's tokens, special ones included.
    full: the same before the text was cut; 0 when it was not.
    """

    vector: Float32Row
    tokens: int
    full: int = 0


class Tokenized(NamedTuple):
    """The tokens of a text.

    ids: places in the model's vocabulary, int32, shape (tokens,). special: which of them are marks that the model puts
    around a text, shape (tokens,). texts: how each is written; None where nobody asked.
    """

    ids: npt.NDArray[np.int32]
    special: npt.NDArray[np.bool_]
    texts: list[str] | None = None


Side = Literal["none", "end", "start"]
"""Where a text that is too long may be cut."""


class Limits(msgspec.Struct, array_like=True, frozen=True):
    """How long a text may be where that is not what the model takes, and what happens to a longer one.

    most: tokens, special ones, prompt and query included; 0 for what the model takes. cut: the side that is cut off; a text
    is refused when it is none. own: `most` counts the tokens of the text, or of the document of a pair, alone.
    """

    most: int = 0
    cut: Side = "none"
    own: bool = False


class Pair(msgspec.Struct, array_like=True, frozen=True):
    """What a reranker scores."""

    query: str
    document: str
    instruction: str | None = None
    """None takes the model's default."""
    limits: Limits | None = None
    """Of the pair; only its document is ever cut."""


@dataclass(frozen=True, slots=True)
class Prompted:
    """A text in its prompt, told apart: what stands in front of many texts is computed once, and never cut.

    It gives the tokens, and the row, of `prefix + text + suffix`. (A dataclass, because msgspec cannot tell two kinds of
    struct apart beside a string.)
    """

    prefix: str
    text: str
    suffix: str = ""
    limits: Limits | None = None
    ids: bytes | None = None
    """In place of `text`, its tokens: int32, native byte order. Special tokens around them may be there or not."""


Text = str | Pair | Prompted
"""What an embedder or a reranker computes one row of."""


class AutotuneResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the first load of a model on this machine found out; see `edgeembed.engine.llama.autotune`."""

    pad_from_tokens: int | None
    """None where there was no time to find it."""
    seconds: float
    """That it took."""


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a loaded model says of itself."""

    architecture: str
    name: str
    dimensions: int
    context_tokens: int
    """Longest text in tokens, special ones included."""
    pooling: str
    """mean, cls, last; rank for a reranker, whose rows are scores, one for each of its labels."""
    file_type: str
    """The quantisation type of most tensors, as llama.cpp names it."""
    parameters: int
    size_bytes: int
    llama_cpp: str
    """Version of llama-cpp-python and what the build can use of the processor."""
    canary_cosines: tuple[float, ...] = ()
    """Of the file's canary texts, computed here, to their rows from the unquantised weights; empty when it carries none."""
    batch_tokens: int = 0
    """Tokens of all texts together that a forward pass aims at; 0 where nobody tells."""
    autotune: AutotuneResult | None = None
    """What a quick look found, where one was asked for."""


class Engine(Protocol):
    """One loaded model. All methods are called on the event loop's thread."""

    @property
    def info(self) -> ModelInfo | None:
        """What is loaded; None until the engine was ready once."""
        ...

    @property
    def status(self) -> EngineStatus: ...

    @property
    def is_over(self) -> bool:
        """Whether it failed or was stopped, and computes nothing any more; cheaper to ask than `status`."""
        ...

    def tokenize(self, texts: Sequence[Text], *, written: bool) -> list[asyncio.Future[Tokenized]]:
        """Queue texts to be read and not computed, however long they are; cancelling a future frees its place.

        written: give the tokens' texts too. A future ends with EngineError, EngineUnavailableError or WorkerCrashedError.
        """
        ...

    def submit(self, texts: Sequence[Text], priority: Priority, *, isolated: bool = False) -> list[asyncio.Future[Row]]:
        """Queue texts (prompt already applied) and give one future each; cancelling a future frees its place.

        isolated: they share forward passes with each other only, as bulk texts: the same texts give the same bits each time
        (see `edgeembed.engine.worker.isolated_batches`).

        A future ends with InputTooLongError, EmptyInputError, BadVectorError, WorkerCrashedError, EngineUnavailableError or
        a RequestError for token ids that are none of the model's, or limits that leave no room for the text.
        """
        ...

    async def start(self) -> None:
        """Load the model; returns when canary texts came out right. Raises EngineUnavailableError when no mode holds."""
        ...

    async def close(self) -> None:
        """End the worker; futures still open end with EngineUnavailableError."""
        ...
