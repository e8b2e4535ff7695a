"""Llama, Mistral and Qwen2: the graph that is chosen, and settings that are refused. Rows and ids are the zoo's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeembed.errors import ConversionError
from edgeembed_convert import Conversion
from edgeembed_convert.weights import open_weights
from tests.convert.gguf_fields import fields
from tests.convert.tiny_bert import edit_json, write_safetensors
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.llama import make_e5_mistral, make_gte, make_jina_code, make_kalm, make_nemotron

pytestmark = pytest.mark.usefixtures("quiet")


def convert(checkpoint: Path) -> tuple[Conversion, dict[str, Any]]:
    found = convert_checkpoint(checkpoint, checkpoint.parent / "model.gguf", quantization="F16")
    return found, fields(found.path)


@pytest.mark.parametrize(
    ("make", "architecture", "causal"),
    [
        (make_jina_code, "qwen2", True),
        (make_kalm, "llama-embed", True),
        (make_gte, "llama-embed", False),
        (make_e5_mistral, "llama", True),
        (make_nemotron, "llama-embed", False),
    ],
)
def test_only_causal_models_of_the_last_token_have_a_graph_with_an_lm_head(
    tmp_path: Path, make: Callable[[Path], Path], architecture: str, causal: bool
) -> None:
    conversion, keys = convert(make(tmp_path / "tiny"))
    assert conversion.architecture == architecture
    assert keys[f"{architecture}.attention.causal"] is causal


def test_an_lm_head_is_left_out(tmp_path: Path) -> None:
    """gte-Qwen2-7B stores one: 545 million weights that no vector needs."""
    checkpoint = make_gte(tmp_path / "tiny")
    weights = {
        name: np.concatenate(list(tensor.rows())).reshape(tensor.shape)
        for name, tensor in open_weights(checkpoint).tensors.items()
    }
    head = {"lm_head.weight": weights["model.embed_tokens.weight"]}
    write_safetensors(checkpoint / "model.safetensors", weights | head)
    conversion, _ = convert(checkpoint)
    assert conversion.tensors == len(weights)


def test_texts_end_where_the_sliding_window_begins_to_matter(tmp_path: Path) -> None:
    checkpoint = make_e5_mistral(tmp_path / "tiny")
    conversion, keys = convert(checkpoint)
    assert keys["llama.context_length"] == 4096
    assert any("takes texts of up to 4096 tokens, not 32768" in note for note in conversion.notes)
    edit_json(checkpoint / "config.json", sliding_window=None)
    conversion, keys = convert(checkpoint)
    assert keys["llama.context_length"] == 32768
    assert not any("takes texts of up to" in note for note in conversion.notes)


def test_prompts(tmp_path: Path) -> None:
    _, keys = convert(make_e5_mistral(tmp_path / "mistral" / "tiny"))
    assert keys["edgeembed.prompt.query"] == "Instruct: {instruction}\nQuery: {text}"
    assert keys["edgeembed.prompt.similarity"] == "Instruct: Retrieve semantically similar text.\nQuery: {text}"
    conversion, keys = convert(make_jina_code(tmp_path / "jina" / "tiny"))
    assert keys["edgeembed.prompt.query"] == "Find the most relevant code snippet given the following query:\n{text}"
    assert keys["edgeembed.prompt.document"] == "Candidate code snippet:\n{text}"
    assert any("'qa_query', 'qa_document'" in note for note in conversion.notes)


@pytest.mark.parametrize(
    ("given", "pooling"), [("avg", "mean"), ("cls", "cls"), ("last", "last"), ("weighted_avg", None), (["avg"], None)]
)
def test_pooling_in_config_json(tmp_path: Path, given: Any, pooling: str | None) -> None:
    """NVIDIA's checkpoints that have no modules.json."""
    checkpoint = make_nemotron(tmp_path / "tiny")
    (checkpoint / "modules.json").unlink()
    edit_json(checkpoint / "config.json", pooling=given)
    if pooling is None:
        with pytest.raises(ConversionError, match=r"pooling = .*; expected one of avg, cls, last"):
            convert(checkpoint)
    else:
        assert convert(checkpoint)[0].pooling == pooling


@pytest.mark.parametrize(
    ("make", "file", "changes", "message"),
    [
        (make_gte, "config.json", {"is_causal": True}, "is_causal is not false: some versions"),
        (make_gte, "config.json", {"is_causal": None}, "is_causal is not false: some versions"),
        (make_gte, "config.json", {"is_causal": "no"}, "is_causal is not false: some versions"),
        (
            make_gte,
            "config.json",
            {"auto_map": None},
            "names code that adds other tokens to a text, but config.json names none",
        ),
        (make_gte, "config.json", {"auto_map": {"AutoModel": "modeling_qwen.Qwen2Other"}}, "runs its own code"),
        (make_gte, "tokenizer_config.json", {"auto_map": {"AutoTokenizer": "x.Qwen2TokenizerFast"}}, "runs its own code"),
        (make_gte, "tokenizer_config.json", {"eos_token": None}, "add_eos_token is set, but there is no eos_token"),
        (make_kalm, "config.json", {"is_causal": 0}, "is_causal = 0; expected true or false"),
        (make_kalm, "config.json", {"use_bidirectional_attention": True}, "which Qwen2Model does not read"),
        (make_kalm, "config.json", {"use_sliding_window": True}, "use_sliding_window = True"),
        (make_kalm, "config.json", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling .* is not supported"),
        (make_kalm, "config.json", {"layer_types": ["chunked_attention"]}, "unsupported layer_types"),
        (make_kalm, "config.json", {"num_attention_heads": 5, "num_key_value_heads": 5}, "not a multiple of 5 heads"),
        (make_nemotron, "config.json", {"is_causal": True}, "is causal, which it never is"),
        (make_nemotron, "config.json", {"use_bidirectional_attention": False}, "is causal, which it never is"),
        (make_nemotron, "config.json", {"mlp_bias": True}, "mlp_bias = True"),
        (make_nemotron, "config.json", {"attention_bias": True}, "q_proj.bias is missing"),
        (make_nemotron, "config.json", {"head_dim": 31}, "the heads have 31 numbers"),
        (make_nemotron, "config.json", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor = None"),
        (
            make_nemotron,
            "config.json",
            {
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 4.0,
                    "high_freq_factor": 1.0,
                    "original_max_position_embeddings": 32,
                }
            },
            "low_freq_factor 4.0 is not below",
        ),
        (make_e5_mistral, "config.json", {"sliding_window": "4096"}, "sliding_window = '4096'; expected a positive integer"),
        (make_e5_mistral, "tokenizer.json", {"normalizer": None}, "the normaliser = None"),
        (
            make_e5_mistral,
            "tokenizer.json",
            {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Replace"}]}},
            "the normaliser before the last one = 'NFC'",
        ),
    ],
)
def test_malformed(tmp_path: Path, make: Callable[[Path], Path], file: str, changes: dict[str, Any], message: str) -> None:
    checkpoint = make(tmp_path / "tiny")
    edit_json(checkpoint / file, **changes)
    with pytest.raises(ConversionError, match=message):
        convert(checkpoint)
    assert not list(tmp_path.glob("*.gguf"))
