"""ModernBERT: keys and checks. The rows are compared in the zoo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from edgeembed.errors import ConversionError
from edgeembed_convert import ConversionOptions, convert_checkpoint
from tests.convert.llama_vectors import cosine, open_llama
from tests.convert.tiny_bert import edit_json, read_raw_safetensors, write_json, write_raw_safetensors
from tests.convert.tiny_encoders import TOKENS
from tests.convert.tiny_rotary_encoders import LOCAL_ATTENTION, make_tiny_modern_bert
from tests.convert.zoo.rows import read_rows

pytestmark = pytest.mark.model


def keys_of(file: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in GGUFReader(file).fields.items()}


@pytest.mark.parametrize("change", [{"global_attn_every_n_layers": 1}, {"global_rope_theta": 1000.0}])
def test_window_and_rotation_matter(tmp_path: Path, change: dict[str, Any]) -> None:
    """The comparison above detects a wrong window or base."""
    checkpoint = make_tiny_modern_bert(tmp_path / "tiny")
    expected = read_rows("modern_bert_cls", checkpoint)
    edit_json(checkpoint / "config.json", **change)
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(quantization="F32"))
    with open_llama(result.path, 2 * TOKENS) as llama:
        cosines = [cosine(llama.embed_ids(reference.ids), reference.value) for reference in expected]
    assert min(cosines) < 0.999


def test_a_model_without_windows_has_no_window_key(tmp_path: Path) -> None:
    """llama.cpp aborts if the file has a window that no layer uses."""
    checkpoint = make_tiny_modern_bert(tmp_path / "tiny")
    edit_json(checkpoint / "config.json", global_attn_every_n_layers=1)
    keys = keys_of(convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").path)
    assert not [key for key in keys if "sliding_window" in key or "freq_base_swa" in key]


def test_metadata(tmp_path: Path) -> None:
    checkpoint = make_tiny_modern_bert(tmp_path / "tiny")
    keys = keys_of(convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").path)
    wanted = {
        "block_count": 5,
        "context_length": 2 * TOKENS,
        "feed_forward_length": 128,
        "attention.causal": False,
        "attention.sliding_window": LOCAL_ATTENTION,
        "attention.sliding_window_pattern": 3,
        "rope.freq_base": 160000.0,
        "rope.freq_base_swa": 10000.0,
        "rope.scaling.type": "none",
        "hidden_activation": "gelu",
        "pooling_type": 2,
    }
    assert {name: keys[f"modern-bert.{name}"] for name in wanted} == wanted
    pieces = keys["tokenizer.ggml.tokens"]
    assert pieces[keys["tokenizer.ggml.bos_token_id"]] == pieces[keys["tokenizer.ggml.cls_token_id"]] == "[CLS]"
    assert pieces[keys["tokenizer.ggml.eos_token_id"]] == pieces[keys["tokenizer.ggml.seperator_token_id"]] == "[SEP]"


def test_newer_config_gives_the_same_file(tmp_path: Path) -> None:
    """transformers 5 writes layer_types and rope_parameters instead of three older keys."""
    checkpoint = make_tiny_modern_bert(tmp_path / "tiny")
    first = keys_of(convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(proof=False)).path)
    edit_json(
        checkpoint / "config.json",
        global_attn_every_n_layers=None,
        global_rope_theta=None,
        local_rope_theta=None,
        layer_types=["full_attention", *["sliding_attention"] * 2, "full_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    )
    assert keys_of(convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(proof=False)).path) == first


def test_the_head_of_masked_language_models_is_dropped(tmp_path: Path) -> None:
    checkpoint = make_tiny_modern_bert(tmp_path / "tiny")
    edit_json(checkpoint / "config.json", architectures=["ModernBertForMaskedLM"])
    file = checkpoint / "model.safetensors"
    header, data = read_raw_safetensors(file)
    renamed = {name if name.startswith("__") else f"model.{name}": entry for name, entry in header.items()}
    head = np.zeros(4, dtype=np.float32)
    renamed["decoder.bias"] = {"dtype": "F32", "shape": [4], "data_offsets": [len(data), len(data) + head.nbytes]}
    write_raw_safetensors(file, renamed, data + head.tobytes())
    assert convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").tensors == 2 + 5 * 6 - 1 + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_activation": "relu"}, "hidden_activation = 'relu'; llama.cpp's ModernBERT supports only gelu and silu"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"norm_bias": True}, "norm_bias = True"),
        ({"local_attention": 33}, "local_attention = 33; expected an even number"),
        ({"global_attn_every_n_layers": 0}, "expected a positive integer"),
        ({"layer_types": ["sliding_attention", *["full_attention"] * 4]}, "expected full_attention in layers 0, n, 2n"),
        ({"global_rope_theta": None}, "global_rope_theta = None; expected a positive number"),
        ({"num_attention_heads": 5}, "hidden_size 64 is not a multiple"),
        ({"num_hidden_layers": 4}, "6 tensors do not belong to a ModernBERT encoder"),
    ],
)
def test_unsupported_configurations(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    checkpoint = make_tiny_modern_bert(tmp_path / "tiny")
    edit_json(checkpoint / "config.json", **changes)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"content": "e\u0301"}, "is not in Unicode's form NFC, so no text has it"),
        ({"single_word": True}, "has single_word = true"),
        ({"lstrip": True}, "has lstrip = true"),
    ],
)
def test_added_tokens_that_would_be_found_elsewhere(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    checkpoint = make_tiny_modern_bert(tmp_path / "tiny")
    content = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"][0].update(changes)
    write_json(checkpoint / "tokenizer.json", content)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")


def test_the_frame_must_be_two_special_tokens(tmp_path: Path) -> None:
    checkpoint = make_tiny_modern_bert(tmp_path / "tiny")
    content = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    del content["post_processor"]["single"][0]
    write_json(checkpoint / "tokenizer.json", content)
    with pytest.raises(ConversionError, match="a special token before and after a text"):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")
