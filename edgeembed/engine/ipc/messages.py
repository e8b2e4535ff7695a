"""The messages between the daemon and a worker process, and the frames that carry them.

A frame on the pipe is a little-endian 32-bit length followed by one msgpack-encoded message. Both ends are the same version
of the same package, started together: there is no negotiation.
"""

from __future__ import annotations

import struct
from typing import Literal

import msgspec

from edgeembed.engine.interface import ModelInfo, Pair, Priority, Prompted, Task, Text


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
    """File in which the worker notes what it computes (see `edgeembed.engine.ipc.activity_table`), filled in by the supervisor."""
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
