"""nomic-embed-text-v2-moe: the bias of the experts, and configurations that llama.cpp's graph does not compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGUFReader

from edgeembed.errors import ConversionError
from tests.convert.tiny_bert import edit_json, write_safetensors
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.files import read_safetensors
from tests.convert.zoo.nomic_bert import EXPERTS, FEED_FORWARD, HIDDEN, make_nomic_moe

BASE, TARGET = "encoder.layers.1", "blk.1"


def _tensors(folder: Path, target: Path) -> dict[str, npt.NDArray[Any]]:
    convert_checkpoint(folder, target, quantization="F32")
    return {tensor.name: tensor.data for tensor in GGUFReader(target).tensors}


def test_a_bias_of_zeros_changes_no_tensor(tmp_path: Path) -> None:
    folder = make_nomic_moe(tmp_path / "tiny", biased=False)
    weights, found = read_safetensors(folder / "model.safetensors"), _tensors(folder, tmp_path / "tiny.gguf")
    assert np.array_equal(found[f"{TARGET}.attn_output_norm.bias"], weights[f"{BASE}.norm1.bias"])
    assert np.array_equal(found[f"{TARGET}.ffn_gate_inp.weight"], weights[f"{BASE}.mlp.router.layer.weight"])
    shape = (EXPERTS, FEED_FORWARD, HIDDEN)
    assert np.array_equal(found[f"{TARGET}.ffn_up_exps.weight"], weights[f"{BASE}.mlp.experts.mlp.w1"].reshape(shape))
    down = weights[f"{BASE}.mlp.experts.mlp.w2"].reshape(shape).transpose(0, 2, 1)
    assert np.array_equal(found[f"{TARGET}.ffn_down_exps.weight"], down)


def test_the_moved_bias_changes_only_what_the_last_norm_gets(tmp_path: Path) -> None:
    folder = make_nomic_moe(tmp_path / "tiny")
    weights, found = read_safetensors(folder / "model.safetensors"), _tensors(folder, tmp_path / "tiny.gguf")
    normal = np.random.default_rng(1).standard_normal((5, HIDDEN))
    normal = (normal - normal.mean(1, keepdims=True)) / normal.std(1, keepdims=True)
    stored = normal * weights[f"{BASE}.norm1.weight"] + weights[f"{BASE}.norm1.bias"]
    moved = normal * weights[f"{BASE}.norm1.weight"] + found[f"{TARGET}.attn_output_norm.bias"]
    difference = moved - stored - weights[f"{BASE}.mlp.experts.bias"]
    assert np.allclose(difference, difference[0, 0], atol=1e-6)  # a norm subtracts it
    router = weights[f"{BASE}.mlp.router.layer.weight"]
    assert np.allclose(moved @ found[f"{TARGET}.ffn_gate_inp.weight"].T, stored @ router.T, atol=1e-5)
    up = weights[f"{BASE}.mlp.experts.mlp.w1"]
    assert np.allclose(moved @ found[f"{TARGET}.ffn_up_exps.weight"].reshape(up.shape).T, stored @ up.T, atol=1e-5)


def test_a_norm_that_cannot_take_the_bias(tmp_path: Path) -> None:
    folder = make_nomic_moe(tmp_path / "tiny")
    weights = read_safetensors(folder / "model.safetensors")
    weights[f"{BASE}.norm1.weight"] = np.where(np.arange(HIDDEN) == 0, 1e-6, 1).astype(np.float32)
    write_safetensors(folder / "model.safetensors", weights)
    with pytest.raises(ConversionError, match="some of its weights are too small"):
        convert_checkpoint(folder, tmp_path / "tiny.gguf", quantization="F32")
    assert not list(tmp_path.glob("*.gguf"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moe_normalize_expert_weights": True}, "moe_normalize_expert_weights = True"),
        ({"expert_choice_router": True}, "expert_choice_router = True"),
        ({"num_shared_experts": 1}, "num_shared_experts = 1"),
        ({"activation_function": "gelu_new"}, "supports only 'gelu'"),
        ({"use_rms_norm": True}, "use_rms_norm is set"),
        ({"moe_every_n_layers": 1}, "no layer has experts"),
        ({"moe_top_k": 9}, "moe_top_k 9 of num_experts 8"),
        ({"num_experts": 17}, "at most 16 experts"),
        ({"num_experts": 4}, r"router.layer.weight has the shape \[8, 64\]"),
        ({"moe_every_n_layers": 3}, r"layers\.3\.mlp\.fc1\.weight is missing"),
    ],
)
def test_unsupported_configurations(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = make_nomic_moe(tmp_path / "tiny")
    edit_json(folder / "config.json", **changes)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(folder, tmp_path / "tiny.gguf", quantization="F32")
