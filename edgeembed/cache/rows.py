"""A cached row as bytes.

Layout, little-endian: magic "EE1\\0", CRC-32 over the key and everything behind this field, token count (uint32), number of
dimensions (uint32), then the row as float32. The key takes part in the checksum, so a row that ended up under another key is
as foreign as a damaged one.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from edgeembed.engine.protocol import Row

_MAGIC = b"EE1\0"
_HEAD = struct.Struct("<4sI")
_FIELDS = struct.Struct("<II")


def encode_row(key: bytes, row: Row) -> bytes:
    """Give the bytes that stand for a row under its key."""
    body = _FIELDS.pack(row.tokens, len(row.vector)) + row.vector.astype("<f4", copy=False).tobytes()
    return _HEAD.pack(_MAGIC, zlib.crc32(body, zlib.crc32(key))) + body


def decode_row(key: bytes, value: object) -> Row | None:
    """Read a row back; None when the value is damaged, foreign, or not ours."""
    if not isinstance(value, bytes) or len(value) < _HEAD.size + _FIELDS.size:
        return None
    magic, checksum = _HEAD.unpack_from(value)
    body = memoryview(value)[_HEAD.size :]
    if magic != _MAGIC or zlib.crc32(body, zlib.crc32(key)) != checksum:
        return None
    tokens, dimensions = _FIELDS.unpack_from(body)
    vector = body[_FIELDS.size :]
    if len(vector) != 4 * dimensions:
        return None
    return Row(np.frombuffer(vector, dtype="<f4"), tokens)
