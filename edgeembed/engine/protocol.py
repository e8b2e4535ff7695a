"""What an engine is, and the messages between the daemon and a worker process.

A frame on the pipe is a little-endian 32-bit length followed by one msgpack-encoded message. Both ends are the same version
of the same package, started together: there is no negotiation.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

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


class QuickLook(msgspec.Struct, frozen=True, kw_only=True):
    """What the first load of a model on this machine found out; see `edgeembed.engine.quick_look`."""

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
    looked: QuickLook | None = None
    """What a quick look found, where one was asked for."""


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker shall run a model file: everything that the ladder and the settings decide."""

    path: str
    threads: int
    context_tokens: int
    batch_tokens: int
    rung: str
    extra_buffers: bool
    """Repacked weights and AMX kernels (llama.cpp's `use_extra_bufts`)."""
    oldest_kernels: bool = False
    """Of a build for many processors the module with the oldest kernels, in place of the best one."""
    task: Task = "embed"
    """A file made for the other task is refused."""
    verbose: bool = False
    """Log llama.cpp's informational lines too."""
    bulk_lanes: int | None = None
    """Contexts for bulk loads beside the one for queries; None for as many as threads and memory allow, 0 for none."""
    bulk_niceness: int = 5
    """How far the threads of bulk lanes give way, in steps of Unix's nice; 0 for not at all."""
    pad_from_tokens: int | None = None
    """A lone text of an encoder from this many tokens on is filled up to the 64 at which the faster attention begins; None
    for a guess by the model's width, 0 for never."""
    prefix_tokens: int = 256
    """KV cells for prefixes that several texts of a causal model share, in each context; 0 for none."""
    ledger: str | None = None
    """File in which the worker notes what it computes (see `edgeembed.engine.ledger`), filled in by the supervisor."""
    quick_look: bool = False
    """Look how an encoder runs fastest, and run it so; `pad_from_tokens` is not overruled."""
    own_kernels: bool = True
    """Add our kernels to llama.cpp's, where there are extra buffers."""
    device: str = "cpu"
    """Names of ggml's devices for the layers that leave the processor, with commas in between; "cpu" for none."""
    gpu_layers: int = 0
    """The last so many layers go there, the output layer counted as one."""
    main_gpu: int = 0
    """The one of them that keeps what is not split."""
    tensor_split: tuple[float, ...] = ()
    """Shares of the layers on each, where there are several."""


class RungFall(msgspec.Struct, frozen=True, kw_only=True):
    """One step down the ladder: from which rung, why, when (Unix seconds)."""

    rung: str
    reason: str
    at: float
    cause: str = "other"
    """One word for it; see `edgeembed.engine.causes`."""
    again_at: float | None = None
    """Unix seconds at which the rung is tried again; None for not by itself."""


class RungMove(msgspec.Struct, frozen=True, kw_only=True):
    """One move on the ladder, down or up (Unix seconds)."""

    source: str
    target: str
    cause: str
    """One word; "recovered" for a way up."""
    reason: str
    at: float


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot for /health, /v1/status and `edgeembed doctor`."""

    state: Literal["starting", "ready", "restarting", "failed", "stopped"]
    reason: str | None = None
    """Why the state is not ready."""
    rung: str
    falls: list[RungFall]
    """Rungs that did not hold, in the order in which they were left."""
    restarts: int
    texts_computed: int
    """Texts whose row came from a forward pass since the daemon started."""
    batches_computed: int
    """Forward passes that they came from."""
    tokens_computed: int = 0
    """Tokens of those texts."""
    texts_waiting: int
    busy_since: float | None = None
    """Unix seconds at which the forward pass now running began; None when idle."""
    worker_pid: int | None = None
    moves: list[RungMove] = []
    """On the ladder, the latest ones, the oldest first."""
    moves_by_cause: dict[str, int] = {}
    """How many there were, by "from>to>cause"."""
    offload: str | None = None
    """What of the model is on which graphics card, in words; None where nothing is."""


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

    def submit(self, texts: Sequence[Text], priority: Priority, *, sealed: bool = False) -> list[asyncio.Future[Row]]:
        """Queue texts (prompt already applied) and give one future each; cancelling a future frees its place.

        sealed: they share forward passes among themselves alone, as bulk texts: the same texts give the same bits each time
        (see `edgeembed.engine.sealing`).

        A future ends with InputTooLongError, EmptyInputError, BadVectorError, WorkerCrashedError, EngineUnavailableError or
        a RequestError for token ids that are none of the model's, or limits that leave no room for the text.
        """
        ...

    async def start(self) -> None:
        """Load the model; returns when canary texts came out right. Raises EngineUnavailableError when no rung holds."""
        ...

    async def close(self) -> None:
        """End the worker; futures still open end with EngineUnavailableError."""
        ...


# --- daemon to worker -------------------------------------------------------------------------------------------------


Want = Literal["row", "ids", "tokens"]
"""What becomes of a text: its row, the ids of its tokens, or ids and texts of its tokens."""


class Seal(msgspec.Struct, array_like=True, frozen=True):
    """Texts that share forward passes with each other and with no other text. texts: how many of them are sent."""

    id: int
    texts: int


class EmbedItem(msgspec.Struct, array_like=True):
    id: int
    text: Text
    priority: Priority
    alone: bool
    """Compute in a batch of its own: it was in a batch that ended a worker."""
    want: Want = "row"
    seal: Seal | None = None

    @property
    def characters(self) -> int:
        """Length of the text, of both texts of a pair, or of a text with its prompt."""
        match self.text:
            case str():
                return len(self.text)
            case Pair(query, document):
                return len(query) + len(document)
            case Prompted(prefix, text, suffix):
                return len(prefix) + len(text) + len(suffix)  # ids are read already


class Embed(msgspec.Struct, tag="embed"):
    items: list[EmbedItem]


class Cancel(msgspec.Struct, tag="cancel"):
    ids: list[int]


class Stop(msgspec.Struct, tag="stop"):
    pass


ToWorker = Embed | Cancel | Stop

# --- worker to daemon -------------------------------------------------------------------------------------------------


class Ready(msgspec.Struct, tag="ready"):
    info: ModelInfo


class LoadFailed(msgspec.Struct, tag="load_failed"):
    """The model cannot be served on this rung. `fatal`: no other rung can help (not a GGUF, not an embedder)."""

    reason: str
    fatal: bool


class Stage(msgspec.Struct, tag="stage"):
    """What the worker is about to do before it is ready; names the moment of a crash."""

    doing: str


class RowItem(msgspec.Struct, array_like=True):
    id: int
    tokens: int
    vector: bytes
    """float32, native byte order: both ends are one machine."""
    full: int = 0
    """Tokens before the text was cut; 0 when it was not."""


class Rows(msgspec.Struct, tag="rows"):
    items: list[RowItem]


class Read(msgspec.Struct, tag="read"):
    """The tokens of an item that is not computed.

    ids: int32, native byte order. special: of each token a byte, 1 for a mark around the text. texts: empty for `ids`.
    """

    id: int
    ids: bytes
    special: bytes
    texts: list[str]


class Failed(msgspec.Struct, tag="failed"):
    """One item has no row. `tokens` and `limit` are set for kind too_long."""

    id: int
    kind: Literal["too_long", "empty", "bad_ids", "no_room", "bad_vector", "engine"]
    message: str
    tokens: int = 0
    limit: int = 0


FromWorker = Stage | Ready | LoadFailed | Rows | Read | Failed

# --- frames -----------------------------------------------------------------------------------------------------------

_LENGTH = struct.Struct("<I")
LENGTH_BYTES = _LENGTH.size
MAX_FRAME_BYTES = 1 << 30

_encoder = msgspec.msgpack.Encoder()
to_worker_decoder: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
from_worker_decoder: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def frame(message: ToWorker | FromWorker) -> bytes:
    """Encode a message with its length in front."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


def frame_length(header: bytes) -> int:
    """Read a frame's length from its first four bytes. Raises ValueError when it cannot be one of ours."""
    (length,) = _LENGTH.unpack(header)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes is not one of ours")
    return int(length)
