"""nomic-bert: keys and checks. The rows are compared in the zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from edgeembed.errors import ConversionError
from edgeembed_convert import ConversionOptions, convert_checkpoint
from tests.convert.llama_vectors import cosine, open_llama
from tests.convert.tiny_bert import edit_json, write_json
from tests.convert.tiny_encoders import TOKENS, wordpiece_pieces
from tests.convert.tiny_rotary_encoders import make_tiny_nomic_bert
from tests.convert.zoo.rows import read_rows

pytestmark = pytest.mark.model


def keys_of(file: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in GGUFReader(file).fields.items()}


def test_the_base_of_the_rotation_matters(tmp_path: Path) -> None:
    """The comparison above detects a wrong base."""
    checkpoint = make_tiny_nomic_bert(tmp_path / "tiny")
    expected = read_rows("nomic_bert", checkpoint)
    edit_json(checkpoint / "config.json", rotary_emb_base=10000)
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(quantization="F32"))
    with open_llama(result.path, TOKENS) as llama:
        assert min(cosine(llama.embed_ids(reference.ids), reference.value) for reference in expected) < 0.999


def test_metadata(tmp_path: Path) -> None:
    checkpoint = make_tiny_nomic_bert(tmp_path / "tiny")
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(quantization="F32"))
    keys, count = keys_of(result.path), len(wordpiece_pieces())
    wanted = {
        "block_count": 2,
        # The context of the training, not the one to which the reference code extends the rotation.
        "context_length": TOKENS,
        "embedding_length": 64,
        "feed_forward_length": 128,
        # Without the padding rows of the table.
        "vocab_size": count,
        "attention.head_count": 4,
        "attention.causal": False,
        "rope.freq_base": 1000.0,
        "pooling_type": 1,
    }
    assert {name: keys[f"nomic-bert.{name}"] for name in wanted} == wanted
    shapes = {tensor.name: tensor.data.shape for tensor in GGUFReader(result.path).tensors}
    assert shapes["token_embd.weight"] == (count, 64)
    assert len(shapes) == 4 + 2 * 9


def test_prompts_of_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = make_tiny_nomic_bert(tmp_path / "tiny")
    prompts = {"query": "search_query: ", "document": "search_document: "}
    write_json(checkpoint / "config_sentence_transformers.json", {"prompts": prompts})
    keys = keys_of(convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").path)
    assert keys["edgeembed.prompt.query"] == "search_query: {text}"
    assert keys["edgeembed.prompt.document"] == "search_document: {text}"


def test_vocab_txt_gives_the_same_file(tmp_path: Path) -> None:
    checkpoint = make_tiny_nomic_bert(tmp_path / "tiny")
    first = keys_of(convert_checkpoint(checkpoint, tmp_path / "first.gguf", ConversionOptions(proof=False)).path)
    (checkpoint / "tokenizer.json").unlink()
    (checkpoint / "vocab.txt").write_text("".join(f"{piece}\n" for piece in wordpiece_pieces()), encoding="utf-8")
    assert keys_of(convert_checkpoint(checkpoint, tmp_path / "second.gguf", ConversionOptions(proof=False)).path) == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "gelu"}, "activation_function = 'gelu'; llama.cpp's nomic-bert supports only 'swiglu'"),
        ({"moe_every_n_layers": 2}, "nomic-bert-moe supports only 'gelu'"),
        ({"prenorm": True}, "prenorm = True"),
        ({"rotary_emb_fraction": 0.5}, "rotary_emb_fraction = 0.5"),
        ({"rotary_emb_interleaved": True}, "rotary_emb_interleaved = True"),
        ({"qkv_proj_bias": True}, "qkv_proj_bias = True"),
        ({"rotary_emb_base": None}, "rotary_emb_base = None; expected a positive number"),
        ({"vocab_size": 5000}, "but vocab_size in config.json is 5000"),
        ({"n_layer": 3}, r"tensor encoder\.layers\.2\.attn\.Wqkv\.weight is missing"),
        ({"n_layer": 1}, "9 tensors do not belong to a nomic-bert encoder"),
    ],
)
def test_unsupported_configurations(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    checkpoint = make_tiny_nomic_bert(tmp_path / "tiny")
    edit_json(checkpoint / "config.json", **changes)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")
