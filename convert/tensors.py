"""A tensor in a file of weights: its place, its type, and how it is read. The formats of the files are elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeembed.errors import ConversionError

Float32Array = npt.NDArray[np.float32]

READ_BYTES = 4 << 20

# numpy types of the data. BF16 is read as 16 bits, the upper half of a float32; of 8 bits each has its value in a table.
FLOAT_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1"}
ITEM_BYTES = {
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
        return ITEM_BYTES[self.dtype]

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def row_range(self, first: int, end: int) -> StoredTensor:
        """Return rows `first` to `end` (exclusive) of a 2-D tensor, which exist."""
        row_bytes = self.shape[1] * self.item_bytes
        return replace(self, shape=(end - first, self.shape[1]), offset=self.offset + first * row_bytes)

    def rows(self, chunk_bytes: int = READ_BYTES) -> Iterator[Float32Array]:
        """Yield the tensor in order as float32 arrays of shape (some rows, row length), each about `chunk_bytes` long.

        A 1-D tensor is one row. Raises ConversionError for integers, NaN, infinity, and a file that has been truncated.
        """
        if self.dtype not in FLOAT_TYPES:
            raise ConversionError(
                f"{self.file}: tensor {self.name} has the type {self.dtype}; expected one of {', '.join(FLOAT_TYPES)}"
            )
        dtype = np.dtype(FLOAT_TYPES[self.dtype])
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

    def values(self) -> Float32Array:
        """Return the whole tensor. Raises ConversionError as `rows` does."""
        return np.concatenate([np.empty(0, dtype=np.float32), *(rows.ravel() for rows in self.rows())]).reshape(self.shape)


@dataclass(frozen=True)
class ScaledTensor(StoredTensor):
    """A 2-D tensor of small numbers, each of which is to be multiplied by the scale of its block."""

    scale: StoredTensor
    """2-D: one scale for each block, in the order of the blocks."""
    block: tuple[int, int]
    """Rows and columns of a block; those at the end may be smaller."""
    first_row: int = 0
    """Number of the first row in the whole tensor, from which blocks are counted."""

    def row_range(self, first: int, end: int) -> StoredTensor:
        part = super().row_range(first, end)
        return replace(self, shape=part.shape, offset=part.offset, first_row=self.first_row + first)

    def rows(self, chunk_bytes: int = READ_BYTES) -> Iterator[Float32Array]:
        scales = self.scale.values()
        columns = np.arange(self.shape[1]) // self.block[1]
        at = self.first_row
        for rows in super().rows(chunk_bytes):
            with np.errstate(over="ignore"):
                values = rows * scales[(at + np.arange(len(rows))) // self.block[0]][:, columns]
            if not np.isfinite(values).all():
                raise ConversionError(f"{self.file}: tensor {self.name} with its scale {self.scale.name} is infinite")
            yield values
            at += len(rows)


def _as_float32(raw: npt.NDArray[Any], dtype: str) -> Float32Array:
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    if dtype == "F8_E5M2":  # the upper half of a float16
        return (raw.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    if dtype == "F8_E4M3":
        values: Float32Array = _E4M3[raw]
        return values
    with np.errstate(over="ignore"):  # F64 values beyond float32 become infinite, which the caller rejects
        return raw.astype(np.float32, copy=False)


def _e4m3_values() -> Float32Array:
    """Return the values of all bytes: a sign, 4 bits of exponent with bias 7, 3 of fraction; no infinity, NaN is 0x7F.

    Micikevicius et al., "FP8 Formats for Deep Learning", 2022.
    """
    numbers = np.arange(256)
    exponent, fraction = numbers >> 3 & 15, numbers & 7
    values = np.where(exponent > 0, np.ldexp(1 + fraction / 8, exponent - 7), np.ldexp(fraction / 8, -6))
    values[numbers & 127 == 127] = np.nan
    return np.where(numbers > 127, -values, values).astype(np.float32)


_E4M3 = _e4m3_values()
