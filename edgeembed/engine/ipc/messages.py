"""Messages between the daemon and a worker process, and their frames.

A frame on the pipe is a little-endian 32-bit length followed by one msgpack-encoded message. Both ends are the same version
of the same package, so there is no negotiation.
"""

from __future__ import annotations

import struct
from typing import Literal

import msgspec

from edgeembed.engine.causes import Cause
from edgeembed.engine.interface import DENSE, ModelInfo, Output, Priority, Text, TokenWant

Want = Literal["row"] | TokenWant
"""What is computed of a text: its row, or what is known of its tokens."""


class IsolatedBatch(msgspec.Struct, array_like=True, frozen=True):
    """Texts that share forward passes only with each other. texts: their number."""

    id: int
    texts: int


class EmbedItem(msgspec.Struct, array_like=True):
    id: int
    text: Text
    priority: Priority
    alone: bool
    """Compute it in a separate batch: it was in a batch that ended a worker."""
    want: Want = "row"
    isolated: IsolatedBatch | None = None
    outputs: tuple[Output, ...] = DENSE
    """Of a row."""


class Embed(msgspec.Struct, tag="embed"):
    items: list[EmbedItem]


class Cancel(msgspec.Struct, tag="cancel"):
    ids: list[int]


class Stop(msgspec.Struct, tag="stop"):
    pass


ToWorker = Embed | Cancel | Stop


class Ready(msgspec.Struct, tag="ready"):
    info: ModelInfo


class ModeFailed(msgspec.Struct, tag="mode_failed"):
    """The model cannot be served in this mode, found while it loads or later; the last message of a worker."""

    reason: str
    cause: Cause
    fatal: bool = False
    """No other mode can help: the file is not a GGUF, or not an embedder."""


class Stage(msgspec.Struct, tag="stage"):
    """What the worker is about to do before it is ready, to explain a crash or a hang there."""

    doing: str


class RowItem(msgspec.Struct, array_like=True):
    id: int
    tokens: int
    vector: bytes
    """float32, native byte order; packed, if it has other outputs than the dense one."""
    full: int = 0
    """Tokens before the text was truncated; 0 when it was not."""
    alone: bool = False
    """It was computed apart from its batch: an attempt with the others had failed, or ended a worker."""


class ComputedRows(msgspec.Struct, tag="computed_rows"):
    items: list[RowItem]


class ReadTokens(msgspec.Struct, tag="read_tokens"):
    """The tokens of an item that is only tokenised; see `Tokenized`.

    ids, spans: int32, native byte order. special: one byte per token, 1 for a special token. Others: empty unless wanted.
    """

    id: int
    ids: bytes
    special: bytes
    pieces: list[bytes] = []
    spans: bytes = b""
    text: str = ""


class Failed(msgspec.Struct, tag="failed"):
    """An item without a row. tokens, limit: set for the kind too_long. at_least: the text may have more tokens."""

    id: int
    kind: Literal["too_long", "empty", "bad_ids", "no_room", "bad_vector", "engine"]
    message: str
    tokens: int = 0
    limit: int = 0
    at_least: bool = False


FromWorker = Stage | Ready | ModeFailed | ComputedRows | ReadTokens | Failed


# --- frames -----------------------------------------------------------------------------------------------------------

_LENGTH = struct.Struct("<I")
LENGTH_BYTES = _LENGTH.size
MAX_FRAME_BYTES = 1 << 30

_encoder = msgspec.msgpack.Encoder()
to_worker_decoder: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
from_worker_decoder: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def frame(message: ToWorker | FromWorker) -> bytes:
    """Return a message as a frame."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Finds the frames in what is read from a pipe, piece by piece."""

    def __init__(self) -> None:
        self._left = bytearray()
        """The beginning of a frame whose end has not come yet."""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the bodies of the frames that are complete now. Raises ValueError for what is no frame."""
        if not self._left and len(data) >= LENGTH_BYTES and len(data) == LENGTH_BYTES + frame_length(data):
            return [data[LENGTH_BYTES:]]  # as nearly always when one text is computed
        self._left += data
        bodies: list[bytes] = []
        begin = 0
        while len(self._left) - begin >= LENGTH_BYTES:
            body = begin + LENGTH_BYTES
            end = body + frame_length(self._left, begin)
            if end > len(self._left):
                break
            bodies.append(bytes(self._left[body:end]))
            begin = end
        del self._left[:begin]
        return bodies


def frame_length(data: bytes | bytearray, begin: int = 0) -> int:
    """Return the length of the body of a frame that begins here. Raises ValueError when it is too large to be a frame."""
    (length,) = _LENGTH.unpack_from(data, begin)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes exceeds the limit of {MAX_FRAME_BYTES}")
    return int(length)
