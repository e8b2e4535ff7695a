"""SentencePiece's own model file, `spiece.model`, which is beside tokenizer.json in T5's checkpoints.

Format: sentencepiece_model.proto, in Protocol Buffers' wire format.
"""

from __future__ import annotations

import base64
import struct
from typing import Any

_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
_UNIGRAM = 1


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def unigram_model(tokenizer: dict[str, Any], special: int) -> bytes:
    """Return the file for a tokenizer.json, without added pieces. special: how many pieces at the start are special."""
    model = tokenizer["model"]
    added = {entry["content"] for entry in tokenizer["added_tokens"]}
    out = b""
    for number, (piece, score) in enumerate(model["vocab"]):
        if number >= special and piece in added:
            continue
        kind = _UNKNOWN if number == model["unk_id"] else _CONTROL if number < special else _NORMAL
        entry = _bytes(1, piece.encode()) + _varint(2 << 3 | 5) + struct.pack("<f", score) + _number(3, kind)
        out += _bytes(1, entry)
    ids = {piece: number for number, (piece, _) in enumerate(model["vocab"])}
    # The ids of unk, bos, eos and pad; -1 is ten bytes in a varint.
    none = 2**64 - 1
    roles = (ids["<unk>"], none, ids["</s>"], ids["<pad>"])
    trainer = _number(3, _UNIGRAM) + b"".join(_number(40 + at, number) for at, number in enumerate(roles))
    charsmap = base64.b64decode(tokenizer["normalizer"]["precompiled_charsmap"])
    normalizer = _bytes(1, b"nmt_nfkc") + _bytes(2, charsmap) + _number(3, 1) + _number(4, 1) + _number(5, 1)
    return out + _bytes(2, trainer) + _bytes(3, normalizer)
