"""The messages between the daemon and a worker process, and the frames that carry them.

A frame on the pipe is a little-endian 32-bit length followed by one msgpack-encoded message. Both ends are the same version
of the same package, started together: there is no negotiation.
"""

from __future__ import annotations

import struct
from typing import Literal

import msgspec

from edgeembed.engine.causes import Cause
from edgeembed.engine.interface import ModelInfo, Pair, Priority, Prompted, Text

Want = Literal["row", "ids", "tokens"]
"""What becomes of a text: its row, the ids of its tokens, or ids and texts of its tokens."""


class IsolatedBatch(msgspec.Struct, array_like=True, frozen=True):
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
    seal: IsolatedBatch | None = None

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


class ModeFailed(msgspec.Struct, tag="mode_failed"):
    """The model cannot be served in this mode, found while it loads or later; the last message of a worker."""

    reason: str
    cause: Cause
    fatal: bool = False
    """No other mode can help: the file is not a GGUF, or not an embedder."""


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


FromWorker = Stage | Ready | ModeFailed | Rows | Read | Failed


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
