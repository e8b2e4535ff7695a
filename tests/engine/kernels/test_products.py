"""Products of packed weights of every type, compared with numpy at all widths; packing and unpacking."""

from __future__ import annotations

import ctypes
from typing import Any

import gguf
import numpy as np
import pytest

from edgeembed.engine.llama import ggml
from tests.engine.kernels.library import Array, address, library, needs_kernels

Type = gguf.GGMLQuantizationType
RNG = np.random.default_rng(7)
BYTES = (
    Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.IQ4_NL, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_XS,
)  # fmt: skip
WORDS = (Type.F16, Type.BF16)
"""Types whose activations are rounded to 8 bits, and to 16."""
LARGE = (Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_XS)


def quantise(weights: Array, kind: Type) -> Array:
    """Return the bytes of each row as llama.cpp's quantiser makes them, shape (rows, bytes)."""
    weights = np.ascontiguousarray(weights, dtype=np.float32)
    rows, columns = weights.shape
    if kind in WORDS:
        return gguf.quants.quantize(weights, kind).view(np.uint8).reshape(rows, -1)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.zeros((rows, columns // block * size), np.uint8)
    importance = np.ones(columns, np.float32)
    quantiser: Any = ggml.find_symbol("ggml_quantize_chunk")
    quantiser.restype = ctypes.c_size_t
    shape = ctypes.c_int64(0), ctypes.c_int64(rows), ctypes.c_int64(columns)
    assert quantiser(int(kind), address(weights), address(out), *shape, address(importance)) == out.nbytes
    return out


def values(weights: Array, kind: Type) -> Array:
    found = gguf.quants.dequantize(weights, kind).reshape(len(weights), -1)
    return np.asarray(found, dtype=np.float64)


def random_weights(rows: int, columns: int, kind: Type) -> Array:
    return quantise(RNG.standard_normal((rows, columns)) * 0.04, kind)


def multiply(level: int, kind: Type, weights: Array, given: Array) -> Array:
    rows, columns = len(weights), given.shape[1]
    out = np.full((len(given), rows), 7, np.float32)
    shape = map(ctypes.c_int64, (rows, columns, len(given)))
    assert library().edgeembed_kernels_multiply(level, int(kind), address(weights), address(given), address(out), *shape)
    return out


def rounded(given: Array, kind: Type) -> Array:
    """Return activations as the kernels round them: for each 32 columns to 127 steps, or for each 64 to 16,383."""
    block, steps = (64, np.float32(16_383)) if kind in WORDS else (32, np.float32(127))
    blocks = given.reshape(len(given), -1, block)
    most = np.abs(blocks).max(axis=2, keepdims=True)
    found = np.rint(blocks * (steps / most)).astype(np.float64) * (most / steps)
    return np.asarray(found.reshape(given.shape))


@pytest.mark.parametrize("kind", BYTES + WORDS, ids=lambda kind: kind.name)
def test_a_product_is_that_of_the_quantised_numbers(kind: Type) -> None:
    # One block, one panel of columns, and more than one.
    for columns, most in (
        (256 if kind in LARGE else 64, 16),
        (512, 40),
        (1024 + 256, 8),
    ):
        weights = random_weights(48, columns, kind)
        given = RNG.standard_normal((40, columns)).astype(np.float32)
        expected = rounded(given, kind) @ values(weights, kind).T
        # Weights of 16 bits are rounded to about 11 bits when they are packed.
        allowed = (1e-3 if kind in WORDS else 1e-5) * np.abs(expected).max()
        for level in needs_kernels():
            for tokens in range(1, most + 1):
                assert np.abs(multiply(level, kind, weights, given[:tokens]) - expected[:tokens]).max() < allowed


@pytest.mark.parametrize("kind", WORDS, ids=lambda kind: kind.name)
def test_weights_of_16_bits_lose_less_than_llama_cpp_loses(kind: Type) -> None:
    """llama.cpp rounds activations to the type of the weights; rounding both to fixed point costs no more."""
    weights = random_weights(64, 768, kind)
    given = (RNG.standard_normal((20, 768)) * RNG.lognormal(0, 1, 768)).astype(np.float32)
    exact = given @ values(weights, kind).T
    theirs = values(gguf.quants.quantize(given, kind).view(np.uint8).reshape(20, -1), kind) @ values(weights, kind).T
    for level in needs_kernels():
        ours = multiply(level, kind, weights, given)
        assert np.square(ours - exact).mean() < 1.2 * np.square(theirs - exact).mean()


@pytest.mark.parametrize("kind", BYTES + WORDS, ids=lambda kind: kind.name)
def test_extreme_numbers_do_not_overflow(kind: Type) -> None:
    columns = 1536
    weights = quantise(np.full((16, columns), -1, np.float32), kind)
    expected = -3 * columns * np.abs(values(weights, kind).mean())
    for level in needs_kernels():
        assert np.allclose(
            multiply(level, kind, weights, np.full((2, columns), 3, np.float32)),
            expected,
            rtol=1e-3,
        )
        assert not multiply(level, kind, weights, np.zeros((2, columns), np.float32)).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", BYTES + WORDS, ids=lambda kind: kind.name)
def test_nan_and_infinity_show_in_the_row_and_affect_no_other_text(kind: Type, bad: float) -> None:
    weights = random_weights(32, 512, kind)
    given = RNG.standard_normal((9, 512)).astype(np.float32)
    given[4, 40] = bad
    for level in needs_kernels():
        out = multiply(level, kind, weights, given)
        assert not np.isfinite(out[4]).any()
        assert np.isfinite(np.delete(out, 4, axis=0)).all()


@pytest.mark.parametrize("kind", WORDS, ids=lambda kind: kind.name)
def test_weights_that_are_not_finite_show_in_their_rows(kind: Type) -> None:
    floats = RNG.standard_normal((16, 128)).astype(np.float32)
    floats[3, 70], floats[5, 1], floats[7] = np.nan, np.inf, 0
    weights = gguf.quants.quantize(floats, kind).view(np.uint8).reshape(16, -1)
    for level in needs_kernels():
        out = multiply(level, kind, weights, np.ones((2, 128), np.float32))
        assert np.isfinite(out).all(axis=0).tolist() == [row not in (3, 5) for row in range(16)]
        assert not out[:, 7].any()


@pytest.mark.parametrize("size", [3e-7, 3e-5, 65504], ids=["subnormal", "partly subnormal", "largest"])
@pytest.mark.parametrize("kind", WORDS, ids=lambda kind: kind.name)
def test_the_smallest_and_largest_weights_of_16_bits_count(kind: Type, size: float) -> None:
    floats = (RNG.uniform(-1, 1, (16, 128)) * size).astype(np.float32)
    weights = gguf.quants.quantize(floats, kind).view(np.uint8).reshape(16, -1)
    given = RNG.standard_normal((3, 128)).astype(np.float32)
    exact = given @ values(weights, kind).T
    largest = np.abs(given) @ np.abs(values(weights, kind)).T
    for level in needs_kernels():
        assert (np.abs(multiply(level, kind, weights, given) - exact) < 2e-4 * largest).all()


def packed_bytes(kind: Type, rows: int, columns: int) -> int:
    called = library().edgeembed_kernels_packed
    called.restype = ctypes.c_size_t
    return int(called(int(kind), ctypes.c_int64(rows), ctypes.c_int64(columns)))


@pytest.mark.parametrize("part", [1, 34, 100, 16 * 3 * 34])
@pytest.mark.parametrize("kind", BYTES, ids=lambda kind: kind.name)
def test_weights_may_be_set_and_read_in_parts(kind: Type, part: int) -> None:
    """llama.cpp sets them whole; a part at a time gives the same packed bytes, and they can be read back."""
    needs_kernels()
    weights = random_weights(32, 512, kind)
    place, shape = ctypes.c_int(int(kind)), (ctypes.c_int64(32), ctypes.c_int64(512))
    size = packed_bytes(kind, 32, 512)
    assert weights.nbytes <= size <= 1.03 * weights.nbytes
    given = weights.reshape(-1)
    whole, parts, back = (
        np.zeros(size, np.uint8),
        np.zeros(size, np.uint8),
        np.zeros_like(given),
    )
    total = ctypes.c_size_t(0), ctypes.c_size_t(given.nbytes)
    library().edgeembed_kernels_set(address(whole), place, *shape, address(given), *total)
    for begin in range(0, given.nbytes, part):
        piece = given[begin : begin + part].copy()
        span = ctypes.c_size_t(begin), ctypes.c_size_t(len(piece))
        library().edgeembed_kernels_set(address(parts), place, *shape, address(piece), *span)
        out = np.zeros_like(piece)
        library().edgeembed_kernels_get(address(whole), place, *shape, address(out), *span)
        back[begin : begin + part] = out
    assert np.array_equal(whole, parts)
    assert np.array_equal(back, given)


@pytest.mark.parametrize("kind", WORDS, ids=lambda kind: kind.name)
def test_weights_of_16_bits_are_read_back_rounded(kind: Type) -> None:
    needs_kernels()
    weights = random_weights(32, 512, kind)
    place, shape = ctypes.c_int(int(kind)), (ctypes.c_int64(32), ctypes.c_int64(512))
    packed, back = (
        np.zeros(packed_bytes(kind, 32, 512), np.uint8),
        np.zeros_like(weights),
    )
    for begin in range(0, weights.nbytes, 1000):
        piece = weights.reshape(-1)[begin : begin + 1000].copy()
        span = ctypes.c_size_t(begin), ctypes.c_size_t(len(piece))
        library().edgeembed_kernels_set(address(packed), place, *shape, address(piece), *span)
    total = ctypes.c_size_t(0), ctypes.c_size_t(weights.nbytes)
    library().edgeembed_kernels_get(address(packed), place, *shape, address(back), *total)
    assert np.abs(values(back, kind) - values(weights, kind)).max() < 2e-3 * np.abs(values(weights, kind)).max()
