"""Read safetensors weights, one file or shards; everything in them is validated.

Format: "safetensors", huggingface/safetensors README, section "Format": 8 bytes little-endian header length N, N bytes of
JSON (`name -> {dtype, shape, data_offsets}`, offsets counted from the end of the header), then the data, without holes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from edgeembed.errors import ConversionError
from edgeembed_convert.jsonfile import parse_json, read_json

Float32Array = npt.NDArray[np.float32]

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json")

_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself
_READ_BYTES = 4 << 20

# numpy types of the data. BF16 is read as 16 bits, the upper half of a float32.
_FLOAT_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """The location of a tensor in a file; `rows` reads it."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Position of the data in the file, in bytes."""

    @property
    def item_bytes(self) -> int:
        """Bytes of one value in the file."""
        return _ITEM_BYTES[self.dtype]

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def rows(self, chunk_bytes: int = _READ_BYTES) -> Iterator[Float32Array]:
        """Yield the tensor in order as float32 arrays of shape (some rows, row length), each about `chunk_bytes` long.

        A 1-D tensor is one row. Raises ConversionError for integers, NaN, infinity, and a file that has been truncated.
        """
        if self.dtype not in _FLOAT_TYPES:
            raise ConversionError(
                f"{self.file}: tensor {self.name} has the type {self.dtype}; expected one of {', '.join(_FLOAT_TYPES)}"
            )
        dtype = np.dtype(_FLOAT_TYPES[self.dtype])
        row_length = self.shape[-1] if self.shape else 1
        row_count = self.size // row_length if row_length else 0
        step = max(1, chunk_bytes // (4 * row_length)) if row_length else 1
        for first in range(0, row_count, step):
            count = min(step, row_count - first)
            # Not memory-mapped: if the file shrinks, access to a mapping ends the process with SIGBUS.
            raw = np.fromfile(
                self.file,
                dtype=dtype,
                count=count * row_length,
                offset=self.offset + first * row_length * dtype.itemsize,
            )
            if raw.size != count * row_length:
                raise ConversionError(
                    f"{self.file}: tensor {self.name} is incomplete: the file was changed during the conversion"
                )
            values = _as_float32(raw, self.dtype).reshape(count, row_length)
            if not np.isfinite(values).all():
                raise ConversionError(
                    f"{self.file}: tensor {self.name} contains NaN or infinity in rows {first} to {first + count - 1}"
                )
            yield values


@dataclass(frozen=True)
class Weights:
    """All tensors of a checkpoint by name, and their files."""

    files: Sequence[Path]
    tensors: Mapping[str, StoredTensor]

    @property
    def size_bytes(self) -> int:
        """Total size of the files."""
        return sum(file.stat().st_size for file in self.files)

    def sha256(self, advance: Callable[[int], None]) -> str:
        """Return the hexadecimal SHA-256 of the weights; `advance` is called with the bytes read since the last call.

        Of a single file, it is the hash of the file. Of shards, it is the hash of the output of `sha256sum` for the files,
        sorted by name.
        """
        digests = []
        for file in self.files:
            digest = hashlib.sha256()
            with file.open("rb") as stream:
                while block := stream.read(_READ_BYTES):
                    digest.update(block)
                    advance(len(block))
            digests.append((digest.hexdigest(), file.name))
        if len(digests) == 1:
            return digests[0][0]
        return hashlib.sha256("".join(f"{digest}  {name}\n" for digest, name in digests).encode()).hexdigest()


def open_weights(folder: Path) -> Weights:
    """Return the safetensors files of a folder; only their headers are read.

    Raises ConversionError if there are none, if a header does not match its file, or shards do not match their index.
    """
    if (folder / SINGLE_FILE).is_file():
        file = folder / SINGLE_FILE
        if shard := _existing_shard(folder):
            raise ConversionError(
                f"{folder}: contains {SINGLE_FILE} and {shard}, which {INDEX_FILE} lists; it is not clear which are the "
                "weights. Remove the others"
            )
        return Weights([file], read_header(file))
    if (folder / INDEX_FILE).is_file():
        return _open_shards(folder)
    for name in PICKLE_FILES:
        if (folder / name).is_file():
            raise ConversionError(
                f"{folder / name}: pickled weights can execute code and are not read; use the model's safetensors files"
            )
    raise ConversionError(f"{folder}: contains neither {SINGLE_FILE} nor {INDEX_FILE}")


def _existing_shard(folder: Path) -> str | None:
    """Return a file besides the single one that an index lists and that exists."""
    weight_map = read_json(folder / INDEX_FILE).get("weight_map") if (folder / INDEX_FILE).is_file() else None
    names = sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []
    return next((name for name in names if name != SINGLE_FILE and (folder / Path(name).name).is_file()), None)


def _open_shards(folder: Path) -> Weights:
    index = folder / INDEX_FILE
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConversionError(f"{index}: weight_map is missing or not an object")
    tensors: dict[str, StoredTensor] = {}
    names = set()
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or name in {"", ".", ".."} or "/" in name or "\\" in name:
            raise ConversionError(f"{index}: tensor {tensor} has the file {name!r}, which is not a file name")
        names.add(name)
    files = [folder / name for name in sorted(names)]
    for file in files:
        if not file.is_file():
            raise ConversionError(f"{file}: missing, but listed in {INDEX_FILE}")
        for tensor, stored in read_header(file).items():
            if weight_map.get(tensor) != file.name:
                raise ConversionError(f"{file}: contains tensor {tensor}, which {INDEX_FILE} lists for another file")
            tensors[tensor] = stored
    for tensor, name in weight_map.items():
        if tensor not in tensors:
            raise ConversionError(f"{folder / name}: tensor {tensor} is missing, but listed in {INDEX_FILE}")
    return Weights(files, tensors)


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one safetensors file by name.

    Raises ConversionError with the file and the reason if the header does not describe the file exactly.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                raise ConversionError(
                    f"{file}: not a safetensors file, or truncated: {size} bytes cannot contain a header of {length} bytes"
                )
            text = stream.read(length)
    except OSError as error:
        raise ConversionError(f"{file}: cannot be read: {error}") from error
    header = parse_json(text, file)
    header.pop("__metadata__", None)
    data_start = 8 + length
    data_bytes = size - data_start
    tensors = {name: _stored_tensor(name, entry, file, data_start, data_bytes) for name, entry in header.items()}
    _check_layout(header, file, data_bytes)
    return tensors


def _stored_tensor(name: str, entry: Any, file: Path, data_start: int, data_bytes: int) -> StoredTensor:
    def bad(reason: str) -> ConversionError:
        return ConversionError(f"{file}: tensor {name}: {reason}")

    if not isinstance(entry, dict):
        raise bad("the entry in the header is not an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise bad(f"unknown type {dtype!r}")
    if not _are_sizes(shape):
        raise bad(f"the shape {json.dumps(shape)} is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise bad(f"the data_offsets {json.dumps(offsets)} are not two positions")
    begin, end = offsets
    if begin > end or end > data_bytes:
        raise bad(f"the data_offsets {begin} to {end} are outside the {data_bytes} bytes of data: the file is truncated")
    if end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise bad(f"the shape {json.dumps(shape)} of {dtype} does not match the {end - begin} bytes of its data_offsets")
    return StoredTensor(name=name, file=file, dtype=dtype, shape=tuple(shape), offset=data_start + begin)


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
    )


def _check_layout(header: dict[str, Any], file: Path, data_bytes: int) -> None:
    """Raise ConversionError unless the tensors cover the data without gaps and overlaps, as the format requires."""
    position = 0
    for name, (begin, end) in sorted(
        ((name, entry["data_offsets"]) for name, entry in header.items()), key=lambda item: item[1]
    ):
        if begin != position:
            raise ConversionError(
                f"{file}: tensor {name} begins at byte {begin} of the data instead of {position}: an overlap or a gap"
            )
        position = end
    if position != data_bytes:
        raise ConversionError(f"{file}: the header describes {position} bytes of data, but the file contains {data_bytes}")


def _as_float32(raw: npt.NDArray[Any], dtype: str) -> Float32Array:
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # F64 values beyond float32 become infinite, which the caller rejects
        return raw.astype(np.float32, copy=False)
