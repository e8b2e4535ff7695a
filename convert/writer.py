"""Stream a GGUF file to disk so that it is there whole, or not at all.

The header is the `gguf` package's; the tensors are encoded and written piece by piece, so that memory does not grow with the
model.
Format: ggml's docs/gguf.md, version 3.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from gguf import GGUF_DEFAULT_ALIGNMENT, GGUFWriter

from edgeembed.errors import ConversionError
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.quantization import encode, ggml_type, stored_bytes
from edgeembed_convert.views import TensorSource

log = logging.getLogger(__name__)

_HEADER_ROOM = 16 << 20  # the vocabulary and the names: more than any known model needs
_STALE_SECONDS = 900


@dataclass(frozen=True)
class OutputTensor:
    """One tensor of the file: name, source, and the type in which it is stored."""

    name: str
    source: TensorSource
    type: str

    @property
    def size_bytes(self) -> int:
        """Bytes in the file, without padding."""
        return stored_bytes(self.source.shape, self.type)


def check_target(target: Path, needed: int) -> None:
    """Check that `needed` bytes can be written: the folder is there and the disk has room. Raises ConversionError."""
    if not target.parent.is_dir():
        raise ConversionError(f"{target.parent}: no such folder")
    if target.is_dir():
        raise ConversionError(f"{target}: is a folder; name the file to write")
    needed += _HEADER_ROOM
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise ConversionError(f"{target.parent}: {needed >> 20} MiB are needed, {free >> 20} MiB are free")


def write_gguf(
    target: Path,
    architecture: str,
    metadata: Metadata,
    tensors: Sequence[OutputTensor],
    advance: Callable[[int], None],
) -> int:
    """Write the file and give its size in bytes; an older file of that name is replaced at the very end.

    `advance` gets the bytes written since the last call. Raises ConversionError; then, and when interrupted,
    nothing is left.
    """
    try:
        with replacing(target) as part:
            _write_header(part, architecture, metadata, tensors)
            with part.open("ab") as stream:
                _pad(stream)
                for tensor in tensors:
                    _write_tensor(stream, tensor, advance)
                stream.flush()
                os.fsync(stream.fileno())
                size = stream.tell()
    except UnicodeEncodeError as error:
        raise ConversionError(f"{error.object!r} is not valid Unicode and cannot be stored") from error
    except OSError as error:
        raise ConversionError(f"{target}: not written: {error}") from error
    return size


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a hidden name beside the target; move it there on success, remove it on any way out that is not."""
    if _is_hidden_part(target.name):  # itself on the way to somewhere; whoever named it removes it
        yield target
        return
    prefix = f".{target.name}."
    for old in target.parent.iterdir():
        # A conversion that was killed outright could not tidy up. One that is alive wrote to its file not long ago.
        if old.name.startswith(prefix) and old.name.endswith(".part") and old.stat().st_mtime < time.time() - _STALE_SECONDS:
            log.info("removing what a killed conversion left: %s", old)
            old.unlink(missing_ok=True)
    part = hidden_part(target)
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def hidden_part(target: Path) -> Path:
    """Give a new hidden name beside a target, for a file on the way to it; what a kill leaves is removed next time."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")


def _is_hidden_part(name: str) -> bool:
    return name.startswith(".") and name.endswith(".part")


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
            # Any dtype but uint8: that one would make the package take the shape for bytes.
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
