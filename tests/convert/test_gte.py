"""GTE: keys, the unit for the feed-forward's bias, and settings that are refused. The rows are compared in the zoo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from edgeembed.engine.llama.library import ComputeError
from edgeembed.errors import ConversionError
from edgeembed.hub.gguf.header import read_header
from edgeembed_convert import ConversionOptions, convert_checkpoint
from tests.convert.llama_vectors import cosine, open_llama
from tests.convert.tiny_bert import edit_json, write_safetensors
from tests.convert.tiny_encoders import TOKENS
from tests.convert.tiny_gte import gte_weights, make_tiny_gte

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("quiet")]

UNITS, HEAD = 128, 16
WORDS = ("hello", "the quick brown fox " * 20, "a b c")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gte")
    options = ConversionOptions(quantization="F32", proof=False)
    return convert_checkpoint(make_tiny_gte(folder / "tiny"), folder / "tiny.gguf", options).path


def test_ntk_scaling_is_another_base_and_a_factor(file: Path) -> None:
    fields = GGUFReader(file).fields
    keys = {name: fields[f"nomic-bert.rope.{name}"].contents() for name in ("freq_base", "scaling.type", "scaling.factor")}
    assert keys == {"freq_base": 320_000.0, "scaling.type": "linear", "scaling.factor": pytest.approx(2 ** (2 / HEAD))}
    assert fields["general.architecture"].contents() == "gte"
    assert fields["nomic-bert.feed_forward_length"].contents() == UNITS + 32


def test_one_unit_of_the_feed_forward_network_is_its_bias(file: Path) -> None:
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(file).tensors}
    config = json.loads((file.parent / "tiny" / "config.json").read_text(encoding="utf-8"))
    bias = gte_weights(config)["encoder.layer.1.mlp.down_proj.bias"]
    random = np.random.default_rng(0).standard_normal((20, 64))
    normal = (random - random.mean(1, keepdims=True)) / random.std(1, keepdims=True)
    inputs = normal * tensors["blk.1.attn_output_norm.weight"] + tensors["blk.1.attn_output_norm.bias"]
    for name in ("ffn_up", "ffn_gate"):
        assert np.allclose(inputs @ tensors[f"blk.1.{name}.weight"][UNITS], 1, atol=1e-5)
        assert not tensors[f"blk.1.{name}.weight"][UNITS + 1 :].any()
    down = tensors["blk.1.ffn_down.weight"]
    assert np.allclose(down[:, UNITS] * 0.8413447, bias, atol=1e-6) and not down[:, UNITS + 1 :].any()


def test_rows_do_not_depend_on_the_batch_and_no_pass_is_computed_with_the_other_function(file: Path) -> None:
    with open_llama(file, TOKENS) as llama:
        texts = [np.asarray(llama.tokenize(text), dtype=np.int32) for text in WORDS]
        model = llama._model
        alone = [model.embed([text])[0] for text in texts]
        for _ in range(2):  # the second pass uses the graph of the first one
            assert all(cosine(one, other) > 0.9999 for one, other in zip(alone, model.embed(texts), strict=True))
        change = model.wide._change
        assert change is not None
        change._layers = 3
        with pytest.raises(ComputeError, match="2 of 3 layers"):
            model.embed(texts[:1])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"logn_attention_scale": True}, "logn_attention_scale = True"),
        ({"hidden_act": "gelu_new"}, "hidden_act = 'gelu_new'"),
        ({"position_embedding_type": "absolute"}, "position_embedding_type = 'absolute'"),
        ({"pack_qkv": False}, "pack_qkv = False"),
        ({"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.6}}, "rope_scaling = .*mixed_b"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling = .*dynamic"),
        ({"rope_scaling": {"type": "ntk", "factor": 0}}, "rope_scaling"),
        ({"rope_theta": None}, "rope_theta = None"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_parameters"),
        ({"auto_map": {"AutoModel": "elsewhere/new-impl--modeling.NewModel"}}, "auto_map"),
        ({"vocab_size": 4096}, "pieces, but vocab_size"),
    ],
)
def test_settings_that_are_not_computed_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    checkpoint = make_tiny_gte(tmp_path / "tiny")
    edit_json(checkpoint / "config.json", **changes)
    with pytest.raises(ConversionError, match=reason):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")


@pytest.mark.parametrize("end", ["weight", "bias"])
def test_a_norm_without_a_constant_is_refused(tmp_path: Path, end: str) -> None:
    checkpoint = make_tiny_gte(tmp_path / "tiny")
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    weights = gte_weights(config)
    weights[f"encoder.layer.1.attn_ln.{end}"] = np.zeros(64, dtype=np.float32)
    write_safetensors(checkpoint / "model.safetensors", weights)
    with pytest.raises(ConversionError, match=r"layer\.1\.attn_ln\.weight.* no\s*bias"):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")


def test_token_weights_make_sparse_vectors(tmp_path: Path) -> None:
    checkpoint = make_tiny_gte(tmp_path / "tiny", multilingual=True, types=1)
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(proof=False))
    assert read_header(result.path).values["edgeembed.outputs"] == "dense,sparse"
    assert result.notes == []
