"""Tensors derived from stored ones while the file is written: some of the rows, rows in another order, a number added, ...

They have the interface of a stored tensor: a name and a file for error messages, a shape, and rows that are read piece by
piece.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from edgeembed.errors import ConversionError
from edgeembed_convert.tensors import Float32Array, StoredTensor


class TensorSource(Protocol):
    """The source of a planned tensor."""

    @property
    def name(self) -> str:
        """The tensor's name in the checkpoint."""
        ...

    @property
    def file(self) -> Path: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def size(self) -> int:
        """Number of values."""
        ...

    def rows(self) -> Iterator[Float32Array]:
        """Yield the tensor in order as float32 arrays of shape (some rows, row length)."""
        ...


def row_range(tensor: StoredTensor, first: int, end: int) -> StoredTensor:
    """Return rows `first` to `end` (exclusive) of a 2-D tensor; the others are not read.

    Raises ConversionError if they do not exist.
    """
    if len(tensor.shape) != 2 or not 0 <= first < end <= tensor.shape[0]:
        raise ConversionError(
            f"{tensor.file}: tensor {tensor.name} of shape {list(tensor.shape)} has no rows {first} to {end}"
        )
    return tensor.row_range(first, end)


@dataclass(frozen=True)
class Derived:
    """Base class of tensors derived from one stored tensor."""

    source: StoredTensor

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def file(self) -> Path:
        return self.source.file

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class SelectedRows(Derived):
    """Selected rows of a 2-D tensor, in the given order."""

    numbers: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raise ConversionError if a row does not exist."""
        for number in self.numbers:
            row_range(self.source, number, number + 1)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.numbers), self.source.shape[1])

    def rows(self) -> Iterator[Float32Array]:
        for number in self.numbers:
            yield from row_range(self.source, number, number + 1).rows()


@dataclass(frozen=True)
class WithZeroRow(Derived):
    """A 2-D tensor with a row of zeros appended."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.source.shape[0] + 1, self.source.shape[1])

    def rows(self) -> Iterator[Float32Array]:
        yield from self.source.rows()
        yield np.zeros((1, self.source.shape[1]), dtype=np.float32)


@dataclass(frozen=True)
class WithoutMiddle(Derived):
    """A tensor of shape (rows, 1, columns) as one of shape (rows, columns)."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.source.shape[0], self.source.shape[2])

    def rows(self) -> Iterator[Float32Array]:
        yield from self.source.rows()


@dataclass(frozen=True)
class Plus(Derived):
    """A tensor with a number added to each value."""

    number: float

    def rows(self) -> Iterator[Float32Array]:
        for rows in self.source.rows():
            yield (rows + np.float32(self.number)).astype(np.float32)


@dataclass(frozen=True)
class Interleaved(Derived):
    """The rows of each head in the order of llama.cpp's Llama: 0, head / 2, 1, head / 2 + 1, ...; a bias likewise.

    Rotary positions turn pairs of numbers of a query or key: in transformers number i with i + head / 2, in llama.cpp's
    Llama two neighbours.
    """

    head: int
    """Rows of a head, an even number that divides all."""

    @property
    def dtype(self) -> str:
        """The type that holds all values: that of the source."""
        return self.source.dtype

    def rows(self) -> Iterator[Float32Array]:
        order = np.arange(self.head).reshape(2, -1).T.ravel()
        if len(self.shape) == 1:
            for row in self.source.rows():
                yield row.reshape(-1, self.head)[:, order].reshape(1, -1)
            return
        for first in range(0, self.shape[0], self.head):
            yield np.concatenate(list(row_range(self.source, first, first + self.head).rows()))[order]


@dataclass(frozen=True)
class Constant:
    """A tensor that is computed from the checkpoint's settings."""

    name: str
    file: Path
    values: Float32Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def size(self) -> int:
        return self.values.size

    def rows(self) -> Iterator[Float32Array]:
        yield self.values.reshape(-1, self.shape[-1])
