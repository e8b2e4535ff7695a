"""The files of sentence-transformers' modules behind the Transformer, as saved by its versions 2 to 5."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.convert.tiny_bert import write_json, write_safetensors


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


def write_dense(folder: Path, inputs: int, outputs: int, *, bias: bool, activation: str, seed: int = 7) -> None:
    """Write a Dense module. activation: the full name of its class."""
    random = np.random.default_rng(seed)
    weights = {"linear.weight": (random.standard_normal((outputs, inputs)) / np.sqrt(inputs)).astype(np.float32)}
    if bias:
        weights["linear.bias"] = (random.standard_normal(outputs) * 0.5).astype(np.float32)
    config = {"in_features": inputs, "out_features": outputs, "bias": bias, "activation_function": activation}
    write_json(folder / "config.json", config)
    write_safetensors(folder / "model.safetensors", weights)
