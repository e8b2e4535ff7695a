"""The masked-LM head by ggml: the logits are those of NumPy, with weights where they are and in a packed copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeembed.engine.dense import ACTIVATIONS
from edgeembed.engine.interface import Float32Matrix
from edgeembed.engine.llama.masked_lm import MaskedLm, find_embeddings
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.sparse import CHUNK_TOKENS, MaskedLmWeights
from edgeembed.engine.worker_options import WorkerOptions
from tests.convert.tiny_bert import PIECES, make_tiny_bert, tiny_weights
from tests.convert.without_proof import convert_checkpoint

pytestmark = pytest.mark.model
HIDDEN = 64


def weights(*, biased: bool = True) -> MaskedLmWeights:
    random = np.random.default_rng(3)

    def numbers(*shape: int) -> Float32Matrix:
        return (random.standard_normal(shape) / 8).astype(np.float32)

    biases = (numbers(HIDDEN), numbers(HIDDEN)) if biased else (None, None)
    return MaskedLmWeights(numbers(HIDDEN, HIDDEN), biases[0], 1 + numbers(HIDDEN), biases[1], 1e-5, numbers(len(PIECES)))


def expected(head: MaskedLmWeights, embeddings: Float32Matrix, states: Float32Matrix) -> Float32Matrix:
    """Return the logits without the vocabulary's bias, shape (tokens, vocabulary)."""
    inner = states @ head.weight.T + (0 if head.weight_bias is None else head.weight_bias)
    gelu = ACTIVATIONS["gelu"]
    assert gelu is not None
    inner = gelu(inner)
    inner = (inner - inner.mean(axis=1, keepdims=True)) / np.sqrt(inner.var(axis=1, keepdims=True) + head.epsilon)
    return (inner * head.norm + (0 if head.norm_bias is None else head.norm_bias)) @ embeddings.T


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "in place"])
@pytest.mark.parametrize(("quantization", "most"), [("F32", 1e-4), ("F16", 2e-2), ("Q8_0", 0.5), ("Q4_0", 8.0)])
def test_logits_are_those_of_numpy(quantization: str, most: float, packed: bool, tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "checkpoint")
    file = convert_checkpoint(checkpoint, tmp_path / "model.gguf", quantization=quantization).path
    sizes = {"hidden_size": HIDDEN, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 64}
    embeddings = tiny_weights({**sizes, "type_vocab_size": 2, "vocab_size": len(PIECES)})[
        "embeddings.word_embeddings.weight"
    ]
    model = LlamaModel(
        WorkerOptions(path=str(file), threads=2, context_tokens=64, batch_tokens=64, mode="cpu", extra_buffers=packed)
    )
    states = np.random.default_rng(4).standard_normal((CHUNK_TOKENS + 7, HIDDEN)).astype(np.float32)
    try:
        for biased in (True, False):
            head = weights(biased=biased)
            masked = MaskedLm(head, find_embeddings(model.new_context), threads=2, packed=packed)
            found = [part.copy() for part in masked.logits(states)]
            if quantization == "Q8_0":
                assert masked.is_packed is (packed and model.kernels.ours)
            masked.close()
            assert [len(part) for part in found] == [CHUNK_TOKENS, 7]
            assert np.abs(np.concatenate(found) - expected(head, embeddings, states)).max() < most
    finally:
        model.close()
