"""Forms of a checkpoint's files: pickled weights, names with a prefix, fp8."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.convert.pickled_files import write_pickled
from tests.convert.tiny_bert import edit_json, read_raw_safetensors, write_raw_safetensors
from tests.convert.tiny_bert_variants import make_tiny_roberta
from tests.convert.tiny_qwen3_checkpoint import Qwen3Shape, make_qwen3_checkpoint
from tests.convert.zoo import bert
from tests.convert.zoo.form import Form

Array = npt.NDArray[Any]
_BLOCK = 32
_LARGEST_E4M3 = 448.0


def read_safetensors(file: Path) -> dict[str, Array]:
    """Return the tensors of a file of float32."""
    header, data = read_raw_safetensors(file)
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], np.float32).reshape(entry["shape"])
        for name, entry in header.items()
    }


def make_pickled(folder: Path) -> Path:
    """Write a checkpoint in the form of all-MiniLM-L6-v2 with pytorch_model.bin alone, as older checkpoints are."""
    bert.make_mean(folder)
    tensors = read_safetensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    write_pickled(folder / "pytorch_model.bin", tensors)
    return folder


def make_pickled_shards(folder: Path) -> Path:
    """Write a checkpoint with names of RobertaForMaskedLM in two pickled shards."""
    make_tiny_roberta(folder)
    tensors = read_safetensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards: tuple[dict[str, Array], dict[str, Array]] = ({}, {})
    for at, (name, tensor) in enumerate(tensors.items()):
        shards[at % 2][f"roberta.{name}"] = tensor
    files = {f"pytorch_model-0000{at}-of-00002.bin": shard for at, shard in enumerate(shards, 1)}
    for file, shard in files.items():
        write_pickled(folder / file, shard)
    weight_map = {name: file for file, shard in files.items() for name in shard}
    content = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    (folder / "pytorch_model.bin.index.json").write_text(content, encoding="utf-8")
    edit_json(folder / "config.json", architectures=["RobertaForMaskedLM"])
    return folder


def make_wrapped(folder: Path) -> Path:
    """Write a checkpoint whose weights were saved as those of a SentenceTransformer: `0.auto_model.` before each name."""
    bert.make_mean(folder)
    header, data = read_raw_safetensors(folder / "model.safetensors")
    metadata = header.pop("__metadata__")
    renamed = {f"0.auto_model.{name}": entry for name, entry in header.items()}
    write_raw_safetensors(folder / "model.safetensors", {"__metadata__": metadata, **renamed}, data)
    return folder


def make_fp8(folder: Path) -> Path:
    """Write a checkpoint with the layers' matrices in fp8, a scale for each block, as transformers stores Qwen3's."""
    make_qwen3_checkpoint(folder, shape=Qwen3Shape(max_position_embeddings=1280))
    _to_fp8(folder, "weight_scale_inv", _BLOCK)
    quantization = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [_BLOCK] * 2}
    edit_json(folder / "config.json", quantization_config=quantization)
    return folder


def make_compressed(folder: Path) -> Path:
    """Write a checkpoint with the layers' matrices in fp8, a scale for each row, as llm-compressor stores them."""
    make_qwen3_checkpoint(folder, shape=Qwen3Shape(max_position_embeddings=1280))
    _to_fp8(folder, "weight_scale", None)
    weights = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
    quantization = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": weights,
                "input_activations": {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True},
            }
        },
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "sparsity_config": {},
    }
    edit_json(folder / "config.json", quantization_config=quantization)
    return folder


def make_gptq(folder: Path) -> Path:
    """Write a checkpoint that says it is quantised with GPTQ."""
    make_qwen3_checkpoint(folder)
    edit_json(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})
    return folder


def e4m3_values() -> npt.NDArray[np.float64]:
    """Return the values of the bytes 0 to 126, which are ascending."""
    return np.array(
        [(byte & 7) / 8 * 2**-6 if byte < 8 else (1 + (byte & 7) / 8) * 2.0 ** ((byte >> 3) - 7) for byte in range(127)]
    )


def _to_fp8(folder: Path, suffix: str, block: int | None) -> None:
    """Round the matrices of the layers to fp8. block: size of a square block; None for a scale for each row."""
    file = folder / "model.safetensors"
    header: dict[str, Any] = {}
    data = bytearray()

    def add(name: str, dtype: str, values: Array) -> None:
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [len(data), len(data) + values.nbytes]}
        data.extend(values.tobytes())

    for name, tensor in read_safetensors(file).items():
        if tensor.ndim != 2 or "embed" in name:
            add(name, "F32", tensor)
            continue
        rows, columns = tensor.shape
        height, width = (block, block) if block else (1, columns)
        blocks = np.abs(tensor).reshape(rows // height, height, columns // width, width).max((1, 3))
        scale = (blocks / _LARGEST_E4M3).astype(np.float32)
        values = tensor / np.repeat(np.repeat(scale, height, 0), width, 1)
        byte = np.abs(np.abs(values)[..., None] - e4m3_values()).argmin(-1).astype(np.uint8)
        add(name, "F8_E4M3", byte | (values < 0).astype(np.uint8) << 7)
        add(f"{name.removesuffix('weight')}{suffix}", "F32", scale)
    write_raw_safetensors(file, header, bytes(data))


FORMS = (
    Form(
        "bert_pickled",
        ("checkpoints with `pytorch_model.bin` alone",),
        "BertModel",
        make_pickled,
        "mean",
        pre="bert-bge",
    ),
    Form(
        "roberta_pickled_shards",
        ("checkpoints with shards of `pytorch_model.bin`",),
        "RobertaForMaskedLM",
        make_pickled_shards,
        "mean",
        pre="roberta-bpe",
        context=1280,
    ),
    Form(
        "bert_wrapped",
        ("weights saved as a SentenceTransformer (`0.auto_model.`)",),
        "BertModel",
        make_wrapped,
        "mean",
        reference="wrapped",
    ),
    Form(
        "qwen3_fp8",
        ("fp8 of transformers",),
        "Qwen3ForCausalLM",
        make_fp8,
        "last",
        reference="fp8",
        pre="qwen2",
        context=1280,
    ),
    Form(
        "qwen3_compressed",
        ("fp8 of llm-compressor",),
        "Qwen3ForCausalLM",
        make_compressed,
        "last",
        reference="fp8",
        context=1280,
    ),
    Form(
        "qwen3_gptq",
        ("weights quantised with GPTQ",),
        "Qwen3ForCausalLM",
        make_gptq,
        "last",
        refused="quant_method = 'gptq'",
    ),
)
