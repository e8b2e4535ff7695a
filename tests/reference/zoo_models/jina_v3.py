"""Rows of jina-embeddings-v3 with the adapter of a task, by transformers' class and weights merged in torch.

The makers' code adds to each weight `matmul(lora_B[task], lora_A[task]) * lora_alpha / lora_rank`; for a table the two
matrices are exchanged.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.encoder_texts import TEXTS

_TASK = "retrieval.query"


def rows(folder: Path) -> tuple[list[list[int]], np.ndarray[Any, Any]]:
    """Return the ids and the mean-pooled rows of TEXTS."""
    import torch
    import transformers
    from safetensors.torch import load_file

    from tests.reference.make_zoo_rows import tokenizer_of

    torch.set_num_threads(1)
    own = json.loads((folder / "config.json").read_text())
    task, scale = own["lora_adaptations"].index(_TASK), own["lora_alpha"] / own["lora_rank"]
    stored = {name.removeprefix("roberta."): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    weights = {name: tensor for name, tensor in stored.items() if ".parametrizations." not in name}
    for name, tensor in stored.items():
        if name.endswith(".original"):
            base = name.removesuffix("original")
            first, second = stored[f"{base}0.lora_B"][task], stored[f"{base}0.lora_A"][task]
            product = second @ first if name.startswith("embeddings.") else first @ second
            weights[name.removesuffix(".parametrizations.weight.original") + ".weight"] = tensor + scale * product
    names = {"emb_ln": "embeddings.LayerNorm", "encoder.layers": "layers", "mixer.out_proj": "self_attn.o_proj"}
    names |= {"norm1": "post_attention_layernorm", "norm2": "post_mlp_layernorm"}
    renamed = {}
    for name, tensor in weights.items():
        for old, new in names.items():
            name = name.replace(old, new)
        if "mixer.Wqkv" in name:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                renamed[name.replace("mixer.Wqkv", f"self_attn.{part}_proj")] = piece
        else:
            renamed[name] = tensor
    keys = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
    config = transformers.JinaEmbeddingsV3Config(
        **{key: own[key] for key in keys},
        max_position_embeddings=own["max_position_embeddings"],
        rope_parameters={"rope_theta": own["rotary_emb_base"], "rope_type": "default"},
        layer_norm_eps=own["layer_norm_eps"],
    )
    model = transformers.JinaEmbeddingsV3Model(config).eval()
    model.load_state_dict(renamed)
    tokenizer = tokenizer_of(folder)
    ids = [tokenizer.encode(text).ids for text in TEXTS.values()]
    found = []
    for numbers in ids:
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([numbers])).last_hidden_state[0].double()
        found.append(hidden.mean(0).numpy())
    return ids, np.stack(found)
