"""The head of a GGUF file, read without the `gguf` package, whose import alone takes longer than this.

Format: the GGUF specification (ggml, docs/gguf.md): magic, version, number of tensors, number of key-value pairs, pairs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgeembed.errors import HubError, UnknownModelError

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
RANK_POOLING = 4
"""`pooling_type` of a reranker."""
_STRING, _ARRAY = 8, 9
_LONGEST_STRING = 16 * 2**20
_MOST_PAIRS = 65536

# `general.file_type` (llama.cpp, enum llama_ftype), the types that people quantise embedding models to.
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 25: "IQ4_NL", 30: "IQ4_XS",
    32: "BF16",
}  # fmt: skip


@dataclass(frozen=True)
class GgufHeader:
    """Key-value pairs of a GGUF file, arrays left out."""

    values: dict[str, str | int | float | bool]

    def text(self, key: str) -> str | None:
        """Give a string value; None when the key is missing or holds something else."""
        value = self.values.get(key)
        return value if isinstance(value, str) else None

    def number(self, key: str) -> int | None:
        """Give an integer value; None when the key is missing or holds something else."""
        value = self.values.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def architecture(self) -> str | None:
        """Name of the model's architecture."""
        return self.text("general.architecture")

    @property
    def dimensions(self) -> int | None:
        """Length of the model's vectors."""
        return self.number(f"{self.architecture}.embedding_length")

    @property
    def pooling(self) -> int | None:
        """llama.cpp's number of the pooling."""
        return self.number(f"{self.architecture}.pooling_type")

    @property
    def type(self) -> str:
        """Quantisation type that the file says it has; "unknown" when it does not."""
        number = self.number("general.file_type")
        return "unknown" if number is None else _FILE_TYPES.get(number, "unknown")


def read_header(path: Path) -> GgufHeader:
    """Read the head of a GGUF file; a vocabulary of 150,000 tokens makes that a fifth of a second.

    Raises UnknownModelError when there is no such file, HubError when it is no GGUF file or its head is damaged.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path)
    except FileNotFoundError as error:
        raise UnknownModelError(f"there is no file {path}") from error
    except OSError as error:
        raise HubError(f"cannot read {path}: {error.strerror or error}") from error


def _read(file: BinaryIO, path: Path) -> GgufHeader:
    magic = file.read(4)
    if magic != b"GGUF":
        raise HubError(f"{path} is not a GGUF file: it begins with {magic!r} instead of b'GGUF'{_guess(magic)}")
    try:
        (version,) = _unpack(file, "<I")
        if not 2 <= version <= 3:
            raise HubError(f"{path}: GGUF version {version} is not supported, only 2 and 3 (little endian) are")
        _tensors, pairs = _unpack(file, "<QQ")
        if pairs > _MOST_PAIRS:
            raise HubError(f"{path}: damaged GGUF header: {pairs} key-value pairs")
        values: dict[str, str | int | float | bool] = {}
        for _ in range(pairs):
            key = _string(file)
            (kind,) = _unpack(file, "<I")
            if kind == _ARRAY:
                _skip_array(file)
            elif kind == _STRING:
                values[key] = _string(file)
            else:
                (values[key],) = _unpack(file, _SCALARS[kind])
    except (EOFError, KeyError, UnicodeDecodeError) as error:
        raise HubError(f"{path}: damaged or incomplete GGUF header") from error
    return GgufHeader(values)


def _unpack(file: BinaryIO, form: str) -> tuple[int, ...]:
    size = struct.calcsize(form)
    raw = file.read(size)
    if len(raw) != size:
        raise EOFError
    return struct.unpack(form, raw)


def _string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "<Q")
    if length > _LONGEST_STRING:
        raise EOFError  # a length that no file holds: never allocate it
    raw = file.read(length)
    if len(raw) != length:
        raise EOFError
    return raw.decode("utf-8")


def _skip_array(file: BinaryIO) -> None:
    kind, count = _unpack(file, "<IQ")
    if kind == _STRING:
        for _ in range(count):
            _string(file)
    elif count > _LONGEST_STRING:
        raise EOFError
    else:
        file.seek(struct.calcsize(_SCALARS[kind]) * count, 1)


def _guess(magic: bytes) -> str:
    if not magic:
        return " (the file is empty)"
    if magic.startswith((b"<", b"vers")):
        return " (a web page or a Git LFS pointer was saved in its place)"
    if magic.startswith(b"PK"):
        return " (it is a zip archive or a PyTorch checkpoint)"
    return ""
