"""Adapters of peft: chosen, merged, or refused. Their rows are compared with peft's in the zoo."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from edgeembed.errors import ConversionError
from tests.convert.gguf_fields import fields
from tests.convert.pickled_files import write_pickled
from tests.convert.tiny_bert import Float32Array, make_tiny_bert, write_json, write_safetensors
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.adapters import adapter_config, adapter_weights, make_nano

QUERY = "encoder.layer.0.attention.self.query"
RANK = 4


def write_adapter(folder: Path, weights: dict[str, Float32Array] | None = None, **own: Any) -> Path:
    """Write an adapter of the first layer's queries, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "adapter_config.json", adapter_config("acme/tiny", **own))
    write_safetensors(folder / "adapter_model.safetensors", weights or adapter_weights({QUERY: (64, 64)}, 5))
    return folder


def queries(file: Path) -> Float32Array:
    """Return the first layer's matrix of queries in a file of F32."""
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(file).tensors}
    return np.array(tensors["blk.0.attn_q.weight"])


def merge(tmp_path: Path, adapter: Path, checkpoint: Path | None = None) -> Float32Array:
    """Return the merged matrix of queries."""
    checkpoint = checkpoint or make_tiny_bert(tmp_path / "tiny")
    convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", quantization="F32", adapter=str(adapter))
    return queries(tmp_path / "tiny.gguf")


def test_an_adapter_elsewhere_is_merged(tmp_path: Path) -> None:
    weights = adapter_weights({QUERY: (64, 64)}, 5)
    found = merge(tmp_path, write_adapter(tmp_path / "lora", weights))
    convert_checkpoint(tmp_path / "tiny", tmp_path / "plain.gguf", quantization="F32")
    left, right = (weights[f"base_model.model.{QUERY}.lora_{part}.weight"] for part in "BA")
    assert np.allclose(found, queries(tmp_path / "plain.gguf") + 2 * left @ right, atol=1e-6)


def test_an_adapter_beside_the_weights_is_merged_when_the_checkpoint_is_named_again(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    elsewhere = merge(tmp_path, write_adapter(tmp_path / "lora"), checkpoint)
    write_adapter(checkpoint)
    assert np.array_equal(merge(tmp_path, checkpoint, checkpoint), elsewhere)


def test_one_of_several_adapters_is_chosen_by_name(tmp_path: Path) -> None:
    checkpoint = make_nano(tmp_path / "nano")
    with pytest.raises(ConversionError, match=r"classification, clustering, retrieval, text-matching\. Choose one"):
        convert_checkpoint(checkpoint, tmp_path / "nano.gguf")
    for task in ("retrieval", "clustering"):
        convert_checkpoint(checkpoint, tmp_path / f"{task}.gguf", quantization="F32", adapter=task)
    assert not np.array_equal(queries(tmp_path / "retrieval.gguf"), queries(tmp_path / "clustering.gguf"))
    found = fields(tmp_path / "retrieval.gguf")
    assert found["general.name"] == "nano-retrieval"
    assert found["edgeembed.source.adapter"] == "retrieval"
    assert found["edgeembed.prompt.query"] == "Query: {text}"
    assert (found["edgeembed.matryoshka.min"], found["edgeembed.matryoshka.max"]) == (32, 64)


def test_a_pickled_adapter_is_read_without_running_it(tmp_path: Path) -> None:
    weights = adapter_weights({QUERY: (64, 64)}, 5)
    expected = merge(tmp_path, write_adapter(tmp_path / "lora", weights))
    pickled = write_adapter(tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").unlink()
    write_pickled(pickled / "adapter_model.bin", weights)
    assert np.array_equal(merge(tmp_path, pickled), expected)


def test_the_hash_of_the_source_is_that_of_base_and_adapter(tmp_path: Path) -> None:
    checkpoint = make_nano(tmp_path / "nano")
    hashes = set()
    for task in ("retrieval", "clustering"):
        hashes.add(convert_checkpoint(checkpoint, tmp_path / "nano.gguf", adapter=task).source_sha256)
    assert len(hashes) == 2


def test_layers_that_are_stored_transposed(tmp_path: Path) -> None:
    weights = adapter_weights({QUERY: (64, 64)}, 5)
    straight = merge(tmp_path, write_adapter(tmp_path / "lora", weights))
    base = f"base_model.model.{QUERY}"
    turned = {
        f"{base}.lora_A.weight": np.ascontiguousarray(weights[f"{base}.lora_B.weight"].T),
        f"{base}.lora_B.weight": np.ascontiguousarray(weights[f"{base}.lora_A.weight"].T),
    }
    swapped = merge(tmp_path, write_adapter(tmp_path / "turned", turned, fan_in_fan_out=True))
    assert np.allclose(swapped, straight, atol=1e-6)


def test_an_adapter_of_rank_0_is_refused(tmp_path: Path) -> None:
    base = f"base_model.model.{QUERY}"
    empty = {f"{base}.lora_A.weight": np.zeros((0, 64), np.float32), f"{base}.lora_B.weight": np.zeros((64, 0), np.float32)}
    with pytest.raises(ConversionError, match=r"the rank of \S+query is 0; expected a positive integer"):
        merge(tmp_path, write_adapter(tmp_path / "lora", empty, rank_pattern={"query": 0}))


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "another kind": ({"peft_type": "IA3"}, r"peft_type = 'IA3'; only LORA"),
    "weights decomposed": ({"use_dora": True}, r"use_dora = True is not supported"),
    "biases": ({"bias": "lora_only"}, r"bias = 'lora_only'"),
    "biases of the product": ({"lora_bias": True}, r"lora_bias = True is not supported"),
    "single tokens": ({"trainable_token_indices": [1, 2]}, r"trainable_token_indices = \[1, 2\] is not supported"),
    "parameters": ({"target_parameters": ["experts"]}, r"target_parameters = \['experts'\] is not supported"),
    "layers repeated": ({"layer_replication": [[0, 2], [1, 2]]}, r"layer_replication = .* is not supported"),
    "start that changes the base": ({"init_lora_weights": "pissa"}, r"init_lora_weights = 'pissa': .*base weights"),
    "key of a later version": ({"use_mora": 1}, r"use_mora = 1 is not supported"),
    "other rank": ({"r": 8}, r"the rank of \S+query is 8, but its tensors have 4"),
    "no rank": ({"r": None}, r"r = None, lora_alpha = 8; expected"),
    "alpha of a module": ({"alpha_pattern": {"query": "x"}}, r"the alpha of \S+query is 'x'"),
    "patterns in a list": ({"rank_pattern": [1]}, r"rank_pattern and alpha_pattern must be objects"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_setting_that_is_not_obeyed_is_refused(tmp_path: Path, case: str) -> None:
    own, reason = CONFIGS[case]
    adapter = write_adapter(tmp_path / "lora", **own)
    with pytest.raises(ConversionError, match=reason):
        merge(tmp_path, adapter)
    assert not list(tmp_path.glob("*.gguf"))


def _without(part: str) -> Callable[[], dict[str, Float32Array]]:
    weights = adapter_weights({QUERY: (64, 64)}, 5)
    return lambda: {name: tensor for name, tensor in weights.items() if f"lora_{part}" not in name}


WEIGHTS: dict[str, tuple[Callable[[], dict[str, Float32Array]], str]] = {
    "half a pair": (_without("B"), r"lora_B of .* is missing"),
    "another model's": (
        lambda: adapter_weights({"layers.9.q_proj": (64, 64)}, 5),
        r"no tensor of the model: it was made for another one",
    ),
    "several tensors": (lambda: adapter_weights({"query": (64, 64)}, 5), r"which is not one tensor of the model"),
    "other sizes": (
        lambda: adapter_weights({QUERY: (32, 64)}, 5),
        r"do not fit encoder\.layer\.0\.attention\.self\.query",
    ),
    "more than LoRA": (
        lambda: {**_without("X")(), "base_model.model.pooler.dense.weight": np.ones((64, 64), dtype=np.float32)},
        r"is neither LoRA nor of a module in modules_to_save",
    ),
    "infinite": (
        lambda: {name: tensor * np.float32(1e37) for name, tensor in _without("X")().items()},
        r"is infinite|contains NaN or infinity",
    ),
    "empty": (lambda: {"base_model.model.x.weight": np.ones((1, 1), dtype=np.float32)}, r"is neither LoRA nor"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_do_not_belong_to_the_model_are_refused(tmp_path: Path, case: str) -> None:
    weights, reason = WEIGHTS[case]
    adapter = write_adapter(tmp_path / "lora", weights())
    with pytest.raises(ConversionError, match=reason):
        merge(tmp_path, adapter)


def test_an_adapter_that_does_not_exist(tmp_path: Path) -> None:
    checkpoint = make_nano(tmp_path / "nano")
    with pytest.raises(ConversionError, match=r"--merge-adapter search: no adapter .* \(there are classification, .*exist"):
        convert_checkpoint(checkpoint, tmp_path / "nano.gguf", adapter="search")


def test_a_module_of_the_same_name_in_another_model_is_refused(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    modules = json.loads((checkpoint / "modules.json").read_text())
    modules[0]["type"] = "custom_st.Transformer"
    write_json(checkpoint / "modules.json", modules)
    with pytest.raises(ConversionError, match=r"the module custom_st\.Transformer is the checkpoint's own code"):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")


def test_the_weights_of_jina_v5_without_an_adapter_are_no_model(tmp_path: Path) -> None:
    checkpoint = make_nano(tmp_path / "nano")
    shutil.rmtree(checkpoint / "adapters")
    with pytest.raises(ConversionError, match=r"adapters: missing; without the adapter of a task"):
        convert_checkpoint(checkpoint, tmp_path / "nano.gguf")


def test_a_family_that_loses_much_at_4_bits_has_a_note_about_it(tmp_path: Path) -> None:
    checkpoint = make_nano(tmp_path / "nano")
    for kind, says in (("Q4_0", True), ("Q8_0", False)):
        notes = convert_checkpoint(checkpoint, tmp_path / "nano.gguf", quantization=kind, adapter="retrieval").notes
        assert any("4 bits are too few" in note for note in notes) is says
