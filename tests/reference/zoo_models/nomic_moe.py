"""Rows of nomic-embed-text-v2-moe, in torch, from its description: BERT with rotary positions, experts in every other layer.

Nussbaum and Duderstadt, 2025: a softmax over all experts, of which each token takes the two largest, with these
probabilities as they are; one bias behind all experts; GELU with the error function.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.encoder_texts import TEXTS


def rows(folder: Path) -> tuple[list[list[int]], np.ndarray[Any, Any]]:
    """Return the ids and the mean-pooled rows of TEXTS."""
    import torch
    from safetensors.torch import load_file

    from tests.reference.make_zoo_rows import tokenizer_of

    torch.set_num_threads(1)
    config = json.loads((folder / "config.json").read_text())
    weights = {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}
    heads, hidden, used = config["n_head"], config["n_embd"], config["moe_top_k"]
    gelu = torch.nn.functional.gelu

    def linear(name: str, states: Any) -> Any:
        return torch.nn.functional.linear(states, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(name: str, states: Any) -> Any:
        epsilon = config["layer_norm_epsilon"]
        return torch.nn.functional.layer_norm(states, (hidden,), weights[f"{name}.weight"], weights[f"{name}.bias"], epsilon)

    def rotate(states: Any) -> Any:
        half = states.shape[-1] // 2
        rates = config["rotary_emb_base"] ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.arange(states.shape[1], dtype=torch.float64)[:, None] * rates
        left, right = states[..., :half], states[..., half:]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)

    def attend(base: str, states: Any) -> Any:
        parts = linear(f"{base}.Wqkv", states).reshape(len(states), 3, heads, -1).permute(1, 2, 0, 3)
        query, key, value = rotate(parts[0]), rotate(parts[1]), parts[2]
        chances = (query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])).softmax(-1)
        return linear(f"{base}.out_proj", (chances @ value).transpose(0, 1).reshape(len(states), -1))

    def experts(base: str, states: Any) -> Any:
        up, down = (
            weights[f"{base}.experts.mlp.{name}"].reshape(config["num_experts"], config["n_inner"], hidden)
            for name in ("w1", "w2")
        )
        chances, chosen = linear(f"{base}.router.layer", states).softmax(-1).topk(used, dim=-1)
        found = [
            sum(chance * (gelu(up[number] @ state) @ down[number]) for chance, number in zip(*choice, strict=True))
            for state, choice in zip(states, zip(chances, chosen, strict=True), strict=True)
        ]
        return torch.stack(found) + weights[f"{base}.experts.bias"]

    def encode(numbers: list[int]) -> Any:
        table = weights["embeddings.word_embeddings.weight"][numbers]
        states = norm("emb_ln", table + weights["embeddings.token_type_embeddings.weight"][0])
        for layer in range(config["n_layer"]):
            base = f"encoder.layers.{layer}"
            states = norm(f"{base}.norm1", states + attend(f"{base}.attn", states))
            if layer % config["moe_every_n_layers"] == 1:
                network = experts(f"{base}.mlp", states)
            else:
                network = linear(f"{base}.mlp.fc2", gelu(linear(f"{base}.mlp.fc1", states)))
            states = norm(f"{base}.norm2", states + network)
        return states.mean(0).numpy()

    tokenizer = tokenizer_of(folder)
    ids = [tokenizer.encode(text).ids for text in TEXTS.values()]
    return ids, np.stack([encode(numbers) for numbers in ids])
