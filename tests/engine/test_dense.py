"""Dense layers behind the pooling: their metadata, what they compute, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from edgeembed.engine.dense import DenseHead, DenseLayer, read_head
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.reading import Reading
from edgeembed.engine.worker_options import WorkerOptions
from tests.convert.tiny_bert import make_tiny_bert
from tests.convert.tiny_qwen3_checkpoint import make_qwen3_checkpoint
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.modules import add_dense

RANDOM = np.random.default_rng(3)
TEXTS = ("river", "The river rises in the hills.", "a b c d e f g h")


def _matrix(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return RANDOM.standard_normal(shape).astype(np.float32)


HEAD = DenseHead(
    [DenseLayer(_matrix(5, 3), _matrix(5), "tanh"), DenseLayer(_matrix(4, 5), None, "relu"), DenseLayer(_matrix(2, 4))]
)


def test_metadata_hold_all_that_is_computed() -> None:
    keys = {key: str(value) for key, value in HEAD.metadata().items()}
    found = read_head(keys.get, 3)
    assert found is not None and found.outputs == HEAD.outputs == 2
    rows = _matrix(7, 3)
    assert np.array_equal(found.apply(rows), HEAD.apply(rows))
    assert read_head({}.get, 3) is None


def test_layers_compute_a_matrix_a_bias_and_a_function() -> None:
    first, second, third = HEAD.layers
    rows = _matrix(7, 3)
    assert first.bias is not None
    inner = np.maximum(np.tanh(rows @ first.weight.T + first.bias) @ second.weight.T, 0)
    assert np.allclose(HEAD.apply(rows), inner @ third.weight.T, atol=1e-6)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("edgeembed.dense.count", "0", "from 1 to 4"),
        ("edgeembed.dense.count", "\u0663", "from 1 to 4"),
        ("edgeembed.dense.0.outputs", "9" * 5000, "from 1 to"),
        ("edgeembed.dense.0.activation", "silu", "expected one of"),
        ("edgeembed.dense.1.weight", "", "does not have 20 numbers"),
        ("edgeembed.dense.2.bias", "AAAA", "does not have 2 numbers"),
    ],
)
def test_malformed_metadata(key: str, value: str, said: str) -> None:
    keys = {**{name: str(text) for name, text in HEAD.metadata().items()}, key: value}
    with pytest.raises(ValueError, match=said):
        read_head(keys.get, 3)


@pytest.mark.model
@pytest.mark.parametrize("causal", [False, True], ids=["pooled by llama.cpp", "last tokens"])
def test_a_model_computes_them_after_the_pooling(tmp_path: Path, causal: bool) -> None:
    make = make_qwen3_checkpoint if causal else make_tiny_bert
    plain = _open(convert_checkpoint(make(tmp_path / "plain"), tmp_path / "plain.gguf", quantization="F32").path)
    head = add_dense(make(tmp_path / "dense"), plain.info.dimensions, 24)
    found = convert_checkpoint(tmp_path / "dense", tmp_path / "dense.gguf", quantization="F32")
    assert found.dimensions == 24
    model = _open(found.path)
    try:
        assert model.info.dimensions == 24
        assert bool(model.wide.shape.prefix_cells) is causal  # which only rows of last tokens have
        texts = [model.tokenize(text) for text in TEXTS]
        expected = head.apply(np.stack(plain.embed(texts)))
        together, alone = np.stack(model.embed(texts)), np.stack([model.embed([tokens])[0] for tokens in texts])
        isolated = model.wide.compute([Reading(tokens) for tokens in texts], isolated=True)
        for rows in (together, alone, isolated):
            assert np.allclose(rows, expected, atol=1e-5)
        bulk = model.new_bulk_context()
        assert np.allclose(bulk.compute([Reading(tokens) for tokens in texts]), expected, atol=1e-5)
        bulk.close()
    finally:
        plain.close()
        model.close()


def _open(file: Path) -> LlamaModel:
    options = WorkerOptions(path=str(file), threads=2, context_tokens=512, batch_tokens=128, mode="cpu", extra_buffers=True)
    return LlamaModel(options)


def test_gelu_is_that_of_the_normal_distribution() -> None:
    rows = np.linspace(-4, 4, 9, dtype=np.float32)[None]
    layer = DenseLayer(np.eye(9, dtype=np.float32), None, "gelu")
    expected = [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in rows[0].tolist()]
    found = layer.apply(rows)
    assert found.dtype == np.float32
    assert found[0] == pytest.approx(expected, abs=1e-6)
