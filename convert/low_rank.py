"""Tensors with an adapter merged: a stored matrix plus the product of two narrow ones.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021. The sum is computed in float32, a few rows at a time,
while the file is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from edgeembed.errors import ConversionError
from edgeembed_convert.tensors import READ_BYTES, Float32Array, StoredTensor


@dataclass(frozen=True)
class AdaptedTensor(StoredTensor):
    """`base + scale * (left @ right)`, a 2-D tensor; if `swapped`, the product is transposed. `dtype` is F32."""

    base: StoredTensor
    left: StoredTensor
    right: StoredTensor
    scale: float
    swapped: bool = False
    first_row: int = 0
    """Number of the first row in the whole tensor."""

    @property
    def rank(self) -> int:
        """Columns of `left`."""
        return self.left.shape[1]

    def row_range(self, first: int, end: int) -> StoredTensor:
        part = self.base.row_range(first, end)
        return replace(self, shape=part.shape, offset=part.offset, base=part, first_row=self.first_row + first)

    def rows(self, chunk_bytes: int = READ_BYTES) -> Iterator[Float32Array]:
        left, right = self.left.values(), self.right.values()
        if self.swapped:
            left, right = right.T, left.T
        at = self.first_row
        for rows in self.base.rows(chunk_bytes):
            with np.errstate(over="ignore", invalid="ignore"):
                values = (rows + np.float32(self.scale) * (left[at : at + len(rows)] @ right)).astype(np.float32)
            if not np.isfinite(values).all():
                raise ConversionError(
                    f"{self.left.file}: tensor {self.name} with the adapter's {self.left.name} is infinite"
                )
            yield values
            at += len(rows)


def adapted(
    base: StoredTensor, left: StoredTensor, right: StoredTensor, scale: float, *, swapped: bool = False
) -> AdaptedTensor:
    """Return a matrix with an adapter merged. Raises ConversionError if the shapes do not fit."""
    rows, columns = base.shape if len(base.shape) == 2 else (0, 0)
    wanted = (columns, rows) if swapped else (rows, columns)
    narrow = len(left.shape) == len(right.shape) == 2 and left.shape[1] == right.shape[0]
    if not narrow or (left.shape[0], right.shape[1]) != wanted:
        raise ConversionError(
            f"{left.file}: {left.name} of the shape {list(left.shape)} and {right.name} of the shape {list(right.shape)} do "
            f"not fit {base.name} of the shape {list(base.shape)}"
        )
    return AdaptedTensor(base.name, base.file, "F32", base.shape, base.offset, base, left, right, scale, swapped)
