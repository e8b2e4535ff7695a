"""The interface of an engine: the texts that it takes, and the rows that it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from edgeembed.common.status import EngineStatus

if TYPE_CHECKING:  # a worker does without it
    import asyncio

Float32Row = npt.NDArray[np.float32]
"""One row, shape (dimensions,)."""
Float32Matrix = npt.NDArray[np.float32]
"""Rows, shape (texts, dimensions), unless its place says otherwise."""

TYPE_KEY = "edgeembed.converter.type"
"""Metadata key: the type of a converted file for which llama.cpp has no name."""

Task = Literal["embed", "rerank", "classify"]
"""What a model computes: rows of texts, scores of pairs, or a logit of each class for texts or pairs."""

Output = Literal["dense", "multi", "sparse", "tokens"]
"""What is computed of a text. dense: one pooled row. multi: a vector for each token, to be compared with those of another
text (late interaction). sparse: weights of tokens of the vocabulary. tokens: the last hidden state of each token."""
OUTPUTS: tuple[Output, ...] = ("dense", "multi", "sparse", "tokens")
"""All outputs, in the order in which a packed row has them; see `edgeembed.engine.outputs`."""
DENSE: tuple[Output, ...] = ("dense",)

Role = Literal["", "query", "document"]
"""What a text is for; some models read queries otherwise than documents."""

Priority = Literal[0, 1]
INTERACTIVE: Priority = 0
"""A few texts that a client waits for."""
BULK: Priority = 1
"""Many texts; interactive ones are computed first."""


class Row(NamedTuple):
    """One embedded text.

    vector: float32, shape (dimensions,), pooled, not normalised, full-dimension; with other outputs than the dense one, a
    packed row (see `edgeembed.engine.outputs`).
    tokens: the text's length in the model's tokens, special ones included.
    full: the same before the text was truncated; 0 when it was not.
    worker: number of the worker that computed it, of those of its engine; 0 where there are none.
    alone: whether it was computed apart from its batch, because an attempt with the others failed or ended a worker.
    """

    vector: Float32Row
    tokens: int
    full: int = 0
    worker: int = 0
    alone: bool = False


TokenWant = Literal["ids", "tokens", "text", "text_with_special"]
"""What is wanted of a text that is not computed: the ids of its tokens; also what each is and where; or, of token ids, the
text that they stand for, without special tokens or with their names."""


class Tokenized(NamedTuple):
    """The tokens of a text.

    ids: int32, shape (tokens,). special: which of them the model puts around a text, shape (tokens,). For "tokens": pieces,
    what each token is spelled like, in UTF-8, maybe a part of a character; spans, begin and end of each in the text with its
    prompt, in characters, int32, shape (tokens, 2), -1 for special tokens. text: of token ids.
    """

    ids: npt.NDArray[np.int32]
    special: npt.NDArray[np.bool_]
    pieces: list[bytes] | None = None
    spans: npt.NDArray[np.int32] | None = None
    text: str = ""


Side = Literal["none", "end", "start"]
"""The side on which a text that is too long may be truncated."""


class Limits(msgspec.Struct, array_like=True, frozen=True):
    """The length that a text may have, and what happens to a longer one.

    most: tokens, with special ones, prompt and query; 0 for the model's own limit. cut: the side on which it is truncated;
    with "none" it is rejected. own: `most` counts only the tokens of the text, or of the document of a pair. query: of a
    pair, the query may be truncated, too, if it is longer than half of the room for both.
    """

    most: int = 0
    cut: Side = "none"
    own: bool = False
    query: bool = False


class Pair(msgspec.Struct, array_like=True, frozen=True):
    """A query and a document for a reranker, or two texts for a classifier."""

    query: str
    document: str
    instruction: str | None = None
    """None for the model's default."""
    limits: Limits | None = None
    """Of the pair."""


@dataclass(frozen=True, slots=True)
class Prompted:
    """A text and its prompt, kept separate: a prefix of many texts is computed once, and a prompt is never truncated.

    Its row is that of `prefix + text + suffix`. (A dataclass, because msgspec cannot distinguish two kinds of struct in a
    union with a string.)
    """

    prefix: str
    text: str
    suffix: str = ""
    limits: Limits | None = None
    ids: bytes | None = None
    """Token ids in place of `text`: int32, native byte order, with or without the special tokens around them."""
    role: Role = ""
    """For models that read queries otherwise than documents."""


Text = str | Pair | Prompted
"""What an engine computes one row of."""


class AutotuneResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of autotuning at a model's first load on this machine; see `edgeembed.engine.llama.autotune`."""

    pad_from_tokens: int | None
    """None where it was not measured: there was not enough time, or our own kernels do not need it."""
    left_types: tuple[int, ...] | None = None
    """Types of weights, as ggml's numbers, for which llama.cpp's kernels are faster than ours; None where not measured."""
    seconds: float
    """That autotuning took."""


class SandboxInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What confines a worker; see `edgeembed.engine.sandbox`."""

    landlock: int = 0
    """ABI of Landlock; 0 if it is not used."""
    seccomp: bool = False
    words: str = ""
    """What that means, and why a part is missing, for people."""


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """A text and the row that a model must compute of it."""

    text: str | Pair
    row: bytes
    """float32, native byte order."""
    least: float
    """Lowest likeness of another row of this text; see `edgeembed.engine.canary.likeness`."""
    given: bool
    """By the model's file. Otherwise the worker computed it when it had just loaded the file and its canary texts passed."""
    made_at: float = 0.0
    """Unix seconds; 0 if it is given."""


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Properties of a loaded model."""

    architecture: str
    name: str
    dimensions: int
    context_tokens: int
    """Longest text in tokens, special ones included."""
    pooling: str
    """mean, cls, last; rank for a reranker or classifier, whose rows are numbers, one for each of its labels; none for a
    model without a pooled row of its own."""
    task: Task = "embed"
    file_type: str
    """The quantisation type of most tensors, as llama.cpp names it."""
    parameters: int
    size_bytes: int
    llama_cpp: str
    """Version of llama-cpp-python, and the processor features that its build uses."""
    mode: str = ""
    """The execution mode of the worker, or which of upstream and its local fallback computes."""
    canary_cosines: tuple[float, ...] = ()
    """Cosines of the file's canary texts to their rows from the unquantised weights; empty if the file has none."""
    reference: Reference | None = None
    """By which it is checked again while it serves; None where there is nothing to compare with."""
    outputs: tuple[Output, ...] = DENSE
    """What its file has heads for; hidden states of tokens are no part of it."""
    attainable_tokens: int = 0
    """Longest text with a higher setting `context_tokens`; 0 if that would change nothing."""
    batch_tokens: int = 0
    """Tokens that a forward pass aims at; 0 where unknown."""
    autotune: AutotuneResult | None = None
    """What autotuning found, if it was requested."""
    sandbox: SandboxInfo = SandboxInfo()


class Engine(Protocol):
    """One loaded model. All methods are called on the event loop's thread."""

    @property
    def info(self) -> ModelInfo | None:
        """The loaded model; None until the engine has been ready once."""
        ...

    @property
    def status(self) -> EngineStatus: ...

    @property
    def is_over(self) -> bool:
        """Whether it failed or was stopped for good; cheaper than `status`."""
        ...

    def tokenize(self, texts: Sequence[Text], want: TokenWant = "ids") -> list[asyncio.Future[Tokenized]]:
        """Queue texts of any length to be tokenised only, and return a future for each; cancelling it removes the text.

        A future ends with EngineError, EngineUnavailableError, WorkerCrashedError, or RequestError for token ids that the
        model does not have.
        """
        ...

    def submit(
        self, texts: Sequence[Text], priority: Priority, *, isolated: bool = False, outputs: tuple[Output, ...] = DENSE
    ) -> list[asyncio.Future[Row]]:
        """Queue texts, prompts included, and return a future for each; cancelling it removes the text.

        outputs: what to compute, in the order of OUTPUTS; of others than DENSE, a Row's vector is a packed row.

        isolated: as bulk texts that share forward passes only with each other, so that the same texts yield the same bits
        each time (see `edgeembed.engine.worker.isolated_batches`).

        A future ends with InputTooLongError, EmptyInputError, BadVectorError, WorkerCrashedError, EngineUnavailableError or
        a RequestError for token ids that the model does not have, or limits that leave no room for the text.
        """
        ...

    def distrust(self, reason: str) -> None:
        """Have the canary texts checked again before anything else is computed: a probe's row was wrong."""
        ...

    async def start(self) -> None:
        """Load the model and wait until its canary texts are right. Raises EngineUnavailableError when every mode fails."""
        ...

    async def close(self) -> None:
        """End the worker; futures without a result end with EngineUnavailableError."""
        ...
