"""Write GGUF files, which appear under their name only when they are complete.

The `gguf` package writes the header; the tensors are encoded and written piece by piece, so that memory does not grow with
the model.
Format: ggml's docs/gguf.md, version 3.
"""

from __future__ import annotations

import logging
import shutil
import struct
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from gguf import GGUF_DEFAULT_ALIGNMENT, GGUFReader, GGUFValueType, GGUFWriter, Keys
from gguf.gguf_reader import ReaderField

from edgeembed.common import files
from edgeembed.errors import ConversionError
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.quantization import encode, ggml_type, stored_bytes
from edgeembed_convert.views import TensorSource

log = logging.getLogger(__name__)

_HEADER_BYTES = 16 << 20  # upper estimate of the metadata, mostly the vocabulary
_STALE_SECONDS = 900
_COUNTS_END = 24  # magic, version, number of tensors, number of keys
_SUFFIX = ".tmp"  # that of files.replacing


@dataclass(frozen=True)
class OutputTensor:
    """One tensor of the file: its name, its source, and the type to store it as."""

    name: str
    source: TensorSource
    type: str

    @property
    def size_bytes(self) -> int:
        """Bytes in the file, without padding."""
        return stored_bytes(self.source.shape, self.type)


def check_target(target: Path, needed: int) -> None:
    """Raise ConversionError unless `needed` bytes can be written: the folder must exist and have enough free space."""
    if not target.parent.is_dir():
        raise ConversionError(f"{target.parent}: no such folder")
    if target.is_dir():
        raise ConversionError(f"{target} is a folder; expected the name of the file to write")
    needed += _HEADER_BYTES
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise ConversionError(f"{target.parent}: not enough free space: {needed >> 20} MiB needed, {free >> 20} MiB free")


def write_gguf(
    file: Path,
    architecture: str,
    metadata: Metadata,
    tensors: Sequence[OutputTensor],
    advance: Callable[[int], None],
) -> None:
    """Write a GGUF file; see `replacing` for its path. `advance` is called with the bytes written since the last call.

    Raises ConversionError for values that a type cannot hold and strings that are not valid Unicode; OSError.
    """
    try:
        _write_header(file, architecture, metadata, tensors)
        with file.open("ab") as stream:
            _pad(stream)
            for tensor in tensors:
                _write_tensor(stream, tensor, advance)
    except UnicodeEncodeError as error:
        raise ConversionError(f"{error.object!r} is not valid Unicode and cannot be stored") from error


def copy_under_architecture(source: Path, target: Path, architecture: str) -> None:
    """Copy a GGUF file with another `general.architecture`, which becomes its first key. Raises OSError."""
    reader = GGUFReader(source)
    field, last = reader.fields[Keys.General.ARCHITECTURE], reader.tensors[-1].field
    begin, end, metadata_end = field.offset, _end_of(field), _end_of(last)
    key, value = Keys.General.ARCHITECTURE.encode(), architecture.encode()
    pair = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", GGUFValueType.STRING, len(value)) + value
    with source.open("rb") as old, target.open("wb") as new:
        head = old.read(metadata_end)
        new.write(head[:_COUNTS_END] + pair + head[_COUNTS_END:begin] + head[end:])
        _pad(new)
        old.seek(reader.data_offset)
        shutil.copyfileobj(old, new, 1 << 20)


def _end_of(field: ReaderField) -> int:
    return int(field.offset) + sum(int(part.nbytes) for part in field.parts)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a hidden path next to `target`, and rename it to `target` at the end; remove it after an error.

    Raises ConversionError if the file cannot be written.
    """
    with _writing(target), files.replacing(target, sync=True) as part:
        yield part


@contextmanager
def temporary(target: Path) -> Iterator[Path]:
    """Yield a hidden path next to `target` for a file that is removed at the end.

    Raises ConversionError if the file cannot be written.
    """
    part = target.with_name(f"{_hidden_prefix(target)}{uuid.uuid4().hex}{_SUFFIX}")
    with _writing(target):
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)


def _remove_stale(target: Path) -> None:
    # A running conversion has written to its file recently.
    for old in target.parent.iterdir():
        hidden = old.name.startswith(_hidden_prefix(target)) and old.name.endswith(_SUFFIX)
        if hidden and old.stat().st_mtime < time.time() - _STALE_SECONDS:
            log.info("removing what a killed conversion left: %s", old)
            old.unlink(missing_ok=True)


def _hidden_prefix(target: Path) -> str:
    return f".{target.name}."


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Remove what killed conversions left, and turn errors of the file system into ConversionError."""
    try:
        _remove_stale(target)
        yield
    except OSError as error:
        raise ConversionError(f"{target}: not written: {error}") from error


def _write_header(part: Path, architecture: str, metadata: Metadata, tensors: Sequence[OutputTensor]) -> None:
    writer = GGUFWriter(part, architecture)
    try:
        for key, value in metadata.items():
            if isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, int):
                writer.add_uint32(key, value)
            elif isinstance(value, float):
                writer.add_float32(key, value)
            elif isinstance(value, str):
                writer.add_string(key, value)
            else:
                writer.add_array(key, value)
        for tensor in tensors:
            kind = ggml_type(tensor.type)
            # Any dtype except uint8, for which the package would interpret the shape as bytes.
            writer.add_tensor_info(tensor.name, tensor.source.shape, np.dtype(np.float32), tensor.size_bytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _write_tensor(stream: BinaryIO, tensor: OutputTensor, advance: Callable[[int], None]) -> None:
    for rows in tensor.source.rows():
        try:
            data = encode(rows, tensor.type)
        except ConversionError as error:
            raise ConversionError(f"{tensor.source.file}: tensor {tensor.source.name}: {error.message}") from error
        advance(stream.write(data.tobytes()))
    _pad(stream)


def _pad(stream: BinaryIO) -> None:
    stream.write(bytes(-stream.tell() % GGUF_DEFAULT_ALIGNMENT))
