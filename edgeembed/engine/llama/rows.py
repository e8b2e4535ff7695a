"""How rows are read from llama.cpp: pooled by it, or each text's last token, before a decoder's LM head is computed.

A head computes what follows and llama.cpp does not: dense layers, a reranker's classifier.

With `embeddings` on, every token is an output: a decoder multiplies each by its LM head, a quarter to a half of all work,
and keeps a row of logits for it. `LastTokenReader` leaves `embeddings` off, marks only the last tokens as outputs, so that
the last layer computes nothing else, copies the rows of `result_norm` in llama.cpp's evaluation callback, and stops the
graph there. llama.cpp may rename the tensors of its graphs at any time: `row_probe` chooses this reader only where it
returns the same rows as the plain one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from edgeembed.common.trace import traced
from edgeembed.engine.classifier import ClassifierHead
from edgeembed.engine.interface import Float32Matrix
from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.llama.ggml import LAST_HIDDEN_STATES, EvalCallback, function
from edgeembed.engine.llama.library import ComputeError

tensor_name: Any = function("ggml_get_name")
tensor_bytes: Any = function("ggml_nbytes")
tensor_get: Any = function("ggml_backend_tensor_get")
_pooled_row: Any = function("llama_get_embeddings_seq")


class RowReader(Protocol):
    """Reads the rows of one context."""

    last_only: bool
    """Whether only the last token of each text is an output."""

    def configure(self, params: Any) -> None:
        """Set what this reader needs in the context's parameters."""
        ...

    def expect(self, outputs: int) -> None:
        """Prepare for a forward pass with this many outputs."""
        ...

    def read(self, context: Any, sequences: Sequence[int] | range, rows: Float32Matrix) -> None:
        """Copy the rows of a finished pass, in the order of its texts. Raises ComputeError."""
        ...


class Head(Protocol):
    """What is computed from the rows that were read."""

    @property
    def inputs(self) -> int:
        """Length of a row that was read."""
        ...

    def apply(self, rows: Float32Matrix) -> Float32Matrix:
        """Return float32, shape (texts, outputs), from float32, shape (texts, width)."""
        ...


class PooledReader:
    """Reads the rows that llama.cpp pooled, one for each sequence, and computes the rest with a head."""

    last_only = False

    def __init__(self, head: Head | None = None, *, pooling: int | None = None) -> None:
        """head: computes what llama.cpp's graph lacks. pooling: instead of the file's, of a reranker with a head."""
        self._head = head
        self._pooling = lib.LLAMA_POOLING_TYPE_LAST if isinstance(head, ClassifierHead) else pooling

    def configure(self, params: Any) -> None:
        params.embeddings = True
        if self._pooling is not None:
            params.pooling_type = self._pooling

    def expect(self, outputs: int) -> None:
        pass

    @traced(within="copy out")
    def read(self, context: Any, sequences: Sequence[int] | range, rows: Float32Matrix) -> None:
        pooled = rows if self._head is None else np.empty((len(rows), self._head.inputs), dtype=np.float32)
        target, stride = pooled.ctypes.data, pooled.strides[0]
        for number, sequence in enumerate(sequences):
            pointer = _pooled_row(context, sequence)
            if not pointer:
                raise ComputeError(f"llama.cpp has no row for sequence {sequence}")
            ctypes.memmove(target + number * stride, pointer, stride)
        if self._head is not None:
            rows[:] = self._head.apply(pooled)


class LastTokenReader:
    """Reads the rows of `result_norm`, one for each output; the LM head is never computed."""

    last_only = True

    def __init__(self, width: int, most: int, head: Head | None = None) -> None:
        """width: length of a hidden state. most: outputs of one pass at most. head: computes rows from hidden states."""
        self._hidden = np.empty((most, width), dtype=np.float32)
        self._head = head
        self._expected = 0
        self._found = False
        self._callback = EvalCallback(self._evaluate)  # llama.cpp keeps only the address

    def configure(self, params: Any) -> None:
        params.embeddings = False
        params.n_outputs_max = len(self._hidden)
        params.cb_eval = self._callback

    def expect(self, outputs: int) -> None:
        self._expected, self._found = outputs, False

    @traced(within="copy out")
    def read(self, context: Any, sequences: Sequence[int] | range, rows: Float32Matrix) -> None:
        if not self._found:
            raise ComputeError(f"llama.cpp computed no tensor {LAST_HIDDEN_STATES.decode()} with a row for each text")
        hidden = self._hidden[: len(rows)]
        rows[:] = self._head.apply(hidden) if self._head else hidden

    def _evaluate(self, tensor: int, asking: bool, _user_data: object) -> bool:
        # About a thousand calls before each pass: 0.5 ms of the 100 ms that a decoder takes.
        if asking:
            return bool(tensor_name(tensor) == LAST_HIDDEN_STATES)
        size = self._expected * self._hidden.strides[0]
        if tensor_bytes(tensor) == size:
            tensor_get(tensor, self._hidden.ctypes.data, 0, size)
            self._found = True
        return False
