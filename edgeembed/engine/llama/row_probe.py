"""Tests, when a model is loaded, whether its rows can be read before the LM head is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from edgeembed.engine.canary import least_together, likeness
from edgeembed.engine.classifier import ClassifierHead
from edgeembed.engine.context_plan import ContextShape
from edgeembed.engine.interface import Float32Matrix
from edgeembed.engine.llama.context import Context
from edgeembed.engine.llama.ggml import CLASSIFIER_WEIGHT, TYPE_F32, EvalCallback, Tensor
from edgeembed.engine.llama.library import ComputeError
from edgeembed.engine.llama.rows import (
    Head,
    LastTokenReader,
    PooledReader,
    RowReader,
    tensor_bytes,
    tensor_get,
    tensor_name,
)
from edgeembed.engine.reading import Reading

TOKENS = 4
LEAST_CELLS = 256
"""llama.cpp makes no smaller context."""


class _ProbingReader(PooledReader):
    """Reads pooled rows, and copies a reranker's classifier. classifier: its weights, shape (labels, width), once seen."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier: Float32Matrix | None = None
        self._callback = EvalCallback(self._copy_classifier)

    def configure(self, params: Any) -> None:
        super().configure(params)
        params.cb_eval = self._callback

    def _copy_classifier(self, tensor: int, asking: bool, _user_data: object) -> bool:
        node = Tensor.from_address(tensor)
        # ggml may change the structure's layout: unless the name is in its place, nothing else is read.
        if self.classifier is None and node.name == tensor_name(tensor) and node.src[0]:
            source = Tensor.from_address(node.src[0])
            shape = (source.ne[1], source.ne[0])
            if (
                source.name == CLASSIFIER_WEIGHT
                and source.type == TYPE_F32
                and tensor_bytes(node.src[0]) == 4 * shape[0] * shape[1]
            ):
                # Other types may be repacked in a layout that only their own kernels can read.
                self.classifier = np.empty(shape, dtype=np.float32)
                tensor_get(node.src[0], self.classifier.ctypes.data, 0, self.classifier.nbytes)
        return False


@dataclass(frozen=True)
class CausalModel:
    """What the test has to know of a model."""

    architecture: str
    width: int
    """Of a hidden state."""
    dimensions: int
    """Of a row."""
    ranks: bool
    file_type: str
    head: Head | None = None
    """What llama.cpp's graph lacks: a reranker's classifier, dense layers."""


def find_last_token_reader(
    model: Any, facts: CausalModel, *, threads: int, on_card: bool = False
) -> Callable[[int], LastTokenReader] | None:
    """Return a factory of `LastTokenReader(most outputs of a pass)` for a causal model; None when its rows would differ.

    on_card: as for `Context`. Takes two passes of a few tokens.
    """
    width, dimensions = facts.width, facts.dimensions
    text = [Reading(np.arange(TOKENS, dtype=np.int32))]
    shape = ContextShape(
        cells=LEAST_CELLS, batch=TOKENS, longest_text=TOKENS, texts=1, threads=threads, pieces=True, prefix_cells=0,
        pad_factor=0.0, trained_tokens=TOKENS,
    )  # fmt: skip
    plain = _ProbingReader() if facts.head is None else PooledReader(facts.head)
    expected = _compute(model, shape, plain, text, dimensions, on_card=on_card)
    head = facts.head
    if isinstance(plain, _ProbingReader) and facts.ranks:
        if plain.classifier is None or plain.classifier.shape != (dimensions, width):
            return None
        # as llama.cpp's graph has it
        head = ClassifierHead(plain.classifier, softmax=facts.architecture.startswith("qwen3"))
    elif head is None and dimensions != width:
        return None
    try:
        found = _compute(model, shape, LastTokenReader(width, shape.sequences, head), text, dimensions, on_card=on_card)
    except ComputeError:
        return None
    # The rows differ only by rounding, as those of two batches do: the last layer computes one row instead of all.
    if not likeness(expected[0], found[0], scores=facts.ranks) >= least_together(facts.file_type):
        return None
    return partial(LastTokenReader, width, head=head)


def _compute(
    model: Any, shape: ContextShape, reader: RowReader, text: list[Reading], dimensions: int, *, on_card: bool
) -> Float32Matrix:
    context = Context(model, shape, reader, dimensions=dimensions, on_card=on_card)
    try:
        return context.compute(text)
    finally:
        context.close()
