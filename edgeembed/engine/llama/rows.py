"""How the rows leave llama.cpp: pooled by it, or each text's last token, read before a decoder's LM head is computed.

With `embeddings` on, every token is an output: a decoder multiplies each with its LM head, a quarter to a half of all
work, and keeps a row of logits for it. `LastRows` leaves `embeddings` off, marks the last tokens alone as outputs, so that
the last layer computes nothing else, takes the rows of `result_norm` out of the graph in llama.cpp's evaluation callback,
and stops the graph there. The names in a graph are llama.cpp's own affair: `llama_probe` chooses this way only where it
gives the rows of the plain way.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.llama.library import ComputeError, function

Matrix = npt.NDArray[np.float32]
"""float32, shape (texts, dimensions)."""

EVAL_CALLBACK: Any = dict(lib.llama_context_params._fields_)["cb_eval"]
"""The C type of ggml_backend_sched_eval_callback: (tensor, asking, user data) -> bool."""

tensor_name: Any = function("ggml_get_name", ctypes.c_char_p, ctypes.c_void_p)
tensor_bytes: Any = function("ggml_nbytes", ctypes.c_size_t, ctypes.c_void_p)
tensor_get: Any = function(
    "ggml_backend_tensor_get", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t
)
_pooled_row: Any = function("llama_get_embeddings_seq", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)


class Rows(Protocol):
    """One context's way to its rows."""

    last_only: bool
    """Whether outputs are the last tokens of texts alone."""

    def configure(self, params: Any) -> None:
        """Set what this way needs in the context's parameters."""
        ...

    def expect(self, outputs: int) -> None:
        """Prepare for a forward pass with this many outputs."""
        ...

    def read(self, context: Any, sequences: Sequence[int] | range, rows: Matrix) -> None:
        """Copy the rows of a finished pass, in the order of its texts. Raises ComputeError."""
        ...


class PooledRows:
    """Rows that llama.cpp pooled, one for each sequence."""

    last_only = False

    def configure(self, params: Any) -> None:
        params.embeddings = True

    def expect(self, outputs: int) -> None:
        pass

    def read(self, context: Any, sequences: Sequence[int] | range, rows: Matrix) -> None:
        target, stride = rows.ctypes.data, rows.strides[0]
        for number, sequence in enumerate(sequences):
            pointer = _pooled_row(context, sequence)
            if not pointer:
                raise ComputeError(f"llama.cpp has no row for sequence {sequence}")
            ctypes.memmove(target + number * stride, pointer, stride)


@dataclass(frozen=True)
class Head:
    """A reranker's classifier behind the last token. weight: float32, shape (labels, width)."""

    weight: Matrix
    softmax: bool

    def scores(self, hidden: Matrix) -> Matrix:
        """Give the scores, shape (texts, labels), of rows of hidden states, shape (texts, width)."""
        logits: Matrix = hidden @ self.weight.T
        if not self.softmax:
            return logits
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        result: Matrix = powers / powers.sum(axis=1, keepdims=True)
        return result


class LastRows:
    """Rows of `result_norm`, one for each output; the LM head is never computed."""

    last_only = True

    def __init__(self, width: int, most: int, head: Head | None = None) -> None:
        """width: length of a hidden state. most: outputs of one pass. head: what turns hidden states into scores."""
        self._hidden = np.empty((most, width), dtype=np.float32)
        self._head = head
        self._expected = 0
        self._found = False
        self._callback = EVAL_CALLBACK(self._evaluate)  # llama.cpp keeps only the address

    def configure(self, params: Any) -> None:
        params.embeddings = False
        params.n_outputs_max = len(self._hidden)
        params.cb_eval = self._callback

    def expect(self, outputs: int) -> None:
        self._expected, self._found = outputs, False

    def read(self, context: Any, sequences: Sequence[int] | range, rows: Matrix) -> None:
        if not self._found:
            raise ComputeError("llama.cpp gave no hidden states of the last tokens")
        hidden = self._hidden[: len(rows)]
        rows[:] = self._head.scores(hidden) if self._head else hidden

    def _evaluate(self, tensor: int, asking: bool, _user_data: object) -> bool:
        # About a thousand calls for a pass, all before it begins: half a millisecond of a decoder's hundred.
        if asking:
            return bool(tensor_name(tensor) == b"result_norm")
        size = self._expected * self._hidden.strides[0]
        if tensor_bytes(tensor) == size:
            tensor_get(tensor, self._hidden.ctypes.data, 0, size)
            self._found = True
        return False
