"""Which kernels multiply each type of weights: ours, or llama.cpp's own for this processor (AMX, repacked weights).

Both keep the weights in a layout of their own, so the choice is made before a model is loaded. Which one is faster differs
between processors: where both can multiply weights of the file, they are measured, in turns. The result is kept with the
model's run profile. Ours for AVX2 are also compared with llama.cpp's for weights as they are in the file; ours for VNNI are
three times as fast (tests/benchmarks/products.py), so nothing is measured then.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgeembed.engine.interface import AutotuneResult
from edgeembed.engine.llama import ggml
from edgeembed.engine.llama.ggml import GgufParameters, InitParameters, Tensor, function
from edgeembed.engine.llama.kernel_hook import BUFFER_TYPE, Kernels
from edgeembed.engine.worker_options import WorkerOptions

log = logging.getLogger(__name__)

TOKENS = (16, 64)
"""Of the products that are measured: a lone query's, and a batch's of a bulk load."""
REPEATS = 4
LEAST_GAIN = 1.25
"""Llama.cpp's kernels are used for a type when they are this many times as fast as ours. Products are about half of a pass,
and not all that ours are faster at: they compute runs of operations in one step, which weights of llama.cpp's interrupt."""
_MOST_BYTES = 1 << 21
"""Of the weights that are measured: more than a core's own cache, as in a forward pass, and packed within milliseconds."""
_MOST_MATRICES = 8
_ROWS_TOGETHER = 64
_MATRICES = b"blk."
"""The names of a layer's weights begin with it."""

Shape = tuple[int, int]
"""Columns and rows of weights."""
_clock = time.perf_counter if sys.platform == "win32" else time.thread_time
"""Of one thread, which computes alone: other programs and lanes disturb it least. On Windows its steps are too long."""

TimeProducts = Callable[[int], float]
"""Returns the seconds that products with activations of so many tokens take."""


def relative_speed(ours: TimeProducts, theirs: TimeProducts) -> float:
    """Return how many times as fast `theirs` is, over all `TOKENS`. The fastest of several runs counts, in turns."""
    ratios = []
    for tokens in TOKENS:
        pairs = [(ours(tokens), theirs(tokens)) for _ in range(1 + REPEATS)][1:]
        ratios.append(min(first for first, _ in pairs) / min(second for _, second in pairs))
    return math.prod(ratios) ** (1 / len(ratios))


def choose_products(options: WorkerOptions, kernels: Kernels) -> tuple[tuple[int, ...], AutotuneResult | None]:
    """Leave the types of weights to llama.cpp's kernels for which they are faster than ours.

    Return these types, and what was measured for it, if anything was.
    """
    left, measured = options.left_types, None
    if left is None and kernels.ours:
        began = time.perf_counter()
        kernels.leave(())
        left = slower_types(options.path, BUFFER_TYPE, plain=not kernels.vnni)
        if left is not None:
            seconds = round(time.perf_counter() - began, 3)
            measured = AutotuneResult(pad_from_tokens=None, left_types=left, seconds=seconds)
    kernels.leave(left or ())
    return left or (), measured


def slower_types(path: str, own_type: bytes, *, plain: bool) -> tuple[int, ...] | None:
    """Return the types of a file's weights that llama.cpp's own kernels multiply faster than ours, as ggml's numbers.

    None where nothing was measured. own_type: name of our buffer type. plain: compare with weights as they are in the file,
    where llama.cpp has no layout of its own for them. path: a file that cannot be read has no weights.
    """
    found, measured = [], False
    for type_, shape in weight_shapes(path).items():
        with Contest(type_, shape) as contest:
            rival = contest.rival(own_type, plain=plain)
            if rival is None:
                continue
            measured = True
            gain = relative_speed(contest.products(rival.ours), contest.products(rival.theirs))
        log.info("%s weights: %s is %.2f times as fast as edgeembed's kernels", type_name(type_), rival.name, gain)
        if gain >= LEAST_GAIN:
            found.append(type_)
    return tuple(found) if measured else None


def type_name(type_: int) -> str:
    """Return ggml's name of a type in capitals, such as Q8_0."""
    return str(function("ggml_type_name")(type_).decode()).upper()


def weight_shapes(path: str) -> Mapping[int, Shape]:
    """Return the types of the weights of a file's layers, and the shape of each that takes most memory."""
    tensors = ctypes.c_void_p()
    file = function("gguf_init_from_file")(path.encode(), GgufParameters(True, ctypes.pointer(tensors)))
    if not file:
        return {}
    sizes: dict[tuple[int, Shape], int] = {}
    try:
        address = function("ggml_get_first_tensor")(tensors)
        while address:
            tensor = Tensor.from_address(address)
            columns, rows, *others = tensor.ne
            if others == [1, 1] and rows > 1 and tensor.name.startswith(_MATRICES):
                key = tensor.type, (columns, rows)
                sizes[key] = sizes.get(key, 0) + function("ggml_nbytes")(address)
            address = function("ggml_get_next_tensor")(tensors, address)
    finally:
        function("gguf_free")(file)
        function("ggml_free")(tensors)
    return {type_: shape for (type_, shape), _ in sorted(sizes.items(), key=lambda each: each[1])}


@dataclass(frozen=True)
class _Rival:
    """Addresses of two buffer types that can multiply the same weights. name: of llama.cpp's."""

    ours: int
    theirs: int
    name: str


class Contest:
    """Products of weights of one type and shape, in any buffer type of the processor. A context manager."""

    def __init__(self, type_: int, shape: Shape) -> None:
        self._type, self._columns = type_, shape[0]
        row_bytes = function("ggml_row_size")(type_, self._columns)
        most = max(1, _MOST_BYTES // row_bytes // _ROWS_TOGETHER) * _ROWS_TOGETHER
        self._rows = min(shape[1], most)
        self._matrices = max(1, min(_MOST_MATRICES, _MOST_BYTES // (row_bytes * self._rows)))
        self._resources = contextlib.ExitStack()
        self._device = function("ggml_backend_dev_by_type")(ggml.DEVICE_CPU)
        registry = function("ggml_backend_dev_backend_reg")(self._device)
        find = function("ggml_backend_reg_get_proc_address")
        self.plain_type = function("ggml_backend_dev_buffer_type")(self._device)
        """The buffer type of weights as they are in a file."""
        self._backend = self._keep("ggml_backend_free", function("ggml_backend_dev_init")(self._device, None))
        set_threads = find(registry, ggml.SET_THREADS_FUNCTION)
        ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)(set_threads)(self._backend, 1)
        extra_types = find(registry, ggml.EXTRA_BUFFERS_FUNCTION)
        self._extra_types = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(extra_types)(self._device)

    def __enter__(self) -> Contest:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def rival(self, own_type: bytes, *, plain: bool) -> _Rival | None:
        """Return our buffer type, and the one that llama.cpp would use without it.

        None where ours cannot multiply these weights, and if the other one would be the plain one, unless `plain` is set.
        """
        takers = dict(self.takers())
        ours = takers.pop(own_type, None)
        name, theirs = next(iter(takers.items()), (b"llama.cpp's plain kernel", self.plain_type if plain else None))
        return _Rival(ours, theirs, name.decode()) if ours and theirs else None

    def takers(self) -> list[tuple[bytes, int]]:
        """Return the names and addresses of the extra buffer types that can multiply these weights, in llama.cpp's order."""
        name_of = function("ggml_backend_buft_name")
        return [(name_of(each), each) for each in ggml.up_to_null(self._extra_types) if self._takes(each)]

    @property
    def multiplications(self) -> int:
        """Multiplications that the measured products take for each token."""
        found: int = self._columns * self._rows * self._matrices
        return found

    def products(self, buffer_type: int) -> TimeProducts:
        """Return a function that measures products of weights in this buffer type."""
        context = self._context(self._matrices)
        new = function("ggml_new_tensor_2d")
        weights = [new(context, self._type, self._columns, self._rows) for _ in range(self._matrices)]
        self._keep("ggml_backend_buffer_free", function("ggml_backend_alloc_ctx_tensors_from_buft")(context, buffer_type))
        zeros = bytes(function("ggml_nbytes")(weights[0]))
        for each in weights:
            function("ggml_backend_tensor_set")(each, zeros, 0, len(zeros))
        graphs = {tokens: self._graph(weights, tokens) for tokens in TOKENS}
        compute = function("ggml_backend_graph_compute")

        def measure(tokens: int) -> float:
            began = _clock()
            compute(self._backend, graphs[tokens])
            return _clock() - began

        return measure

    def _graph(self, weights: list[int], tokens: int) -> int:
        """Return a graph that multiplies the same activations, zeros, with each of the weights."""
        context = self._context(2 * self._matrices + 1, graph=True)
        given = function("ggml_new_tensor_2d")(context, ggml.TYPE_F32, self._columns, tokens)
        graph: int = function("ggml_new_graph")(context)
        for each in weights:
            function("ggml_build_forward_expand")(graph, function("ggml_mul_mat")(context, each, given))
        allocate = function("ggml_backend_alloc_ctx_tensors_from_buft")
        self._keep("ggml_backend_buffer_free", allocate(context, self.plain_type))
        zeros = bytes(function("ggml_nbytes")(given))
        function("ggml_backend_tensor_set")(given, zeros, 0, len(zeros))
        return graph

    def _takes(self, buffer_type: int) -> bool:
        """Return whether ggml can multiply such weights in this buffer type."""
        new = function("ggml_new_tensor_2d")
        context = self._context(3)
        weights = new(context, self._type, self._columns, self._rows)
        product = function("ggml_mul_mat")(context, weights, new(context, ggml.TYPE_F32, self._columns, TOKENS[0]))
        empty = self._keep("ggml_backend_buffer_free", function("ggml_backend_buft_alloc_buffer")(buffer_type, 0))
        Tensor.from_address(weights).buffer = empty
        return bool(function("ggml_backend_dev_supports_op")(self._device, product))

    def _context(self, tensors: int, *, graph: bool = False) -> int:
        size = tensors * function("ggml_tensor_overhead")() + (function("ggml_graph_overhead")() if graph else 0)
        return self._keep("ggml_free", function("ggml_init")(InitParameters(size, None, True)))

    def _keep(self, free: str, handle: int | None) -> int:
        if not handle:
            raise MemoryError("there is not enough memory to measure the products of weights")
        self._resources.callback(function(free), handle)
        return handle
