"""Random graphs, computed in runs and node by node."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ctypes import c_float, c_int, c_int64, c_size_t, c_void_p
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeembed.engine.llama import ggml
from edgeembed.engine.llama.ggml import InitParameters, Tensor, function
from edgeembed.engine.llama.kernel_hook import BUFFER_TYPE, install_kernels
from tests.engine.kernels.library import library, needs_kernels

WIDTHS, HEADS = (64, 128, 192), 4
CELLS = 96
"""Of a cache."""
TOKENS = (1, 2, 5, 15, 16, 49, 97)
MOST_TENSORS = 400
SEEDS = 60
MOST_DIFFERENCE = 0.01
"""Of an output, relative to it: the last bit of a result may decide how the next product quantises it."""
TYPE_I32, TYPE_I64 = 26, 27

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "ggml_new_tensor_3d": (c_void_p, c_void_p, c_int, c_int64, c_int64, c_int64),
    "ggml_new_tensor_1d": (c_void_p, c_void_p, c_int, c_int64),
    "ggml_rms_norm": (c_void_p, c_void_p, c_void_p, c_float),
    "ggml_norm_inplace": (c_void_p, c_void_p, c_void_p, c_float),
    "ggml_gelu": (c_void_p, c_void_p, c_void_p),
    "ggml_add_inplace": (c_void_p, c_void_p, c_void_p, c_void_p),
    "ggml_swiglu_split": (c_void_p, c_void_p, c_void_p, c_void_p),
    "ggml_reshape_3d": (c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_int64),
    "ggml_reshape_2d": (c_void_p, c_void_p, c_void_p, c_int64, c_int64),
    "ggml_permute": (c_void_p, c_void_p, c_void_p, c_int, c_int, c_int, c_int),
    "ggml_cpy": (c_void_p, c_void_p, c_void_p, c_void_p),
    "ggml_cast": (c_void_p, c_void_p, c_void_p, c_int),
    "ggml_rope": (c_void_p, c_void_p, c_void_p, c_void_p, c_int, c_int),
    "ggml_set_rows": (c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
    "ggml_view_3d": (c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_size_t, c_size_t, c_size_t),
    "ggml_flash_attn_ext": (c_void_p, *(c_void_p,) * 5, c_float, c_float, c_float),
    "ggml_set_output": (None, c_void_p),
    "ggml_set_input": (None, c_void_p),
    "ggml_graph_add_node": (None, c_void_p, c_void_p),
    "ggml_graph_n_nodes": (c_int, c_void_p),
    "ggml_graph_node": (c_void_p, c_void_p, c_int),
}


def call(name: str, *arguments: Any) -> Any:
    """Call a function of ggml."""
    if name in ggml.SIGNATURES:
        return function(name)(*arguments)
    found = ggml.find_symbol(name)
    found.restype, *found.argtypes = _SIGNATURES[name]
    return found(*arguments)


def context(tensors: int, graphs: int = 0) -> int:
    size = tensors * call("ggml_tensor_overhead") + graphs * call("ggml_graph_overhead")
    return int(call("ggml_init", InitParameters(size, None, True)))


def set_data(tensor: int, array: npt.NDArray[Any]) -> None:
    array = np.ascontiguousarray(array)
    call("ggml_backend_tensor_set", tensor, array.ctypes.data, 0, array.nbytes)


def data_of(tensor: int) -> npt.NDArray[np.float32]:
    found = np.empty(call("ggml_nbytes", tensor) // 4, dtype=np.float32)
    call("ggml_backend_tensor_get", tensor, found.ctypes.data, 0, found.nbytes)
    return found


def q8_0(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return weights as a file has them."""
    blocks = weights.reshape(-1, 32)
    scales = (np.abs(blocks).max(axis=1, keepdims=True) / 127).astype(np.float16)
    quants = np.rint(blocks / scales.astype(np.float32)).clip(-127, 127).astype(np.int8)
    return np.concatenate([scales.view(np.uint8), quants.view(np.uint8)], axis=1)


class Processor:
    """ggml's backend of the processor, and weights in the buffer type of our kernels."""

    def __init__(self) -> None:
        self.device = call("ggml_backend_dev_by_type", ggml.DEVICE_CPU)
        self.buffer_type = call("ggml_backend_dev_buffer_type", self.device)
        self.backend = call("ggml_backend_dev_init", self.device, None)
        registry = call("ggml_backend_dev_backend_reg", self.device)
        find = function("ggml_backend_reg_get_proc_address")
        self._set_threads = ctypes.CFUNCTYPE(None, c_void_p, c_int)(find(registry, ggml.SET_THREADS_FUNCTION))
        extra = ctypes.CFUNCTYPE(ctypes.POINTER(c_void_p), c_void_p)(find(registry, ggml.EXTRA_BUFFERS_FUNCTION))
        types = ggml.up_to_null(extra(self.device))
        ours = next(one for one in types if call("ggml_backend_buft_name", one) == BUFFER_TYPE)
        self._context = context(64)
        rng = np.random.default_rng(1)
        self.weights: dict[tuple[int, int], list[int]] = {}
        data = []
        for columns in WIDTHS:
            for rows in WIDTHS:
                array = (rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)
                packed = {ggml.TYPE_Q8_0: q8_0(array), ggml.TYPE_F16: array.astype(np.float16)}
                for type_, bytes_ in packed.items():
                    tensor = call("ggml_new_tensor_2d", self._context, type_, columns, rows)
                    self.weights.setdefault((columns, rows), []).append(tensor)
                    data.append((tensor, bytes_))
        self._buffer = call("ggml_backend_alloc_ctx_tensors_from_buft", self._context, ours)
        for tensor, array in data:
            set_data(tensor, array)

    def compute(self, graph: int, threads: int, helped: bool) -> None:
        """Compute a graph with ggml's threads, or with a team's."""
        ctypes.PyDLL(library()._name).edgeembed_kernels_threads(threads if helped else 1)
        self._set_threads(self.backend, threads)
        assert call("ggml_backend_graph_compute", self.backend, graph) == 0

    def close(self) -> None:
        ctypes.PyDLL(library()._name).edgeembed_kernels_threads(1)
        call("ggml_backend_buffer_free", self._buffer)
        call("ggml_backend_free", self.backend)
        call("ggml_free", self._context)


class Builder:
    """Builds a random graph: the same one for the same seed. results: rows of floats."""

    def __init__(self, processor: Processor, seed: int) -> None:
        self.context = context(MOST_TENSORS, MOST_TENSORS)
        self.rng = np.random.default_rng(seed)
        self.tokens = int(self.rng.choice(TOKENS))
        self._weights = processor.weights
        self.leaves: list[tuple[int, npt.NDArray[Any]]] = []
        self.outputs: list[int] = []
        self.first: list[int] = []  # to compute before the outputs, in this order
        self.results = [self.leaf(self.numbers(self.tokens, width)) for width in WIDTHS]
        self.places = (
            self.leaf(self.rng.permutation(CELLS)[: self.tokens].astype(np.int64)) if self.tokens <= CELLS else None
        )
        self.positions = self.leaf(np.arange(self.tokens, dtype=np.int32))
        self.mask = self.leaf(np.where(self.rng.random((self.tokens, CELLS)) < 0.5, -np.inf, 0).astype(np.float16))
        self.square_mask = self.leaf(np.zeros((self.tokens, self.tokens), dtype=np.float16))
        for _ in range(int(self.rng.integers(4, 25))):
            moves = (
                self.product,
                self.products,
                self.feed_forward,
                self.residual,
                self.normalised,
                self.normalised,
                self.gelu,
                self.gated,
            )
            self.rng.choice(np.array([*moves, self.attention, self.cached_attention, self.rotated], dtype=object))()
            if self.rng.random() < 0.05:
                self.outputs.append(self.results[-1])
                call("ggml_set_output", self.results[-1])
        self.outputs.append(self.results[-1])

    def numbers(self, *shape: int) -> npt.NDArray[np.float32]:
        return self.rng.standard_normal(shape).astype(np.float32)

    def leaf(self, array: npt.NDArray[Any]) -> int:
        types = {"float32": ggml.TYPE_F32, "float16": ggml.TYPE_F16, "int32": TYPE_I32, "int64": TYPE_I64}
        shape = [*reversed(array.shape), 1][:2]
        tensor = int(call("ggml_new_tensor_2d", self.context, types[array.dtype.name], *shape))
        call("ggml_set_input", tensor)
        self.leaves.append((tensor, array))
        return tensor

    def width(self, tensor: int) -> int:
        return int(Tensor.from_address(tensor).ne[0])

    def pick(self, width: int | None = None) -> int:
        """Return a result, most often one of the last three."""
        found = [one for one in self.results if width is None or self.width(one) == width]
        return (
            found[-int(self.rng.integers(1, min(len(found), 3) + 1))]
            if self.rng.random() < 0.8
            else found[self.rng.integers(len(found))]
        )

    def maybe(self, chance: float = 0.5) -> bool:
        return bool(self.rng.random() < chance)

    def keep(self, tensor: int) -> int:
        self.results.append(tensor)
        return tensor

    def do(self, name: str, *arguments: Any) -> int:
        return int(call(name, self.context, *arguments))

    def vector(self, width: int) -> int:
        return self.leaf(self.numbers(width))

    def multiplied(self, given: int, width: int | None = None) -> int:
        width = width or int(self.rng.choice(WIDTHS))
        return self.do("ggml_mul_mat", self.weights_of(given, width), given)

    def weights_of(self, given: int, width: int) -> int:
        return int(self.rng.choice(self._weights[self.width(given), width]))

    def product(self) -> None:
        found = self.multiplied(self.pick())
        if self.maybe():
            found = self.do("ggml_add", found, self.vector(self.width(found)))
        if self.maybe(0.4):
            other = self.pick(self.width(found))
            found = self.do(*(("ggml_add", found, other) if self.maybe() else ("ggml_add", other, found)))
        elif self.maybe():
            found = self.do("ggml_gelu", found)
        self.keep(found)
        if self.maybe(0.2):
            self.keep(self.multiplied(found))

    def products(self) -> None:
        given, width = self.pick(), int(self.rng.choice(WIDTHS))
        found = [self.multiplied(given, width) for _ in range(int(self.rng.integers(2, 6)))]
        for number, one in enumerate(found):
            if self.maybe():
                found[number] = self.do("ggml_add", one, self.vector(width) if self.maybe(0.7) else self.pick(width))
        if self.maybe():
            self.keep(self.do("ggml_add", found[1], found[0]))
        for one in found:
            self.keep(one)

    def residual(self) -> None:
        one = self.pick()
        self.keep(self.do("ggml_add", one, self.pick(self.width(one))))

    def normalised(self) -> None:
        given = self.pick()
        found = self.do("ggml_rms_norm" if self.maybe() else "ggml_norm", given, 1e-5)
        if self.maybe(0.8):
            other = self.vector(self.width(given)) if self.maybe(0.8) else self.pick(self.width(given))
            found = self.do("ggml_mul", found, other)
        if self.maybe():
            found = self.do(
                "ggml_add", found, self.vector(self.width(given)) if self.maybe(0.8) else self.pick(self.width(given))
            )
        self.keep(found)

    def feed_forward(self) -> None:
        """Two products of which one gates the other, in either order, and sometimes another product of the same rows."""
        given, width = self.pick(), int(self.rng.choice(WIDTHS))
        one, other = self.multiplied(given, width), self.multiplied(given, width)
        found = self.keep(self.do("ggml_swiglu_split", one, other))
        self.first.extend([other, found] if self.maybe() else [found])
        if self.maybe():
            self.first.append(self.keep(self.do("ggml_add", self.multiplied(given, width), self.vector(width))))

    def gelu(self) -> None:
        self.keep(self.do("ggml_gelu", self.pick()))

    def gated(self) -> None:
        one = self.pick()
        self.keep(self.do("ggml_swiglu_split", one, self.pick(self.width(one))))

    def heads(self, tensor: int) -> int:
        return self.do("ggml_reshape_3d", tensor, self.width(tensor) // HEADS, HEADS, self.tokens)

    def turned(self, tensor: int) -> int:
        return self.do("ggml_permute", self.heads(tensor), 0, 2, 1, 3)

    def rotated(self) -> None:
        given = self.pick(128)
        found = self.do("ggml_rope", self.heads(given), self.positions, 32, 2 if self.maybe() else 0)
        self.keep(self.do("ggml_reshape_2d", found, 128, self.tokens))

    def attention(self) -> None:
        given, width = self.pick(), int(self.rng.choice((64, 128)))
        query, key, value = [self.do("ggml_add", self.multiplied(given, width), self.vector(width)) for _ in range(3)]
        parts = [self.do("ggml_cast", self.turned(one), ggml.TYPE_F16) for one in (key, value)]
        self.attend(self.turned(query), *parts, self.square_mask, width)

    def attend(self, query: int, key: int, value: int, mask: int, width: int) -> None:
        found = self.do("ggml_flash_attn_ext", query, key, value, mask, 0.2, 0.0, 0.0)
        self.keep(self.do("ggml_reshape_2d", found, width, self.tokens))

    def cached_attention(self) -> None:
        """Store keys and values in cells of a cache, and read all cells."""
        if self.places is None:
            return
        given, width = self.pick(), int(self.rng.choice((64, 128)))
        views = []
        for _ in range(2):
            cache = self.leaf(self.numbers(CELLS, width).astype(np.float16))
            self.first.append(self.do("ggml_set_rows", cache, self.multiplied(given, width), self.places))
            depth = width // HEADS
            row = width * 2
            view = self.do("ggml_view_3d", cache, depth, HEADS, CELLS, depth * 2, row, 0)
            views.append(self.do("ggml_permute", view, 0, 2, 1, 3))
        self.attend(self.turned(self.multiplied(given, width)), *views, self.mask, width)

    def fill(self) -> None:
        for tensor, array in self.leaves:
            if Tensor.from_address(tensor).data:  # unused ones have no memory
                set_data(tensor, array)

    def graph(self) -> int:
        graph = int(call("ggml_new_graph", self.context))
        for tensor in (*self.first, *self.outputs):
            call("ggml_build_forward_expand", graph, tensor)
        return graph


def node_by_node(processor: Processor, seed: int) -> list[npt.NDArray[np.float32]]:
    """Return the outputs, with memory of its own for each tensor."""
    builder = Builder(processor, seed)
    whole = builder.graph()
    buffer = call("ggml_backend_alloc_ctx_tensors_from_buft", builder.context, processor.buffer_type)
    builder.fill()
    for number in range(call("ggml_graph_n_nodes", whole)):
        graph = call("ggml_new_graph", builder.context)
        call("ggml_graph_add_node", graph, call("ggml_graph_node", whole, number))
        processor.compute(graph, 1, helped=False)
    found = [data_of(one) for one in builder.outputs]
    call("ggml_backend_buffer_free", buffer)
    call("ggml_free", builder.context)
    return found


def in_runs(processor: Processor, seed: int, threads: int, helped: bool) -> list[npt.NDArray[np.float32]]:
    """Return the outputs, where ggml's allocator uses the memory of dead results again."""
    builder = Builder(processor, seed)
    graph = builder.graph()
    memory = call("ggml_gallocr_new", processor.buffer_type)
    assert call("ggml_gallocr_alloc_graph", memory, graph)
    found = []
    for _ in range(2):  # nodes are as before: the graph is used again
        builder.fill()
        processor.compute(graph, threads, helped)
        found.append([data_of(one) for one in builder.outputs])
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other, equal_nan=True)
    call("ggml_gallocr_free", memory)
    call("ggml_free", builder.context)
    return found[0]


@pytest.fixture(scope="module")
def processor() -> Iterator[Processor]:
    needs_kernels()
    assert install_kernels().ours
    processor = Processor()
    yield processor
    processor.close()


@pytest.mark.parametrize(("threads", "helped"), [(1, False), (2, False), (3, True)])
def test_a_run_computes_what_its_nodes_would(processor: Processor, threads: int, helped: bool) -> None:
    for seed in range(SEEDS):
        expected = node_by_node(processor, seed)
        found = in_runs(processor, seed, threads, helped)
        for one, other in zip(found, expected, strict=True):
            assert np.linalg.norm(one - other) <= MOST_DIFFERENCE * np.linalg.norm(other), f"seed {seed}"
