"""Hides the tokens that expand a query from attention: they attend to the query's own tokens, and no token attends to them.

llama.cpp's mask of an encoder has 0 where a token attends to another one, and minus infinity elsewhere. Before a pass is
computed, the columns of these tokens are set to minus infinity. Layers with a window have a mask of their own. A token that
then attends to none gets zeros from attention, as in torch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeembed.engine.llama.ggml import (
    ATTENTION_MASK,
    OP_FLASH_ATTN_EXT,
    OP_SOFT_MAX,
    SOFT_MAX_MASK,
    TYPE_F16,
    TYPE_F32,
    Tensor,
    function,
)
from edgeembed.engine.llama.graph_change import GraphChange

_get: Any = function("ggml_backend_tensor_get")
_set: Any = function("ggml_backend_tensor_set")
_TYPES: dict[int, type[np.floating[Any]]] = {TYPE_F16: np.float16, TYPE_F32: np.float32}


_MASKS = {OP_FLASH_ATTN_EXT: ATTENTION_MASK, OP_SOFT_MAX: SOFT_MAX_MASK}
"""Operations that take a mask, and which of their sources it is. The second is used on cards without the first."""
_OP_AT = Tensor.op.offset


class ExpansionMask(GraphChange):
    """Changes the masks of the passes of one context of an encoder. One thread at a time."""

    def __init__(self, layers: int) -> None:
        """layers: number of attention nodes in the graph."""
        super().__init__(OP_FLASH_ATTN_EXT, layers)
        self._next: Sequence[int] = ()
        self._hidden: npt.NDArray[np.bool_] | None = None
        self._done: set[int] = set()

    def hide(self, hidden: Sequence[int]) -> None:
        """Prepare for the next pass: hidden, how many of the last tokens of each of its texts no token attends to."""
        self._next = hidden

    def expect(self, lengths: Sequence[int]) -> None:
        super().expect(lengths)
        self._done.clear()
        hidden, self._next, self._hidden = self._next, (), None
        if any(hidden):
            self._hidden = np.concatenate(
                [np.arange(length) >= length - count for length, count in zip(lengths, hidden, strict=True)]
            )

    def check(self) -> None:
        if self._hidden is not None:
            super().check()

    def change(self, node: Tensor) -> bool:
        """Write into the mask, once in a pass."""
        assert self._hidden is not None
        address = node.src[_MASKS[node.op]]
        if address in self._done:
            return True
        mask, count = Tensor.from_address(address) if address else None, len(self._hidden)
        if mask is None or mask.type not in _TYPES or tuple(mask.ne) != (count, count, 1, 1):
            return False
        values = np.empty((count, count), dtype=_TYPES[mask.type])
        if mask.nb[1] != values.strides[0]:
            return False
        _get(address, values.ctypes.data, 0, values.nbytes)
        values[:, self._hidden] = -np.inf
        _set(address, values.ctypes.data, 0, values.nbytes)
        self._done.add(address)
        return True

    def _evaluate(self, address: int, asking: bool, _user_data: object) -> bool:
        if self._hidden is not None and ctypes.c_int.from_address(address + _OP_AT).value in _MASKS:
            self._changed += self.change(Tensor.from_address(address))
        return False
