"""Rows of jina-embeddings-v2, in torch, from the paper: BERT with ALiBi in both directions and a gated feed-forward network.

Günther et al., 2023; Press et al., "Train Short, Test Long", 2022, for the slopes. With norms of queries and keys the gate
is the second half of the joint matrix (jina-embeddings-v2-base-code), without them the first (the models for texts).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.encoder_texts import TEXTS


def slopes(heads: int) -> list[float]:
    """Return the slope of each head."""
    whole = 2 ** int(math.log2(heads))
    found = [2.0 ** (-8 * (number + 1) / whole) for number in range(whole)]
    return found + [2.0 ** (-8 * (number + 0.5) / whole) for number in range(heads - whole)]


def rows(folder: Path) -> tuple[list[list[int]], np.ndarray[Any, Any]]:
    """Return the ids and the mean-pooled rows of TEXTS."""
    import torch
    from safetensors.torch import load_file

    from tests.reference.make_zoo_rows import tokenizer_of

    torch.set_num_threads(1)
    config = json.loads((folder / "config.json").read_text())
    weights = {
        name.removeprefix("bert."): tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()
    }
    heads, epsilon = config["num_attention_heads"], config["layer_norm_eps"]
    half = config["intermediate_size"]

    def linear(name: str, states: Any) -> Any:
        return torch.nn.functional.linear(states, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(name: str, states: Any) -> Any:
        size = states.shape[-1:]
        return torch.nn.functional.layer_norm(states, size, weights[f"{name}.weight"], weights[f"{name}.bias"], epsilon)

    def attend(base: str, states: Any) -> Any:
        query, key, value = (linear(f"{base}.self.{part}", states) for part in ("query", "key", "value"))
        if f"{base}.self.layer_norm_q.weight" in weights:
            query, key = norm(f"{base}.self.layer_norm_q", query), norm(f"{base}.self.layer_norm_k", key)
        query, key, value = (part.reshape(len(states), heads, -1).transpose(0, 1) for part in (query, key, value))
        positions = torch.arange(len(states))
        distance = (positions[:, None] - positions[None, :]).abs()
        bias = -torch.tensor(slopes(heads), dtype=torch.float64)[:, None, None] * distance
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1]) + bias
        return (scores.softmax(-1) @ value).transpose(0, 1).reshape(len(states), -1)

    def layer(base: str, states: Any) -> Any:
        attended = linear(f"{base}.attention.output.dense", attend(f"{base}.attention", states))
        states, before = norm(f"{base}.attention.output.LayerNorm", attended + states), states
        if f"{base}.layer_norm_1.weight" not in weights:
            joint = linear(f"{base}.mlp.gated_layers", states)
            gated = torch.nn.functional.gelu(joint[:, :half]) * joint[:, half:]
            return norm(f"{base}.mlp.layernorm", linear(f"{base}.mlp.wo", gated) + states)
        states = norm(f"{base}.layer_norm_1", before + states)
        joint = linear(f"{base}.mlp.up_gated_layer", states)
        gated = joint[:, :half] * torch.nn.functional.gelu(joint[:, half:])
        return norm(f"{base}.layer_norm_2", linear(f"{base}.mlp.down_layer", gated) + states)

    tokenizer = tokenizer_of(folder)
    ids = [tokenizer.encode(text).ids for text in TEXTS.values()]
    found = []
    for numbers in ids:
        states = weights["embeddings.word_embeddings.weight"][numbers]
        states = norm("embeddings.LayerNorm", states + weights["embeddings.token_type_embeddings.weight"][0])
        for number in range(config["num_hidden_layers"]):
            states = layer(f"encoder.layer.{number}", states)
        found.append(states.mean(0).numpy())
    return ids, np.stack(found)
