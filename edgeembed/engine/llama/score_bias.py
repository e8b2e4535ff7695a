"""A bias on attention scores that depends on the head and on the distance of two tokens, for graphs that have none.

llama.cpp gives all heads of an encoder one mask, which is added to the scores: 0, or minus infinity for another text. ggml's
attention also takes a mask for each head, and there a bias can be written, once for all layers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeembed.engine.interface import Float32Matrix
from edgeembed.engine.llama.ggml import ATTENTION_MASK, OP_FLASH_ATTN_EXT, TYPE_F16, Tensor
from edgeembed.engine.llama.graph_change import GraphChange, Watch

_TENSOR_BYTES = 512
"""More than ggml's structure, whose rest after the name is zero."""


class ScoreBias(GraphChange):
    """Adds a bias to the scores of one context.

    The mask is in half precision, as llama.cpp's own. One thread at a time.
    """

    def __init__(self, bias: Float32Matrix, longest: int, layers: int, watch: Watch | None = None) -> None:
        """bias: shape (heads, 2 * distance + 1), by the position of the key minus that of the query, from -distance on; the
        ends hold for all tokens farther apart. longest: tokens of a text. layers: number of attention nodes in the graph.
        watch: called with all other nodes; llama.cpp takes one callback only.
        """
        super().__init__(OP_FLASH_ATTN_EXT, layers, watch)
        heads, reach = bias.shape[0], bias.shape[1] // 2
        distances = np.arange(1 - longest, longest)
        self._by_distance = np.ascontiguousarray(bias[:, np.clip(distances, -reach, reach) + reach], dtype=np.float16)
        self._heads = heads
        self._longest = longest
        self._mask: npt.NDArray[np.float16] = np.empty((heads, 0, 0), dtype=np.float16)
        self._room: npt.NDArray[np.float16] = np.empty(0, dtype=np.float16)
        self._lengths: tuple[int, ...] = ()
        self._memory = ctypes.create_string_buffer(_TENSOR_BYTES)
        self._tensor = Tensor.from_buffer(self._memory)
        self._address = ctypes.addressof(self._memory)

    def expect(self, lengths: Sequence[int]) -> None:
        """Prepare for a forward pass over texts of these lengths, which all begin at their first token."""
        super().expect(lengths)
        if self._lengths == (asked := tuple(lengths)):
            return
        total = sum(asked)
        size = self._heads * total * total
        if size > self._room.size:
            self._room = np.empty(size, dtype=np.float16)
        mask = self._mask = self._room[:size].reshape(self._heads, total, total)
        if len(asked) > 1:
            mask.fill(-np.inf)  # texts do not attend to each other
        at = 0
        for length in asked:
            mask[:, at : at + length, at : at + length] = self._square(length)
            at += length
        self._lengths = asked

    def _square(self, length: int) -> npt.NDArray[np.float16]:
        """Return the bias of all pairs of a text's tokens, shape (heads, queries, keys); a view."""
        start = self._by_distance[:, self._longest - 1 :]
        row, step = start.strides
        return np.lib.stride_tricks.as_strided(start, (self._heads, length, length), (row, -step, step), writeable=False)

    def change(self, node: Tensor) -> bool:
        """Exchange the mask. A graph that llama.cpp uses again has it already."""
        source = node.src[ATTENTION_MASK]
        if source == self._address:
            self._tensor.data = self._mask.ctypes.data
            return self._fits(self._tensor, heads=self._heads)
        if not source or not self._fits(Tensor.from_address(source), heads=1):
            return False
        ctypes.memmove(self._address, source, ctypes.sizeof(Tensor))
        total, item = self._mask.shape[1], self._mask.itemsize
        self._tensor.ne[2] = self._heads
        self._tensor.nb[2] = total * total * item
        self._tensor.nb[3] = self._heads * total * total * item
        self._tensor.data = self._mask.ctypes.data
        node.src[ATTENTION_MASK] = self._address
        return True

    def _fits(self, mask: Tensor, heads: int) -> bool:
        total = self._mask.shape[1]
        rows = (mask.type, *mask.ne, mask.nb[0], mask.nb[1])
        return rows == (TYPE_F16, total, total, heads, 1, 2, 2 * total)
