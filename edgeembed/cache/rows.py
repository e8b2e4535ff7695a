"""A cached row and its bytes on disk.

Layout, little-endian: magic "EE2\\0", CRC-32 over the key and everything after this field, token count (uint32), number of
dimensions (uint32), Unix second at which it was computed (uint32), microseconds that it took (uint32), the row as float32,
and `full` if it is not 0 (uint32). The checksum covers the key, so that a row under another row's key counts as damaged.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from edgeembed.engine.canary import defect
from edgeembed.engine.interface import Float32Row

_MAGIC = b"EE2\0"
_HEAD = struct.Struct("<4sI")
_FIELDS = struct.Struct("<IIII")
_FULL = struct.Struct("<I")
_MOST = 2**32 - 1

HEAD_BYTES = _HEAD.size + _FIELDS.size
"""Bytes before the row."""


class CachedRow(NamedTuple):
    """A row and its properties.

    vector: float32, shape (dimensions,), pooled, not normalised, full-dimension.
    tokens: the text's length in the model's tokens, special ones included.
    seconds: that computing it took, and a hit saves.
    created: Unix second at which it was computed.
    model: label of its model in the statistics; not part of the bytes.
    full: tokens before the text was truncated, where the row's key does not imply them; otherwise 0.
    """

    vector: Float32Row
    tokens: int
    seconds: float = 0.0
    created: int = 0
    model: str = ""
    full: int = 0


def encode_row(key: bytes, row: CachedRow) -> bytes:
    """Return the bytes of a row under its key."""
    microseconds = min(_MOST, max(0, round(row.seconds * 1e6)))
    fields = _FIELDS.pack(row.tokens, len(row.vector), min(_MOST, max(0, row.created)), microseconds)
    body = fields + row.vector.astype("<f4", copy=False).tobytes() + (_FULL.pack(row.full) if row.full else b"")
    return _HEAD.pack(_MAGIC, zlib.crc32(body, zlib.crc32(key))) + body


def decode_row(key: bytes, value: object) -> CachedRow | None:
    """Return the row of such bytes; None when they are damaged, under another key, not ours, or no vector.

    Other programs may write to the disk, and a checksum says only that the bytes are what they wrote.
    """
    if not isinstance(value, bytes) or len(value) < HEAD_BYTES:
        return None
    magic, checksum = _HEAD.unpack_from(value)
    body = memoryview(value)[_HEAD.size :]
    if magic != _MAGIC or zlib.crc32(body, zlib.crc32(key)) != checksum:
        return None
    tokens, dimensions, created, microseconds = _FIELDS.unpack_from(body)
    vector, rest = body[_FIELDS.size :][: 4 * dimensions], body[_FIELDS.size + 4 * dimensions :]
    if len(vector) != 4 * dimensions or len(rest) not in (0, _FULL.size):
        return None
    full = _FULL.unpack(rest)[0] if rest else 0
    # A copy, so that the rest of the value does not stay in memory.
    row = np.frombuffer(vector, dtype="<f4").astype(np.float32)
    return CachedRow(row, tokens, microseconds / 1e6, created, full=full) if is_vector(row) else None


def is_vector(row: Float32Row, dimensions: Collection[int] = ()) -> bool:
    """Return whether a row has no `defect`. dimensions: that it may have; any if empty."""
    if dimensions and len(row) not in dimensions:
        return False
    with np.errstate(all="ignore"):
        square = float(row.dot(row))  # NaN or infinite if one of the numbers is
    if 0.0 < square < math.inf:
        return True
    return defect(row) is None  # the square may be too large or too small for a float32
