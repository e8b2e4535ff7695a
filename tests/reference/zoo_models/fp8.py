"""Qwen3 with weights in fp8, multiplied by their scales in float32, and last pooling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.encoder_texts import TEXTS
from tests.reference.make_zoo_rows import Rows, pool, tokenizer_of


def _multiplied(weight: Any, scale: Any) -> Any:
    """Return the weights of shape (rows, columns); each scale belongs to a block of them."""
    height, width = weight.shape[0] // scale.shape[0], weight.shape[1] // scale.shape[1]
    return weight.float() * scale.repeat_interleave(height, 0).repeat_interleave(width, 1)


def rows(folder: Path) -> Rows:
    """Return the ids and rows of TEXTS."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, Qwen3Model

    stored = load_file(folder / "model.safetensors")
    weights = {}
    for name, tensor in stored.items():
        scales = [stored[f"{name}{end}"] for end in ("_scale", "_scale_inv") if f"{name}{end}" in stored]
        if name.endswith(".weight"):
            weights[name] = _multiplied(tensor, scales[0]) if scales else tensor
    model = Qwen3Model(AutoConfig.from_pretrained(folder)).eval()
    model.load_state_dict(weights)
    tokenizer = tokenizer_of(folder)
    ids = [tokenizer.encode(text).ids for text in TEXTS.values()]
    with torch.no_grad():
        found = [pool(model(torch.tensor([numbers])).last_hidden_state[0].double(), "last") for numbers in ids]
    return ids, np.stack([row.numpy() for row in found])
