"""The masked-LM head of an encoder, computed by ggml: hidden states in, the logits of all tokens of the vocabulary out.

llama.cpp's graphs of encoders end with the hidden states. The head's matrix is that of the token embeddings, the largest of
a small model. It is multiplied as the file has it, quantised: where llama.cpp has it, or as Q8_0 in a copy with the layout
that our kernels or those for a processor want (tests/benchmarks/masked_lm.py).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from edgeembed.engine.interface import Float32Matrix
from edgeembed.engine.llama import ggml
from edgeembed.engine.llama.context import Context
from edgeembed.engine.llama.ggml import EvalCallback, InitParameters, Tensor, function
from edgeembed.engine.llama.graph_change import Watch
from edgeembed.engine.llama.library import ComputeError, ModelLoadError
from edgeembed.engine.llama.rows import PooledReader, RowReader, tensor_bytes, tensor_get, tensor_name
from edgeembed.engine.reading import Reading
from edgeembed.engine.sparse import CHUNK_TOKENS, MaskedLmWeights

ROWS_TOGETHER = 64
"""The number of rows of a copy is a multiple of it, as packed layouts want; the rows that are added are zero."""
_MOST_TENSORS = 24
"""Of a graph, with its nodes."""

_init: Any = function("ggml_init")
_free: Any = function("ggml_free")
_new: Any = function("ggml_new_tensor_2d")
_product: Any = function("ggml_mul_mat")
_times: Any = function("ggml_mul")
_plus: Any = function("ggml_add")
_norm: Any = function("ggml_norm")
_gelu: Any = function("ggml_gelu_erf")
_new_graph: Any = function("ggml_new_graph")
_expand: Any = function("ggml_build_forward_expand")
_allocate: Any = function("ggml_gallocr_alloc_graph")
_compute: Any = function("ggml_backend_graph_compute")
_set: Any = function("ggml_backend_tensor_set")


class _EmbeddingsFinder(PooledReader):
    """Finds the tensor of the token embeddings in the graph of a forward pass, and reads no rows."""

    def __init__(self) -> None:
        super().__init__()
        self.address: int | None = None
        self._callback = EvalCallback(self.evaluate)  # llama.cpp keeps only the address

    def configure(self, params: Any) -> None:
        super().configure(params)
        params.cb_eval = self._callback

    def read(self, context: Any, sequences: Sequence[int] | range, rows: Float32Matrix) -> None:
        rows[:] = 0

    def evaluate(self, tensor: int, asking: bool, _user_data: object) -> bool:
        """Return whether the computation goes on, or when asking, whether the tensor is wanted: none is."""
        if asking and self.address is None:
            source = Tensor.from_address(tensor).src[0]
            if source and tensor_name(source) == ggml.TOKEN_EMBEDDINGS:
                self.address = source
        return not asking


class MaskedLm:
    """A masked-LM head. One thread at a time; the model has to stay loaded."""

    def __init__(self, weights: MaskedLmWeights, embeddings: int, *, threads: int, packed: bool) -> None:
        """embeddings: address of the model's tensor. packed: whether they may be copied into a layout of their own.

        Raises ModelLoadError when memory is short.
        """
        self._weights = weights
        self._vocabulary = len(weights.bias)
        self._resources: list[tuple[Any, int]] = []
        device = function("ggml_backend_dev_by_type")(ggml.DEVICE_CPU)
        registry = function("ggml_backend_dev_backend_reg")(device)
        find = function("ggml_backend_reg_get_proc_address")
        self._buffer_type = function("ggml_backend_dev_buffer_type")(device)
        self._backend = self._keep("ggml_backend_free", function("ggml_backend_dev_init")(device, None))
        set_threads = find(registry, ggml.SET_THREADS_FUNCTION)
        ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)(set_threads)(self._backend, threads)
        self._memory = self._keep("ggml_gallocr_free", function("ggml_gallocr_new")(self._buffer_type))
        self._embeddings = self._original = embeddings
        # Other types are multiplied faster where they are: measured for Q4_K and IQ4_NL with llama.cpp's repacked layouts.
        if packed and Tensor.from_address(embeddings).type == ggml.TYPE_Q8_0:
            extra_types = find(registry, ggml.EXTRA_BUFFERS_FUNCTION)
            extra = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(extra_types)(device)
            any(self._pack(device, buffer_type) for buffer_type in ggml.up_to_null(extra))
        self._parts = self._place(weights)

    @property
    def is_packed(self) -> bool:
        """Whether it multiplies a copy of the token embeddings."""
        return self._embeddings != self._original

    def logits(self, states: Float32Matrix) -> Iterator[Float32Matrix]:
        """Yield the logits without the bias of the vocabulary, shape (some tokens, vocabulary), for all states in order.

        states: shape (tokens, width). An array is valid until the next one is asked for. Raises ComputeError.
        """
        for first in range(0, len(states), CHUNK_TOKENS):
            yield self._logits(np.ascontiguousarray(states[first : first + CHUNK_TOKENS], dtype=np.float32))

    def close(self) -> None:
        """Free all memory."""
        while self._resources:
            free, handle = self._resources.pop()
            free(handle)

    def _logits(self, states: Float32Matrix) -> Float32Matrix:
        tokens, width = states.shape
        context = _init(InitParameters(_overhead(_MOST_TENSORS, graph=True), None, True))
        try:
            given = _new(context, ggml.TYPE_F32, width, tokens)
            parts = self._parts
            inner = _product(context, parts["weight"], given)
            if "weight_bias" in parts:
                inner = _plus(context, inner, parts["weight_bias"])
            inner = _times(context, _norm(context, _gelu(context, inner), self._weights.epsilon), parts["norm"])
            if "norm_bias" in parts:
                inner = _plus(context, inner, parts["norm_bias"])
            found = _product(context, self._embeddings, inner)
            graph = _new_graph(context)
            _expand(graph, found)
            if not _allocate(self._memory, graph):
                raise ComputeError("there is not enough memory for the logits of a masked-LM head", "out_of_memory")
            _set(given, states.ctypes.data, 0, states.nbytes)
            if code := _compute(self._backend, graph):
                raise ComputeError(f"ggml cannot compute the masked-LM head (code {code})")
            tensor = Tensor.from_address(found)
            rows = int(tensor.ne[0])
            data = (ctypes.c_float * (tokens * rows)).from_address(tensor.data)
            return np.frombuffer(data, dtype=np.float32).reshape(tokens, rows)[:, : self._vocabulary]
        finally:
            _free(context)

    # --- weights ------------------------------------------------------------------------------------------------------

    def _place(self, weights: MaskedLmWeights) -> dict[str, int]:
        """Copy the head's own weights into memory of ggml; return their tensors."""
        arrays = {
            "weight": weights.weight,
            "weight_bias": weights.weight_bias,
            "norm": weights.norm,
            "norm_bias": weights.norm_bias,
        }
        context = self._keep("ggml_free", _init(InitParameters(_overhead(len(arrays)), None, True)))
        parts = {
            name: _new(context, ggml.TYPE_F32, array.shape[-1], array.size // array.shape[-1])
            for name, array in arrays.items()
            if array is not None
        }
        self._fill(context, self._buffer_type)
        for name, part in parts.items():
            array = np.ascontiguousarray(arrays[name], dtype=np.float32)
            _set(part, array.ctypes.data, 0, array.nbytes)
        return parts

    def _pack(self, device: int, buffer_type: int) -> bool:
        """Copy the embeddings into a buffer of this type, and use the copy, if ggml can multiply them there."""
        source = Tensor.from_address(self._embeddings)
        rows = -(-source.ne[1] // ROWS_TOGETHER) * ROWS_TOGETHER
        context = _init(InitParameters(_overhead(3), None, True))
        copy = _new(context, source.type, source.ne[0], rows)
        try:
            empty = function("ggml_backend_buft_alloc_buffer")(buffer_type, 0)
            Tensor.from_address(copy).buffer = empty
            product = _product(context, copy, _new(context, ggml.TYPE_F32, source.ne[0], CHUNK_TOKENS))
            fits = function("ggml_backend_dev_supports_op")(device, product)
            Tensor.from_address(copy).buffer = None
            function("ggml_backend_buffer_free")(empty)
        except BaseException:
            _free(context)
            raise
        if not fits:
            _free(context)
            return False
        self._keep("ggml_free", context)
        self._fill(context, buffer_type)
        size = tensor_bytes(self._embeddings)
        data = np.zeros(size // source.ne[1] * rows, dtype=np.uint8)
        tensor_get(self._embeddings, data.ctypes.data, 0, size)
        _set(copy, data.ctypes.data, 0, data.nbytes)
        self._embeddings = copy
        return True

    def _fill(self, context: int, buffer_type: int) -> None:
        """Allocate all tensors of a context."""
        self._keep("ggml_backend_buffer_free", function("ggml_backend_alloc_ctx_tensors_from_buft")(context, buffer_type))

    def _keep(self, free: str, handle: int | None) -> int:
        if not handle:
            self.close()
            raise ModelLoadError("there is not enough memory for the masked-LM head", fatal=False, cause="out_of_memory")
        self._resources.append((function(free), handle))
        return handle


def find_embeddings(new_context: Callable[[RowReader, Watch], Context]) -> int:
    """Return the address of a model's tensor of token embeddings. Raises ComputeError, ModelLoadError.

    new_context: returns a context of the model whose rows a reader reads, with its evaluation callback.
    """
    finder = _EmbeddingsFinder()
    context = new_context(finder, finder.evaluate)
    try:
        context.compute([Reading(np.zeros(1, dtype=np.int32))], isolated=True)
    finally:
        context.close()
    if finder.address is None:
        raise ComputeError("llama.cpp's graph takes no rows from the token embeddings")
    return finder.address


def _overhead(tensors: int, *, graph: bool = False) -> int:
    """Return the bytes of a context for so many tensors without their data."""
    return int(tensors * function("ggml_tensor_overhead")() + (function("ggml_graph_overhead")() if graph else 0))
