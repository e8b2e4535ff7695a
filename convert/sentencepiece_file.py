"""Read the model files of SentencePiece: pieces with their scores, and the rules for white space.

The files are protocol buffers. The few fields that matter are read here, with every length checked.
Format: google/sentencepiece, src/sentencepiece_model.proto; protobuf.dev, "Encoding".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeembed.errors import ConversionError
from edgeembed_convert.jsonfile import refuse_pointer

NORMAL, UNKNOWN, CONTROL = 1, 2, 3
"""Types of pieces; others are user-defined, unused, or bytes."""
UNIGRAM = 1
"""Type of a model; 2 is BPE."""

_MOST_BYTES = 64 << 20
# Wire types.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Fields of ModelProto, SentencePiece, TrainerSpec and NormalizerSpec.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _SPACE_AFTER = 3, 24
_CHARSMAP, _DUMMY_PREFIX, _EXTRA_SPACES, _ESCAPES = 2, 3, 4, 5

Value = int | bytes


@dataclass(frozen=True)
class SentencePieceFile:
    """What a model file says. `pieces[i]` has the text, the score and the type of piece i."""

    pieces: list[tuple[str, float, int]]
    model_type: int
    charsmap: bytes
    """The compiled table of the normaliser; empty if there is none."""
    usual_spaces: bool
    """Whether runs of spaces become one, a space is put in front of a text, and spaces are escaped as U+2581."""


def read_sentencepiece_file(file: Path) -> SentencePieceFile:
    """Return the content of a model file. Raises ConversionError if it is not one."""
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ConversionError(f"{file}: {file.stat().st_size} bytes are too many for a SentencePiece model")
        data = file.read_bytes()
        refuse_pointer(data, file)
        return _read(data)
    except OSError as error:
        raise ConversionError(f"{file}: cannot be read: {error}") from error
    except (TypeError, ValueError, struct.error) as error:
        raise ConversionError(f"{file}: not a SentencePiece model: {error}") from error


def _read(data: bytes) -> SentencePieceFile:
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, Value] = {}
    normalizer: dict[int, Value] = {}
    for field, value in _fields(data):
        if field == _PIECES and isinstance(value, bytes):
            pieces.append(_piece(dict(_fields(value))))
        elif field == _TRAINER and isinstance(value, bytes):
            trainer |= dict(_fields(value))
        elif field == _NORMALIZER and isinstance(value, bytes):
            normalizer |= dict(_fields(value))
    if not pieces:
        raise ValueError("it has no pieces")
    charsmap, kind = normalizer.get(_CHARSMAP, b""), trainer.get(_MODEL_TYPE, UNIGRAM)
    if not isinstance(charsmap, bytes) or not isinstance(kind, int):
        raise TypeError("a field has the wrong type")
    usual = all(normalizer.get(field, 1) == 1 for field in (_DUMMY_PREFIX, _EXTRA_SPACES, _ESCAPES))
    return SentencePieceFile(pieces, kind, charsmap, usual and not trainer.get(_SPACE_AFTER))


def _piece(fields: dict[int, Value]) -> tuple[str, float, int]:
    text, score, kind = fields.get(_PIECE), fields.get(_SCORE, bytes(4)), fields.get(_TYPE, NORMAL)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or not isinstance(kind, int):
        raise TypeError("a piece has the wrong type")
    number: float
    (number,) = struct.unpack("<f", score)
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError("a score is not finite")
    return text.decode("utf-8"), number, kind


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Yield number and value of each field of a message; fixed numbers as their bytes. Raises ValueError."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            number, at = _varint(data, at)
            yield tag >> 3, number
            continue
        if kind == _BYTES:
            length, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"unknown wire type {kind}")
        if length > len(data) - at:
            raise ValueError("it is truncated")
        yield tag >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number and the position after it."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it is truncated")
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise ValueError("a number is too long")
