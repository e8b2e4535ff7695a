"""The files of sentence-transformers' modules behind the Transformer, as saved by its versions 2 to 5."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeembed.engine.dense import DenseHead, DenseLayer
from tests.convert.tiny_bert import Float32Array, write_json, write_safetensors


def write_modules(
    folder: Path, hidden: int, between: Sequence[str] = (), *, pooling: str = "mean", normalize: bool = True
) -> None:
    """Write modules.json and the Pooling folder. between: kinds of the modules between Pooling and Normalize."""
    kinds = ["Transformer", "Pooling", *between, *(["Normalize"] if normalize else [])]
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": f"{number}_{kind}" if number else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, kind in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    chosen = {"mean": "mean_tokens", "cls": "cls_token"}[pooling]
    config = {"word_embedding_dimension": hidden, **{f"pooling_mode_{mode}": mode == chosen for mode in modes}}
    write_json(folder / "1_Pooling" / "config.json", config)


def add_dense(folder: Path, inputs: int, outputs: int) -> DenseHead:
    """Put a Dense module with tanh behind the Pooling of a checkpoint, and return what it computes."""
    file = folder / "modules.json"
    modules = json.loads(file.read_text(encoding="utf-8"))
    before = next(place for place, module in enumerate(modules) if module["type"].endswith("Pooling")) + 1
    modules.insert(before, {"path": "9_Dense", "type": "sentence_transformers.models.Dense"})
    write_json(file, [{**module, "idx": number, "name": str(number)} for number, module in enumerate(modules)])
    weights = write_dense(folder / "9_Dense", inputs, outputs, bias=True, activation="torch.nn.modules.activation.Tanh")
    return DenseHead([DenseLayer(weights["linear.weight"], weights["linear.bias"], "tanh")])


def write_dense(
    folder: Path, inputs: int, outputs: int, *, bias: bool, activation: str, seed: int = 7
) -> dict[str, Float32Array]:
    """Write a Dense module and return its weights. activation: the full name of its class."""
    random = np.random.default_rng(seed)
    weights = {"linear.weight": (random.standard_normal((outputs, inputs)) / np.sqrt(inputs)).astype(np.float32)}
    if bias:
        weights["linear.bias"] = (random.standard_normal(outputs) * 0.5).astype(np.float32)
    config = {"in_features": inputs, "out_features": outputs, "bias": bias, "activation_function": activation}
    write_json(folder / "config.json", config)
    write_safetensors(folder / "model.safetensors", weights)
    return weights
