"""The reader for the head of a GGUF file: counts, key-value pairs, arrays and tensor descriptions, with a small buffer.

No number from the file is used for an allocation before the file is known to be that long. The file is read, not mapped: one
that is truncated meanwhile must not end the process. Format: the GGUF specification (ggml, docs/gguf.md), versions 2 and 3,
little-endian; whatever llama.cpp's own reader (gguf.cpp) refuses is refused here, too.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

Scalar = str | int | float | bool

BOOL, STRING, ARRAY = 7, 8, 9
UINT32, INT32, FLOAT32 = 4, 5, 6
_SCALARS = {
    kind: struct.Struct(f"<{code}")
    for kind, code in {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}.items()
}
_LEAST_PAIR = 8 + 1 + 4 + 1
_LEAST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8

_CHUNK = 1 << 18
_MOST_PAIRS = 65_536
_MOST_TENSORS = 16_384
_MOST_VALUES, _MOST_STRINGS = 2**22, 2**20
"""In all arrays together; the largest vocabularies in use have a third of it. In llama.cpp's memory, a string of one letter
takes eight times its size in the file."""
_LONGEST_KEY = 255
LONGEST_TENSOR_NAME = 63
"""ggml's GGML_MAX_NAME without the terminating zero."""
_LONGEST_STRING = 16 * 2**20
_LONGEST_STRINGS = 32 * 2**20
"""Of all string values together; they are kept in memory, unlike those in arrays."""
LONGEST_PIECE = 16 * 2**10
"""Of a string in an array, in bytes."""
MOST_DIMENSIONS = 4


class MalformedError(ValueError):
    """The bytes are not a complete GGUF file; the message says where and why."""


@dataclass(frozen=True)
class GgufArray:
    """The location of an array. `kind` is the GGUF type of its values, `start` the file offset of the first one."""

    kind: int
    count: int
    start: int


class TensorInfo(NamedTuple):
    """One tensor's description. `shape` is in ggml's order, rows first; `offset` counts from the start of the data."""

    name: str
    shape: tuple[int, ...]
    kind: int
    """ggml's number of the quantisation type."""
    offset: int


@dataclass(frozen=True)
class GgufHead:
    """Everything before the tensors' data."""

    version: int
    tensor_count: int
    values: dict[str, Scalar]
    arrays: dict[str, GgufArray]
    spans: dict[str, tuple[int, int]]
    """Where each key-value pair begins and ends in the file."""


class GgufReader:
    """Reads a file from the beginning. All methods raise MalformedError if its content is inconsistent."""

    def __init__(self, file: BinaryIO) -> None:
        """Take an open file, which is read in chunks."""
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        self._buffer = b""
        self._at = 0
        self._end = file.seek(0)
        self._where = "the header"
        self._values_left, self._strings_left = _MOST_VALUES, _MOST_STRINGS

    @property
    def position(self) -> int:
        """Offset of the next byte in the file."""
        return self._end - len(self._buffer) + self._at

    @property
    def _remaining(self) -> int:
        return self.size - self.position

    def head(self) -> GgufHead:
        """Read and return magic, counts and key-value pairs; the tensors' descriptions come next."""
        magic = self._take(min(4, self.size))
        if magic != b"GGUF":
            raise MalformedError(f"it begins with {magic!r} instead of b'GGUF'{_guess(magic)}")
        (version,) = self._unpack(_SCALARS[4])
        if version in (2 << 24, 3 << 24):
            raise MalformedError("big-endian files are not supported")
        if version not in (2, 3):
            raise MalformedError(f"GGUF version {version} is not supported, only 2 and 3 are")
        tensors, pairs = self._unpack(struct.Struct("<QQ"))
        # Checked before the first pair is read, as every number is before it is used.
        for count, most, least, what in (
            (pairs, _MOST_PAIRS, _LEAST_PAIR, "key-value pairs"),
            (tensors, _MOST_TENSORS, _LEAST_TENSOR, "tensors"),
        ):
            if count > most or count * least > self._remaining:
                raise MalformedError(f"the header claims {count} {what}, more than {min(most, self._remaining // least)}")
        values: dict[str, Scalar] = {}
        arrays: dict[str, GgufArray] = {}
        spans: dict[str, tuple[int, int]] = {}
        room = _LONGEST_STRINGS
        for number in range(pairs):
            self._where = f"key number {number}"
            start = self.position
            key = self._name(_LONGEST_KEY)
            self._where = f"key {key!r}"
            if key in values or key in arrays:
                raise MalformedError(f"{self._where} occurs twice")
            (kind,) = self._unpack(_SCALARS[4])
            if kind == ARRAY:
                arrays[key] = self._array(key)
            elif kind == STRING:
                text = values[key] = self._text(_LONGEST_STRING)
                room -= len(text)
                if room < 0:
                    raise MalformedError(f"the string values are longer than {_LONGEST_STRINGS} together")
            else:
                values[key] = self._scalar(kind)
            spans[key] = (start, self.position)
        return GgufHead(version, tensors, values, arrays, spans)

    def tensors(self, head: GgufHead) -> list[TensorInfo]:
        """Read and return the tensors' descriptions; the data begins at the next alignment after `position`."""
        found: dict[str, TensorInfo] = {}
        for number in range(head.tensor_count):
            self._where = f"tensor number {number}"
            name = self._name(LONGEST_TENSOR_NAME)
            self._where = f"tensor {name!r}"
            if name in found:
                raise MalformedError(f"{self._where} occurs twice")
            (dimensions,) = self._unpack(_SCALARS[4])
            if not 1 <= dimensions <= MOST_DIMENSIONS:
                raise MalformedError(f"{self._where} has {dimensions} dimensions")
            shape = self._unpack(struct.Struct(f"<{dimensions}Q"))
            kind, offset = self._unpack(struct.Struct("<IQ"))
            found[name] = TensorInfo(name, shape, kind, offset)
        return list(found.values())

    def bytes_at(self, name: str, start: int, count: int) -> bytes:
        """Return bytes of a tensor's data. name: the tensor's. start: in the file."""
        self._go_to(name, start)
        return self._take(count)

    def strings(self, key: str, array: GgufArray, longest: int = LONGEST_PIECE) -> Iterator[bytes]:
        """Return an iterator over the strings of an array, each of at most `longest` bytes."""
        self._go_to(key, array.start)
        return self._strings(array.count, longest)

    def chunks(self, key: str, array: GgufArray) -> Iterator[bytes]:
        """Yield the bytes of an array of numbers, in chunks of whole numbers."""
        self._go_to(key, array.start)
        left = array.count * _SCALARS[array.kind].size
        while left:
            chunk = self._take(min(left, _CHUNK))
            left -= len(chunk)
            yield chunk

    # --- inside -------------------------------------------------------------------------------------------------------

    def _go_to(self, key: str, start: int) -> None:
        self._where = f"key {key!r}"
        self._buffer, self._at, self._end = b"", 0, self._file.seek(start)

    def _fill(self, needed: int) -> None:
        """Fill the buffer with at least `needed` more bytes."""
        if needed > self._remaining:
            raise MalformedError(f"the file ends within {self._where}")
        rest = self._buffer[self._at :]
        more = self._file.read(max(needed - len(rest), _CHUNK))
        self._end += len(more)
        self._buffer, self._at = rest + more, 0
        if len(self._buffer) < needed:
            raise MalformedError("the file was truncated while it was read")

    def _take(self, count: int) -> bytes:
        if self._at + count > len(self._buffer):
            self._fill(count)
        self._at += count
        return self._buffer[self._at - count : self._at]

    def _unpack(self, form: struct.Struct) -> tuple[int, ...]:
        return form.unpack(self._take(form.size))

    def _scalar(self, kind: int) -> Scalar:
        if kind not in _SCALARS:
            raise MalformedError(f"{self._where} has the unknown type {kind}")
        (value,) = self._unpack(_SCALARS[kind])
        if kind != BOOL:
            return value
        if value > 1:
            raise MalformedError(f"{self._where} is a bool of value {value}")
        return bool(value)

    def _text(self, longest: int) -> str:
        (length,) = self._unpack(_SCALARS[10])
        if length > longest:
            raise MalformedError(f"{self._where} has a string of {length} bytes")
        try:
            text = self._take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedError(f"{self._where} has a string that is not UTF-8") from error
        # C would end the string there, so two programs would read different strings.
        if "\0" in text:
            raise MalformedError(f"{self._where} has a string with a zero byte")
        return text

    def _name(self, longest: int) -> str:
        name = self._text(longest)
        if not name or not name.isprintable():
            raise MalformedError(f"{self._where} has the name {name!r}")
        return name

    def _array(self, key: str) -> GgufArray:
        kind, count = self._unpack(struct.Struct("<IQ"))
        if kind == ARRAY:
            raise MalformedError(f"{self._where} is an array of arrays")
        if kind != STRING and kind not in _SCALARS:
            raise MalformedError(f"{self._where} is an array of the unknown type {kind}")
        least = 8 if kind == STRING else _SCALARS[kind].size
        if count * least > self._remaining:
            raise MalformedError(f"{self._where} claims {count} values, more than the file has")
        self._values_left -= count
        self._strings_left -= count if kind == STRING else 0
        if self._values_left < 0 or self._strings_left < 0:
            raise MalformedError(
                f"{self._where} has {count} values: more than {_MOST_VALUES} in all, or {_MOST_STRINGS} strings"
            )
        array = GgufArray(kind, count, self.position)
        if kind == STRING:
            self._skip_strings(count)
        elif kind == BOOL:
            if any(chunk.strip(b"\0\1") for chunk in self.chunks(key, array)):
                raise MalformedError(f"{self._where} has bools other than 0 and 1")
        else:
            self._skip(count * least)
        return array

    def _strings(self, count: int, longest: int) -> Iterator[bytes]:
        # For a vocabulary of 150,000 tokens and as many merges, this loop and the next take most of the time.
        length_of = _SCALARS[10].unpack_from
        buffer, at, size = self._buffer, self._at, len(self._buffer)
        for _ in range(count):
            start = at + 8
            if start > size:
                buffer, at, size = self._refilled(at, 8)
                start = 8
            (length,) = length_of(buffer, at)
            if length > longest:
                raise MalformedError(f"{self._where} contains a string of {length} bytes")
            at = start + length
            if at > size:
                buffer, start, size = self._refilled(start, length)
                at = length
            yield buffer[start:at]
        self._at = at

    def _skip_strings(self, count: int) -> None:
        length_of = _SCALARS[10].unpack_from
        buffer, at, size = self._buffer, self._at, len(self._buffer)
        for _ in range(count):
            if at + 8 > size:
                buffer, at, size = self._refilled(at, 8)
            (length,) = length_of(buffer, at)
            if length > LONGEST_PIECE:
                raise MalformedError(f"{self._where} contains a string of {length} bytes")
            at += 8 + length
            if at > size:
                buffer, at, size = self._refilled(at - length, length)
                at = length
        self._at = at

    def _refilled(self, at: int, needed: int) -> tuple[bytes, int, int]:
        """Return the buffer, refilled with `needed` bytes from `at` on, their start in it, and its length."""
        self._at = at
        self._fill(needed)
        return self._buffer, 0, len(self._buffer)

    def _skip(self, count: int) -> None:
        if self._at + count <= len(self._buffer):
            self._at += count
        else:
            self._buffer, self._at, self._end = b"", 0, self._file.seek(self.position + count)


def _guess(magic: bytes) -> str:
    if not magic:
        return " (the file is empty)"
    if magic.startswith((b"<", b"vers")):
        return " (a web page or a Git LFS pointer was saved in its place)"
    if magic.startswith(b"PK"):
        return " (it is a zip archive or a PyTorch checkpoint)"
    return ""
