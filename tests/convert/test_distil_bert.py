"""DistilBERT: keys and checks. The rows are compared in the zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from edgeembed.errors import ConversionError
from edgeembed_convert import ConversionOptions, convert_checkpoint
from tests.convert.tiny_bert import edit_json, write_json, write_safetensors
from tests.convert.tiny_bert_variants import distil_bert_weights, make_tiny_distil_bert
from tests.convert.tiny_encoders import TOKENS

pytestmark = pytest.mark.model


def test_content_of_the_file(tmp_path: Path) -> None:
    checkpoint = make_tiny_distil_bert(tmp_path / "tiny")
    write_json(
        checkpoint / "config_sentence_transformers.json", {"prompts": {"query": "q: "}, "similarity_fn_name": "cosine"}
    )
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(quantization="F32"))
    reader = GGUFReader(result.path)
    names = {tensor.name for tensor in reader.tensors}
    assert len(names) == 4 + 2 * 16
    assert "token_types.weight" not in names  # llama.cpp would add its first row
    keys = {name: field.contents() for name, field in reader.fields.items()}
    wanted = {
        "bert.block_count": 2,
        "bert.context_length": TOKENS,
        "bert.feed_forward_length": 128,
        "bert.attention.head_count": 4,
        "bert.attention.causal": False,
        "bert.pooling_type": 1,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.token_type_count": 1,
        "edgeembed.prompt.query": "q: {text}",
    }
    assert {name: keys[name] for name in wanted} == wanted
    assert keys["bert.attention.layer_norm_epsilon"] == pytest.approx(1e-12)
    assert any(name.startswith("edgeembed.canary") for name in keys)


def test_the_head_of_masked_language_models_is_dropped(tmp_path: Path) -> None:
    checkpoint = make_tiny_distil_bert(tmp_path / "tiny")
    edit_json(checkpoint / "config.json", architectures=["DistilBertForMaskedLM"])
    head = {f"vocab_{part}.bias": np.zeros(9, dtype=np.float32) for part in ("transform", "layer_norm", "projector")}
    renamed = {f"distilbert.{name}": tensor for name, tensor in distil_bert_weights().items()}
    write_safetensors(checkpoint / "model.safetensors", renamed | head)
    assert convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").tensors == 4 + 2 * 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "relu"}, "activation = 'relu'; llama.cpp's BERT supports only 'gelu'"),
        ({"dim": None}, "dim = None; expected a positive integer"),
        ({"n_heads": 5}, "not a multiple of n_heads 5"),
        ({"hidden_dim": 64}, "ffn.lin1.weight has the shape"),
        ({"n_layers": 3}, r"transformer\.layer\.2\.attention\.q_lin\.weight is missing"),
        ({"n_layers": 1}, "16 tensors do not belong to a DistilBERT encoder"),
    ],
)
def test_unsupported_configurations(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    checkpoint = make_tiny_distil_bert(tmp_path / "tiny")
    edit_json(checkpoint / "config.json", **changes)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")
    assert not (tmp_path / "tiny.gguf").exists()
