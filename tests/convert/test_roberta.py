"""RoBERTa and CamemBERT: keys and checks. The rows are compared in the zoo."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from edgeembed.errors import ConversionError
from edgeembed_convert import ConversionOptions, convert_checkpoint
from tests.convert.tiny_bert import edit_json, tiny_weights, write_json, write_safetensors
from tests.convert.tiny_bert_variants import make_tiny_camembert, make_tiny_roberta
from tests.convert.tiny_encoders import TOKENS

pytestmark = pytest.mark.model


def keys_of(file: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in GGUFReader(file).fields.items()}


def test_positions_begin_after_the_padding_id(tmp_path: Path) -> None:
    checkpoint = make_tiny_roberta(tmp_path / "tiny")
    weights = tiny_weights(json.loads((checkpoint / "config.json").read_text(encoding="utf-8")))
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(quantization="F32"))
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(result.path).tensors}
    assert np.array_equal(tensors["position_embd.weight"], weights["embeddings.position_embeddings.weight"][2:])
    assert keys_of(result.path)["bert.context_length"] == 2 * TOKENS


def test_keys_of_the_tokenizer(tmp_path: Path) -> None:
    checkpoint = make_tiny_roberta(tmp_path / "tiny")
    write_json(
        checkpoint / "config_sentence_transformers.json", {"prompts": {"query": "q: "}, "similarity_fn_name": "cosine"}
    )
    keys = keys_of(convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").path)
    pieces = keys["tokenizer.ggml.tokens"]
    wanted = {
        "bos_token_id": 0,
        "cls_token_id": 0,
        "eos_token_id": 2,
        "seperator_token_id": 2,
        "padding_token_id": 1,
        "unknown_token_id": 3,
        "mask_token_id": len(pieces) - 1,
        "add_bos_token": True,
        "add_eos_token": True,
        "add_sep_token": True,
        "model": "gpt2",
        "pre": "roberta-bpe",
    }
    assert {name: keys[f"tokenizer.ggml.{name}"] for name in wanted} == wanted
    assert keys["tokenizer.ggml.token_type"][-3:] == [1, 1, 3]  # names like special tokens do not make such
    assert keys["edgeembed.prompt.query"] == "q: {text}"
    assert any(name.startswith("edgeembed.canary") for name in keys)


@pytest.mark.parametrize("make", [make_tiny_roberta, make_tiny_camembert])
def test_the_head_of_masked_language_models_is_dropped(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    checkpoint = make(tmp_path / "tiny")
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    edit_json(checkpoint / "config.json", architectures=[config["architectures"][0].replace("Model", "ForMaskedLM")])
    renamed = {f"roberta.{name}": tensor for name, tensor in tiny_weights(config).items()}
    write_safetensors(checkpoint / "model.safetensors", {**renamed, "lm_head.bias": np.zeros(9, dtype=np.float32)})
    assert convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").tensors == 37


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["pre_tokenizer"].update(add_prefix_space=True), "add_prefix_space = True is not supported"),
        (lambda t: t.update(normalizer={"type": "Lowercase"}), "the normaliser = 'Lowercase' is not supported"),
        (lambda t: t["post_processor"].update(type="ByteLevel"), "a special token before and after a text"),
        (lambda t: t["post_processor"].update(sep=["</s>", "2"]), "expected a token and its id"),
        (lambda t: t["model"].update(type="WordPiece"), "the tokenizer's model is 'WordPiece'; expected BPE"),
    ],
)
def test_unsupported_tokenizers(tmp_path: Path, change: Change, message: str) -> None:
    checkpoint = make_tiny_roberta(tmp_path / "tiny")
    content = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    write_json(checkpoint / "tokenizer.json", content)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")
    assert not (tmp_path / "tiny.gguf").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act = 'relu'; llama.cpp's BERT supports only 'gelu'"),
        ({"pad_token_id": "1"}, "pad_token_id = '1' is not a token id"),
        ({"num_hidden_layers": 1}, "16 tensors do not belong to a RoBERTa encoder"),
    ],
)
def test_unsupported_configurations(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    checkpoint = make_tiny_roberta(tmp_path / "tiny")
    edit_json(checkpoint / "config.json", **changes)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")
