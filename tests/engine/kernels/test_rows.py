"""The kernels of decoders' rows compared with numpy, and whole decoders with llama.cpp's own kernels."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.engine.kernels.library import RNG, Array, address, library, needs_kernels, rows_of_texts
from tests.engine.tiny_qwen3 import Qwen3Sizes, make_tiny_qwen3

GLU_KINDS = {1: "geglu", 2: "swiglu", 4: "geglu_erf"}


@pytest.mark.parametrize("width", [16, 48, 128, 1024])
@pytest.mark.parametrize("scaled", [True, False])
def test_a_row_is_divided_by_the_root_of_its_mean_square(width: int, scaled: bool) -> None:
    given = (RNG.standard_normal(width) * 3 + 1).astype(np.float32)
    scale = RNG.standard_normal(width).astype(np.float32) if scaled else None
    expected = given / np.sqrt(np.mean(given.astype(np.float64) ** 2) + 1e-6) * (1 if scale is None else scale)
    for level in needs_kernels():
        out = np.empty_like(given)
        library().edgeembed_kernels_rms_norm(
            level,
            address(given),
            address(out),
            ctypes.c_int64(width),
            ctypes.c_float(1e-6),
            address(scale) if scaled else None,
        )
        assert np.abs(out - expected).max() < 1e-5


def activation(kind: int, x: Array) -> Array:
    match GLU_KINDS[kind]:
        case "swiglu":
            with np.errstate(over="ignore"):
                return x / (1 + np.exp(-x))
        case "geglu":
            return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        case _:
            return 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


@pytest.mark.parametrize("kind", GLU_KINDS)
def test_gated_activations(kind: int) -> None:
    gate = np.concatenate([np.linspace(-20, 20, 1003), [-1e4, 1e4, 0, np.nan]]).astype(np.float32)
    up = RNG.standard_normal(len(gate)).astype(np.float32)
    expected = activation(kind, gate.astype(np.float64)) * up
    for level in needs_kernels():
        out = np.empty_like(gate)
        library().edgeembed_kernels_glu(level, kind, *map(address, (gate, up, out)), ctypes.c_int64(len(gate)))
        assert np.allclose(out, expected, atol=3e-6, rtol=1e-6, equal_nan=True)


@pytest.mark.parametrize("position", [0, 1, 77, 511, 8191, 32767])
@pytest.mark.parametrize(("count", "length"), [(32, 32), (64, 96), (128, 128)])
@pytest.mark.parametrize("in_pairs", [True, False])
def test_rotation(position: int, count: int, length: int, in_pairs: bool) -> None:
    given = RNG.standard_normal(length).astype(np.float32)
    frequencies = (1e6 ** (-np.arange(0, count, 2) / count)).astype(np.float32)
    angles = (np.float32(position) * frequencies).astype(np.float64)  # in single precision, as ggml and PyTorch compute them
    first, second = (slice(0, count, 2), slice(1, count, 2)) if in_pairs else (slice(count // 2), slice(count // 2, count))
    expected = given.astype(np.float64)
    expected[first] = given[first] * np.cos(angles) - given[second] * np.sin(angles)
    expected[second] = given[first] * np.sin(angles) + given[second] * np.cos(angles)
    for level in needs_kernels():
        out, same = np.empty_like(given), given.copy()
        for source, to in ((given, out), (same, same)):
            library().edgeembed_kernels_rotate(
                level, address(source), address(to), *map(ctypes.c_int64, (count, length)), in_pairs,
                ctypes.c_float(position), address(frequencies),
            )  # fmt: skip
            assert np.abs(to - expected).max() < 1e-5


@pytest.mark.model
@pytest.mark.parametrize("matrices", ["F32", "Q8_0"])
def test_rows_of_a_decoder_are_those_of_llama_cpp(tmp_path: Path, matrices: str) -> None:
    """Several lengths, with heads that share keys; 300 tokens are computed in pieces of a batch."""
    needs_kernels()
    sizes = Qwen3Sizes(layers=3, width=128, heads=4, kv_heads=2, head=64, feed_forward=256)
    file = make_tiny_qwen3(tmp_path / "decoder.gguf", sizes=sizes, matrices=gguf.GGMLQuantizationType[matrices])
    texts = ["river", "a copper engine", "early " * 20, "silent stone garden " * 15]
    (by, ours), (other, theirs) = (rows_of_texts(file, kernels, texts, batch=128) for kernels in ("ours", "llama.cpp's"))
    assert by != other
    assert (ours * theirs).sum(axis=1).min() > (0.9995 if matrices == "Q8_0" else 0.99999)
    assert not np.array_equal(ours, theirs)
