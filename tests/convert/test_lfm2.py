"""LFM2.5-Embedding: keys and checks. The rows are compared in the zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from edgeembed.errors import ConversionError
from tests.convert.decoder_reference import convert
from tests.convert.gguf_fields import fields
from tests.convert.tiny_bert import edit_json
from tests.convert.zoo.lfm2 import FEED_FORWARD, KINDS, make_colbert, make_lfm2_embedder

pytestmark = pytest.mark.usefixtures("quiet")


def test_metadata(tmp_path: Path) -> None:
    file = convert(make_lfm2_embedder(tmp_path / "tiny"), "F16")
    found = fields(file)
    wanted = {
        "general.architecture": "lfm2",
        "lfm2.attention.causal": False,
        "lfm2.attention.head_count_kv": [0, 2, 0, 0, 2],
        "lfm2.feed_forward_length": FEED_FORWARD,
        "lfm2.shortconv.l_cache": 3,
        "lfm2.pooling_type": 2,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.bos_token_id": 1,
        "edgeembed.prompt.query": "query: {text}",
        "edgeembed.prompt.document": "document: {text}",
    }
    assert {key: found.get(key) for key in wanted} == wanted
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(file).tensors}
    assert kinds["blk.0.shortconv.conv.weight"] == "F32"
    assert kinds["blk.0.shortconv.in_proj.weight"] == "F16"


def test_merges_of_words_that_are_pieces(tmp_path: Path) -> None:
    """Llama 3's pattern has two names in llama.cpp: with one, a word that is a piece is taken as it is."""
    names = [
        fields(convert(make_lfm2_embedder(tmp_path / str(ignores), ignores_merges=ignores)))["tokenizer.ggml.pre"]
        for ignores in (True, False)
    ]
    assert names == ["llama-bpe", "dbrx"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["Lfm2Model"], "auto_map": {}}, "causal models of LFM2 are not supported"),
        ({"auto_map": {"AutoModel": "modeling_other.Lfm2BidirectionalModel"}}, "the model runs its own code"),
        ({"conv_bias": True}, "conv_bias = True; llama.cpp's LFM2 supports only False"),
        ({"conv_L_cache": 4}, "conv_L_cache = 4; expected an odd number from 3 on"),
        ({"layer_types": ["conv"] * 5}, "expected conv or full_attention for each of 5 layers, and both kinds"),
        ({"layer_types": KINDS[:4]}, "for each of 5 layers"),
        ({"num_key_value_heads": 3}, "4 heads of 16, 3 for keys and values, do not fit hidden_size 64"),
        ({"block_multiple_of": 256}, r"feed_forward.w1.weight has the shape \[128, 64\]; config.json requires \[256, 64\]"),
        ({"rope_theta": None}, "rope_theta = None"),
    ],
)
def test_malformed(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    checkpoint = make_lfm2_embedder(tmp_path / "tiny")
    edit_json(checkpoint / "config.json", **changes)
    with pytest.raises(ConversionError, match=message):
        convert(checkpoint)


def test_layers_by_number(tmp_path: Path) -> None:
    checkpoint = make_lfm2_embedder(tmp_path / "tiny")
    edit_json(checkpoint / "config.json", layer_types=None, full_attn_idxs=[1, 4])
    assert fields(convert(checkpoint))["lfm2.attention.head_count_kv"] == [0, 2, 0, 0, 2]


def test_colbert_whose_queries_are_filled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="must not attend to, which cannot be computed for the architecture lfm2"):
        convert(make_colbert(tmp_path / "tiny"))
