"""Rows of NeoBERT, in torch, from its description: RMS norms before each part, rotary positions, SwiGLU, no biases.

Le Breton et al., 2025. The joint matrix has queries, keys and values of each head together, and positions rotate adjacent
numbers.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.encoder_texts import TEXTS


def rows(folder: Path) -> tuple[list[list[int]], np.ndarray[Any, Any]]:
    """Return the ids and the rows of the first token of TEXTS."""
    import torch
    from safetensors.torch import load_file

    from tests.reference.make_zoo_rows import tokenizer_of

    torch.set_num_threads(1)
    config = json.loads((folder / "config.json").read_text())
    weights = {
        name.removeprefix("model."): tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()
    }
    heads = config["num_attention_heads"]

    def norm(name: str, states: Any) -> Any:
        scale = (states.square().mean(-1, keepdim=True) + config["norm_eps"]).rsqrt()
        return states * scale * weights[f"{name}.weight"]

    def rotate(states: Any) -> Any:
        length = states.shape[-1]
        rates = 10000.0 ** (-torch.arange(0, length, 2, dtype=torch.float64) / length)
        angles = torch.arange(states.shape[1], dtype=torch.float64)[:, None] * rates
        turned = torch.view_as_complex(states.reshape(*states.shape[:-1], -1, 2)) * torch.polar(
            torch.ones_like(angles), angles
        )
        return torch.view_as_real(turned).flatten(-2)

    def attend(base: str, states: Any) -> Any:
        joint = (states @ weights[f"{base}.qkv.weight"].T).reshape(len(states), heads, 3, -1).permute(2, 1, 0, 3)
        query, key, value = rotate(joint[0].contiguous()), rotate(joint[1].contiguous()), joint[2]
        chances = (query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])).softmax(-1)
        return (chances @ value).transpose(0, 1).reshape(len(states), -1) @ weights[f"{base}.wo.weight"].T

    def encode(numbers: list[int]) -> Any:
        states = weights["encoder.weight"][numbers]
        for layer in range(config["num_hidden_layers"]):
            base = f"transformer_encoder.{layer}"
            states = states + attend(base, norm(f"{base}.attention_norm", states))
            gate, up = (norm(f"{base}.ffn_norm", states) @ weights[f"{base}.ffn.w12.weight"].T).chunk(2, dim=-1)
            states = states + (torch.nn.functional.silu(gate) * up) @ weights[f"{base}.ffn.w3.weight"].T
        return norm("layer_norm", states)[0].numpy()

    tokenizer = tokenizer_of(folder)
    ids = [tokenizer.encode(text).ids for text in TEXTS.values()]
    return ids, np.stack([encode(numbers) for numbers in ids])
