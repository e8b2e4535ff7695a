"""Read weights, one file or shards: safetensors, or else pytorch_model.bin (`pickled`); everything in them is validated.

Format: "safetensors", huggingface/safetensors README, section "Format": 8 bytes little-endian header length N, N bytes of
JSON (`name -> {dtype, shape, data_offsets}`, offsets counted from the end of the header), then the data, without holes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from edgeembed.errors import ConversionError
from edgeembed_convert.jsonfile import POINTER_BYTES, parse_json, read_json, refuse_pointer
from edgeembed_convert.pickled import read_pickled
from edgeembed_convert.tensors import ITEM_BYTES, READ_BYTES, Float32Array, StoredTensor

__all__ = ["Float32Array", "StoredTensor", "Weights", "open_weights", "read_header"]

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_FILE = "pytorch_model.bin"
PICKLE_INDEX_FILE = "pytorch_model.bin.index.json"

_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself


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
                while block := stream.read(READ_BYTES):
                    digest.update(block)
                    advance(len(block))
            digests.append((digest.hexdigest(), file.name))
        if len(digests) == 1:
            return digests[0][0]
        return hashlib.sha256("".join(f"{digest}  {name}\n" for digest, name in digests).encode()).hexdigest()


def open_weights(folder: Path) -> Weights:
    """Return the weights of a folder, safetensors if there are any; only the headers of files are read.

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
        return _open_shards(folder, INDEX_FILE, read_header)
    if (folder / PICKLE_FILE).is_file():
        return Weights([folder / PICKLE_FILE], read_pickled(folder / PICKLE_FILE))
    if (folder / PICKLE_INDEX_FILE).is_file():
        return _open_shards(folder, PICKLE_INDEX_FILE, read_pickled)
    raise ConversionError(f"{folder}: contains neither {SINGLE_FILE} nor {PICKLE_FILE}, nor {INDEX_FILE}")


def _existing_shard(folder: Path) -> str | None:
    """Return a file besides the single one that an index lists and that exists."""
    weight_map = read_json(folder / INDEX_FILE).get("weight_map") if (folder / INDEX_FILE).is_file() else None
    names = sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []
    return next((name for name in names if name != SINGLE_FILE and (folder / Path(name).name).is_file()), None)


def _open_shards(folder: Path, index_name: str, read: Callable[[Path], dict[str, StoredTensor]]) -> Weights:
    index = folder / index_name
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
            raise ConversionError(f"{file}: missing, but listed in {index_name}")
        for tensor, stored in read(file).items():
            if weight_map.get(tensor) != file.name:
                raise ConversionError(f"{file}: contains tensor {tensor}, which {index_name} lists for another file")
            tensors[tensor] = stored
    for tensor, name in weight_map.items():
        if tensor not in tensors:
            raise ConversionError(f"{folder / name}: tensor {tensor} is missing, but listed in {index_name}")
    return Weights(files, tensors)


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one safetensors file by name.

    Raises ConversionError with the file and the reason if the header does not describe the file exactly.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            refuse_pointer(stream.read(POINTER_BYTES), file)
            stream.seek(0)
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
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise bad(f"unknown type {dtype!r}")
    if not _are_sizes(shape):
        raise bad(f"the shape {json.dumps(shape)} is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise bad(f"the data_offsets {json.dumps(offsets)} are not two positions")
    begin, end = offsets
    if begin > end or end > data_bytes:
        raise bad(f"the data_offsets {begin} to {end} are outside the {data_bytes} bytes of data: the file is truncated")
    if end - begin != math.prod(shape) * ITEM_BYTES[dtype]:
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
