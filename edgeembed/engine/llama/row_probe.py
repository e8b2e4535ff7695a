"""Finds out, when a model is loaded, whether its rows can be read before the LM head."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from edgeembed.engine.canary import likeness
from edgeembed.engine.context_plan import ContextShape
from edgeembed.engine.llama.context import Context
from edgeembed.engine.llama.library import ComputeError
from edgeembed.engine.llama.rows import (
    EVAL_CALLBACK,
    Head,
    LastRows,
    Matrix,
    PooledRows,
    Rows,
    tensor_bytes,
    tensor_get,
    tensor_name,
)
from edgeembed.engine.reading import Reading

LEAST_LIKENESS = 0.999
"""Between the rows of both ways. They differ by rounding alone: the last layer computes one row instead of all."""
TOKENS = 4
LEAST_CELLS = 256
"""llama.cpp makes no context of fewer."""
CLASSIFIER = b"cls.output.weight"
_F32 = 0
"""ggml's number of the type."""


class _Tensor(ctypes.Structure):
    """ggml.h's ggml_tensor, as far as it is needed."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    )


class _PlainRows(PooledRows):
    """The plain way, with an eye on a reranker's classifier. classifier: its weights, shape (labels, width), once seen."""

    def __init__(self) -> None:
        self.classifier: Matrix | None = None
        self._callback = EVAL_CALLBACK(self._look)

    def configure(self, params: Any) -> None:
        super().configure(params)
        params.cb_eval = self._callback

    def _look(self, tensor: int, asking: bool, _user_data: object) -> bool:
        node = _Tensor.from_address(tensor)
        # The structure's layout is no promise of ggml's: without the name in its place nothing else is read.
        if self.classifier is None and node.name == tensor_name(tensor) and node.src[0]:
            source = _Tensor.from_address(node.src[0])
            shape = (source.ne[1], source.ne[0])
            if source.name == CLASSIFIER and source.type == _F32 and tensor_bytes(node.src[0]) == 4 * shape[0] * shape[1]:
                # Other types may lie repacked, in a way that only their own kernels read.
                self.classifier = np.empty(shape, dtype=np.float32)
                tensor_get(node.src[0], self.classifier.ctypes.data, 0, self.classifier.nbytes)
        return False


def find_last_rows(
    model: Any, *, width: int, dimensions: int, ranks: bool, architecture: str, threads: int, on_card: bool = False
) -> Callable[[int], LastRows] | None:
    """Give a maker of `LastRows(most outputs of a pass)` for a causal model; None when they would not be the model's rows.

    width: numbers of a hidden state. dimensions: of a row. on_card: as for `Context`. Takes two passes of a few tokens.
    """
    text = [Reading(np.arange(TOKENS, dtype=np.int32))]
    shape = ContextShape(
        cells=LEAST_CELLS, batch=TOKENS, longest_text=TOKENS, texts=1, threads=threads, pieces=True, prefix_cells=0,
        pad_factor=0.0, trained_tokens=TOKENS,
    )  # fmt: skip
    plain = _PlainRows()
    expected = _compute(model, shape, plain, text, dimensions, on_card=on_card)
    head: Head | None = None
    if ranks:
        if plain.classifier is None or plain.classifier.shape != (dimensions, width):
            return None
        head = Head(plain.classifier, softmax=architecture.startswith("qwen3"))  # as llama.cpp's graph has it
    elif dimensions != width:
        return None
    try:
        found = _compute(model, shape, LastRows(width, shape.sequences, head), text, dimensions, on_card=on_card)
    except ComputeError:
        return None
    if not likeness(expected[0], found[0], scores=ranks) >= LEAST_LIKENESS:
        return None
    return partial(LastRows, width, head=head)


def _compute(model: Any, shape: ContextShape, rows: Rows, text: list[Reading], dimensions: int, *, on_card: bool) -> Matrix:
    context = Context(model, shape, rows, dimensions=dimensions, on_card=on_card)
    try:
        return context.compute(text)
    finally:
        context.close()
