"""GGUF files taken apart and put together again, damaged ones too. Format: the GGUF specification (ggml, docs/gguf.md)."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from gguf import GGML_QUANT_SIZES

BOOL, STRING, ARRAY = 7, 8, 9
CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
SIZES = {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}
"""Values and bytes of a block, by ggml's number of the type."""
ALIGNMENT, ARCHITECTURE = b"general.alignment", b"general.architecture"


class Array(NamedTuple):
    """The value of an array key."""

    kind: int
    values: list[bytes] | list[int] | list[float]


@dataclass
class Pair:
    """One key-value pair. Strings are bytes: damaged ones need not be UTF-8."""

    key: bytes
    kind: int
    value: bytes | int | float | Array


@dataclass
class Tensor:
    """One tensor with its data."""

    name: bytes
    shape: list[int]
    kind: int
    data: bytes


@dataclass
class Gguf:
    """A GGUF file taken apart."""

    pairs: list[Pair]
    tensors: list[Tensor]
    version: int = 3
    alignment: int = 32
    spots: dict[str, list[int]] = field(default_factory=dict)
    """Offsets in the file that this was read from, by what lies there: counts, lengths, types, dimensions, offsets."""

    def put(self, key: str, kind: int, value: bytes | int | float | Array) -> None:
        """Set a key, replacing its value."""
        self.drop(key)
        self.pairs.append(Pair(key.encode(), kind, value))

    def drop(self, key: str) -> None:
        """Remove a key."""
        self.pairs = [pair for pair in self.pairs if pair.key != key.encode()]

    def value(self, key: str) -> bytes | int | float | Array:
        """Return the value of a key."""
        return next(pair.value for pair in self.pairs if pair.key == key.encode())

    def tensor(self, name: str) -> Tensor:
        """Return a tensor by its name."""
        return next(tensor for tensor in self.tensors if tensor.name == name.encode())

    @property
    def architecture(self) -> bytes:
        """The prefix of the keys of the sizes."""
        return next((pair.value for pair in self.pairs if pair.key == ARCHITECTURE and isinstance(pair.value, bytes)), b"")


def read(content: bytes) -> Gguf:
    """Parse a sound file."""
    spots: dict[str, list[int]] = {"count": [8, 16], "length": [], "type": [], "dimension": [], "offset": []}
    at = 24

    def number(code: str, what: str = "") -> int:
        nonlocal at
        if what:
            spots[what].append(at)
        (value,) = struct.unpack_from(f"<{code}", content, at)
        at += struct.calcsize(code)
        return value  # type: ignore[no-any-return]

    def text() -> bytes:
        nonlocal at
        length = number("Q", "length")
        at += length
        return content[at - length : at]

    def value(kind: int) -> bytes | int | float | Array:
        if kind == STRING:
            return text()
        if kind != ARRAY:
            return number(CODES[kind])
        inner, count = number("I", "type"), number("Q", "length")
        return Array(inner, [value(inner) for _ in range(count)])  # type: ignore[arg-type]

    version, tensors, pairs = struct.unpack_from("<IQQ", content, 4)
    found = Gguf([], [], version, spots=spots)
    for _ in range(pairs):
        key, kind = text(), number("I", "type")
        found.pairs.append(Pair(key, kind, value(kind)))
    infos = []
    for _ in range(tensors):
        name, dimensions = text(), number("I", "dimension")
        shape = [number("Q", "dimension") for _ in range(dimensions)]
        infos.append((name, shape, number("I", "type"), number("Q", "offset")))
    spots["head"] = [at]
    data = -(-at // 32) * 32
    for name, shape, kind, offset in infos:
        start = data + offset
        found.tensors.append(Tensor(name, shape, kind, content[start : start + size_of(shape, kind)]))
    return found


def size_of(shape: list[int], kind: int) -> int:
    """Return the size of a tensor in bytes; 0 for types without a size."""
    values, size = SIZES.get(kind, (1, 0))
    return math.prod(shape) // values * size


def write(file: Gguf) -> bytes:
    """Return the bytes of a file, with lengths and offsets that match its parts."""
    body = bytearray(b"GGUF" + struct.pack("<IQQ", file.version, len(file.tensors), len(file.pairs)))
    for pair in file.pairs:
        body += _text(pair.key) + struct.pack("<I", pair.kind) + _value(pair.kind, pair.value)
    offset = 0
    for tensor in file.tensors:
        body += _text(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        body += struct.pack("<IQ", tensor.kind, offset)
        offset += _padded(len(tensor.data), file.alignment)
    body += bytes(-len(body) % file.alignment)
    for tensor in file.tensors:
        body += tensor.data + bytes(-len(tensor.data) % file.alignment)
    return bytes(body)


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _text(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


def _value(kind: int, value: bytes | int | float | Array) -> bytes:
    if isinstance(value, Array):
        head = struct.pack("<IQ", value.kind, len(value.values))
        if value.kind in CODES:
            return head + struct.pack(f"<{len(value.values)}{CODES[value.kind]}", *value.values)
        return head + b"".join(_value(value.kind, item) for item in value.values)
    if isinstance(value, bytes):
        return _text(value)
    code = CODES[kind]
    if code in "fd":
        return struct.pack(f"<{code}", value)
    return (int(value) % 2**64).to_bytes(8, "little")[: struct.calcsize(code)]
