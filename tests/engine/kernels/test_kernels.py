"""Our kernels compared with numpy, and inside llama.cpp with llama.cpp's own."""

from __future__ import annotations

import ctypes
import platform
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeembed.engine.kernels import fingerprint, library_file
from edgeembed.engine.llama import ggml, kernel_hook
from edgeembed.engine.llama.kernel_hook import LEVELS
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.worker_options import WorkerOptions
from tests.engine.kernels.library import RNG, TEXTS, Array, address, library, needs_kernels, rows_of_texts


class Heads(ctypes.Structure):
    """The structure of this name in exports_for_tests.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "mask", "out")),
        *((name, ctypes.c_int64) for name in ("heads", "queries", "keys", "depth")),
        ("scale", ctypes.c_float),
    )


@pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux" or shutil.which("g++") is None,
    reason="the kernels are compiled on x86 Linux with g++",
)
@pytest.mark.parametrize(("helpers", "parts"), [(0, 1), (1, 2), (1, 7), (3, 4), (7, 64)])
def test_a_team_computes_each_part_of_each_step_once(helpers: int, parts: int) -> None:
    needs_kernels()
    assert library().edgeembed_kernels_share(helpers, parts, 20_000) == 0


def test_kernels_are_compiled_where_there_is_a_compiler() -> None:
    assert library_file() is not None
    assert fingerprint() != "none"


def test_the_rate_of_products_is_measured_where_the_level_is_supported() -> None:
    needs_kernels()
    rate = library().edgeembed_kernels_rate
    rate.restype = ctypes.c_double
    for level in LEVELS:
        found = rate(level, *map(ctypes.c_int64, (48, 96, 5, 1)))
        assert (found > 0) == bool(library().edgeembed_kernels_supports(level))


@pytest.mark.parametrize("level", [-1, 0, 99])
def test_a_level_that_does_not_exist_computes_nothing(level: int) -> None:
    needs_kernels()
    given, out = np.ones(16, np.float32), np.full(16, 7, np.float32)
    called = library().edgeembed_kernels_gelu
    called.restype = ctypes.c_bool
    assert not called(level, address(given), address(out), ctypes.c_int64(16))
    assert (out == 7).all()


def test_gelu() -> None:
    given = np.concatenate([np.linspace(-12, 12, 1003), [-1e4, 1e4, 0, np.nan]]).astype(np.float32)
    x = given.astype(np.float64)
    expected = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    for level in needs_kernels():
        out = np.empty_like(given)
        library().edgeembed_kernels_gelu(level, address(given), address(out), ctypes.c_int64(len(given)))
        assert np.allclose(out, expected, atol=2e-6, equal_nan=True)


@pytest.mark.parametrize("width", [16, 48, 384, 1024])
def test_layer_normalisation(width: int) -> None:
    given = (RNG.standard_normal(width) * 3 + 40).astype(np.float32)
    expected = (given - given.mean(dtype=np.float64)) / np.sqrt(given.var(dtype=np.float64) + 1e-12)
    for level in needs_kernels():
        out = np.empty_like(given)
        library().edgeembed_kernels_norm(level, address(given), address(out), ctypes.c_int64(width), ctypes.c_float(1e-12))
        assert np.abs(out - expected).max() < 1e-4


@pytest.mark.parametrize(
    ("heads", "queries", "keys", "depth"),
    [(1, 2, 2, 16), (1, 14, 14, 32), (3, 64, 64, 64), (1, 9, 33, 128), (1, 77, 301, 48), (4, 5, 40, 16), (2, 11, 1300, 128)],
)
def test_attention_is_softmax_over_the_keys_that_the_mask_shows(heads: int, queries: int, keys: int, depth: int) -> None:
    """1,300 keys of 128 numbers are more than are unpacked at a time."""
    query = RNG.standard_normal((heads, queries, depth)).astype(np.float32)
    key, value = (RNG.standard_normal((keys, depth)).astype(np.float16) for _ in range(2))
    mask = np.where(RNG.random((queries, keys)) < 0.7, -np.inf, 0).astype(np.float16)
    mask[:, 16:96] = -np.inf  # blocks that are hidden from all queries
    mask[0] = RNG.standard_normal(keys)  # a bias, such as ALiBi's
    mask[1] = -np.inf  # a query that all keys are hidden from
    mask[2:, 0] = 0
    mask[-1, 100:] = -np.inf  # nothing to see in later parts
    if queries > 3:
        mask[3, :1200] = -np.inf  # or in the first
    scores = query.astype(np.float64) @ key.T.astype(np.float64) * 0.3 + mask
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True, where=np.isfinite(scores), initial=-1e9))
    expected = weights @ value.astype(np.float64) / np.maximum(weights.sum(axis=-1, keepdims=True), 1e-30)
    for level in needs_kernels():
        out = np.full_like(query, np.nan)
        given = Heads(*map(address, (query, key, value, mask, out)), heads, queries, keys, depth, 0.3)
        library().edgeembed_kernels_attention(level, ctypes.byref(given))
        assert np.abs(out - expected).max() < 1e-4
        assert not out[:, 1].any()


def rows_of(file: Path, kernels: str) -> tuple[str, Array]:
    """Return unit rows of `TEXTS`, and a description of the kernels."""
    return rows_of_texts(file, kernels, TEXTS, batch=512)


@pytest.mark.model
@pytest.mark.parametrize("quantization", ["F32", "F16", "Q8_0"])
def test_rows_are_those_of_llama_cpp(minilm: Callable[[str], Path], quantization: str) -> None:
    needs_kernels()
    by, ours = rows_of(minilm(quantization), "ours")
    assert "edgeembed's kernels" in by
    by, theirs = rows_of(minilm(quantization), "llama.cpp's")
    assert by.endswith(kernel_hook.PLAIN_KERNELS.words)
    # At Q8_0 both differ from F32 by as much, in other directions.
    assert (ours * theirs).sum(axis=1).min() > (0.9995 if quantization == "Q8_0" else 0.99999)
    assert not np.array_equal(ours, theirs)
    if quantization == "Q8_0":
        _, exact = rows_of(minilm("F32"), "llama.cpp's")
        assert (ours * exact).sum(axis=1).min() > 0.999


@pytest.mark.model
def test_texts_that_share_a_batch_do_not_see_each_other(minilm: Callable[[str], Path]) -> None:
    needs_kernels()
    options = WorkerOptions(
        path=str(minilm("F32")), threads=2, context_tokens=512, batch_tokens=512, mode="cpu", extra_buffers=True
    )
    model = LlamaModel(options)
    tokens = [model.tokenize(text) for text in TEXTS]
    together = np.stack(model.embed(tokens))
    alone = np.stack([model.embed([each])[0] for each in tokens])
    model.close()
    cosines = (together * alone).sum(axis=1) / np.linalg.norm(together, axis=1) / np.linalg.norm(alone, axis=1)
    assert cosines.min() > 0.999999


def install() -> kernel_hook.Kernels:
    """Install again, without the cached result."""
    return kernel_hook.install_kernels.__wrapped__()


def test_another_llama_cpp_keeps_its_own_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_hook, "LLAMA_CPP_PYTHON", "9.9.9")
    monkeypatch.setattr(kernel_hook, "library_file", lambda: Path(__file__))
    assert not install().ours
    assert ggml.LLAMA_CPP_PYTHON in install().words


def test_another_ggml_keeps_its_own_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_kernels()
    monkeypatch.setattr(ggml, "GGML", "9.9.9")
    assert not install().ours
    assert "9.9.9" in install().words


def test_without_a_compiler_llama_cpp_keeps_its_own_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_hook, "library_file", lambda: None)
    assert not install().ours
    assert "not compiled" in install().words


def test_a_library_that_cannot_be_loaded_costs_nothing_but_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_hook, "library_file", lambda: Path(__file__))
    assert not install().ours


@pytest.mark.parametrize("missing", ["drop_results", "threads"])
def test_kernels_that_lack_a_function_are_not_used(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Those of an older edgeembed, beside newer Python code, would otherwise end each worker at its first text."""
    needs_kernels()
    installed = threading.Event()

    def older(loader: type[ctypes.CDLL]) -> type[ctypes.CDLL]:
        class Older(loader):  # type: ignore[misc, valid-type]
            def __getattr__(self, name: str) -> object:
                if name == f"edgeembed_kernels_{missing}":
                    raise AttributeError(f"undefined symbol: {name}")
                return installed.set if name == "edgeembed_kernels_install" else super().__getattr__(name)

        return Older

    for loader in (ctypes.CDLL, ctypes.PyDLL):
        monkeypatch.setattr(ctypes, loader.__name__, older(loader))
    assert install().words.endswith("compiled for another edgeembed: install it again)")
    assert not install().ours and not installed.is_set()


@pytest.mark.model
def test_a_bulk_thread_waits_while_a_query_computes(minilm: Callable[[str], Path]) -> None:
    needs_kernels()
    options = WorkerOptions(
        path=str(minilm("Q8_0")), threads=1, context_tokens=512, batch_tokens=512, mode="cpu", extra_buffers=True
    )
    model = LlamaModel(options)
    tokens = [model.tokenize(text) for text in TEXTS]
    events: list[str] = []
    begun = threading.Event()

    def bulk() -> None:
        model.kernels.be_bulk()
        begun.set()
        model.embed(tokens)
        events.append("bulk")

    thread = threading.Thread(target=bulk)
    model.kernels.begin_query()
    thread.start()
    begun.wait()
    # Hundreds of pieces of work, each of which waits: seconds, for what would take milliseconds.
    thread.join(timeout=0.5)
    events.append("query")
    model.kernels.end_query()
    thread.join(timeout=60)
    assert events == ["query", "bulk"]
    model.close()
