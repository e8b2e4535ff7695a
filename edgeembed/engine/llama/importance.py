"""Importance of the columns of each weight matrix: the mean square of what texts put into it.

llama.cpp's quantisers take these numbers (an importance matrix) and round the columns that matter most with less error. They
are read in llama.cpp's evaluation callback, which is called with each tensor after it was computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeembed.engine.interface import Float32Matrix, Task, Text
from edgeembed.engine.llama.ggml import TYPE_F32, EvalCallback, Tensor, function
from edgeembed.engine.llama.library import ComputeError
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.llama.rows import PooledReader, tensor_bytes, tensor_get, tensor_name
from edgeembed.engine.worker_options import WorkerOptions

Importance = dict[str, npt.NDArray[np.float32]]
"""By the name of a weight matrix: mean squares, shape (experts, columns); one expert if the matrix has no others."""

PRODUCT, EXPERT_PRODUCT = b"MUL_MAT", b"MUL_MAT_ID"
CONTEXT_TOKENS = 512
"""Longer texts are skipped."""
TEXTS_AT_ONCE = 8
NOT_MEASURED = ("token_embd.weight", "output.weight")
"""The embeddings are looked up, not multiplied; the LM head computes no vectors. All of their columns count the same: with
that, llama.cpp's quantisers still search for the best scale of a block, which they do not without importance."""

_operation: Any = function("ggml_op_desc")


class ImportanceReader(PooledReader):
    """Adds up the squares of the inputs of all weight matrices, and reads no rows."""

    def __init__(self) -> None:
        super().__init__()
        self._sums: dict[str, npt.NDArray[np.float64]] = {}
        self._counts: dict[str, npt.NDArray[np.int64]] = {}
        self._callback = EvalCallback(self.evaluate)  # llama.cpp keeps only the address
        self.failure: Exception | None = None

    def configure(self, params: Any) -> None:
        super().configure(params)
        params.cb_eval = self._callback

    def read(self, context: Any, sequences: Sequence[int] | range, rows: Float32Matrix) -> None:
        rows[:] = 0

    def result(self) -> Importance:
        """Return the mean squares. An expert that no token was sent to counts like a matrix without importance: all ones."""
        means = {}
        for name, sums in self._sums.items():
            counts = self._counts[name][:, None]
            means[name] = np.where(counts > 0, sums / np.maximum(counts, 1), 1.0).astype(np.float32)
        return means

    def evaluate(self, tensor: int, asking: bool, _user_data: object) -> bool:
        """Return whether the computation goes on, or when asking, whether the tensor is wanted."""
        if _operation(tensor) not in (PRODUCT, EXPERT_PRODUCT):
            return not asking
        try:
            node = Tensor.from_address(tensor)
            if node.name != tensor_name(tensor):  # ggml may change the structure's layout
                raise ComputeError("this llama.cpp lays out its tensors in another way")
            weight, inputs = Tensor.from_address(node.src[0]), Tensor.from_address(node.src[1])
            name = weight.name.decode()
            # Attention multiplies activations; weights have the names that the file gives them.
            if not name.endswith(".weight") or name in NOT_MEASURED or inputs.type != TYPE_F32:
                return not asking
            if not asking:
                rows = _copy(node.src[1], inputs).reshape(-1, weight.ne[0])
                self.add(name, weight.ne[2], rows, _copy_ids(node.src[2]) if node.src[2] else None)
        except Exception as error:  # an exception cannot pass through llama.cpp
            self.failure = self.failure or error
            return False
        return True

    def add(self, name: str, experts: int, rows: Float32Matrix, chosen: npt.NDArray[np.int32] | None = None) -> None:
        """Add inputs of a matrix, shape (tokens, columns).

        chosen: the experts to which each token is sent, shape (tokens, experts of a token); then the inputs may also have
        that many rows for each token.
        """
        columns = rows.shape[1]
        sums = self._sums.setdefault(name, np.zeros((experts, columns)))
        counts = self._counts.setdefault(name, np.zeros(experts, dtype=np.int64))
        squares = np.square(rows, dtype=np.float64)
        if chosen is None:
            sums += squares.sum(axis=0)
            counts += len(squares)
            return
        spread = np.broadcast_to(squares.reshape(len(chosen), -1, columns), (*chosen.shape, columns))
        np.add.at(sums, chosen.ravel(), spread.reshape(-1, columns))
        np.add.at(counts, chosen.ravel(), 1)


def measure(
    model: Path, texts: Sequence[Text], *, threads: int, task: Task = "embed", done: Callable[[int], object] | None = None
) -> Importance:
    """Return the importance of each weight matrix of an unquantised GGUF file for texts, or pairs for a reranker.

    done: called with the number of texts computed. Raises ModelLoadError, ComputeError.
    """
    options = WorkerOptions(
        path=str(model), threads=threads, context_tokens=CONTEXT_TOKENS, batch_tokens=CONTEXT_TOKENS, mode="importance",
        extra_buffers=False, bulk_lanes=0, prefix_tokens=0, task=task,
    )  # fmt: skip
    loaded = LlamaModel(options)
    try:
        reader = ImportanceReader()
        context = loaded.new_context(reader, reader.evaluate)
        try:
            for first in range(0, len(texts), TEXTS_AT_ONCE):
                group = texts[first : first + TEXTS_AT_ONCE]
                readings = [loaded.read(text) for text in group]
                context.compute([it for it in readings if 0 < len(it.tokens) <= context.shape.longest_text], isolated=True)
                if reader.failure is not None:
                    raise ComputeError(f"the importance of weights cannot be measured: {reader.failure}")
                if done is not None:
                    done(first + len(group))
        finally:
            context.close()
        uniform = {name: np.ones((1, loaded.file.width), dtype=np.float32) for name in NOT_MEASURED}
        return uniform | reader.result()
    finally:
        loaded.close()


def _copy(address: int, tensor: Tensor) -> Float32Matrix:
    """Return the values of a float32 tensor, shape as in NumPy: the longest stride first."""
    data = np.empty(tensor_bytes(address), dtype=np.uint8)
    tensor_get(address, data.ctypes.data, 0, data.nbytes)
    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    return np.lib.stride_tricks.as_strided(data.view(np.float32), shape, strides).astype(np.float32)


def _copy_ids(address: int) -> npt.NDArray[np.int32]:
    """Return the numbers of the experts, shape (tokens, experts of a token)."""
    tensor = Tensor.from_address(address)
    data = np.empty(tensor_bytes(address), dtype=np.uint8)
    tensor_get(address, data.ctypes.data, 0, data.nbytes)
    shape, strides = (tensor.ne[1], tensor.ne[0]), (tensor.nb[1], tensor.nb[0])
    return np.lib.stride_tricks.as_strided(data.view(np.int32), shape, strides).copy()
