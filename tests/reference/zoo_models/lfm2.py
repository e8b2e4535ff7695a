"""Bidirectional LFM2, which transformers 5.24 lacks, written from its makers' description.

`hidden_states(..., causal=True)` is the causal model, which transformers has as Lfm2Model: run this module to compare both.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.encoder_texts import TEXTS
from tests.convert.zoo.rows import Outputs


def hidden_states(folder: Path, ids: list[int], *, causal: bool) -> Any:
    """Return the states of all tokens, shape (tokens, hidden), in float64."""
    import torch
    from safetensors.torch import load_file
    from torch.nn import functional

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    head, count = config["hidden_size"] // heads, len(ids)

    def norm(states: Any, name: str) -> Any:
        return states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + config["norm_eps"]) * weights[f"{name}.weight"]

    def linear(states: Any, name: str) -> Any:
        return states @ weights[f"{name}.weight"].T

    angles = torch.arange(count, dtype=torch.float64)[:, None] / config["rope_theta"] ** (
        torch.arange(0, head, 2, dtype=torch.float64) / head
    )
    cosines, sines = torch.cos(angles), torch.sin(angles)

    def rotate(states: Any) -> Any:
        first, second = states[..., : head // 2], states[..., head // 2 :]
        return torch.cat([first * cosines - second * sines, second * cosines + first * sines], -1)

    def attend(states: Any, base: str) -> Any:
        def split(name: str, number: int) -> Any:
            return linear(states, f"{base}.{name}_proj").view(count, number, head).transpose(0, 1)

        queries = rotate(norm(split("q", heads), f"{base}.q_layernorm"))
        keys = rotate(norm(split("k", groups), f"{base}.k_layernorm")).repeat_interleave(heads // groups, 0)
        values = split("v", groups).repeat_interleave(heads // groups, 0)
        scores = queries @ keys.transpose(1, 2) / head**0.5
        if causal:
            scores = scores.masked_fill(torch.ones(count, count).triu(1).bool(), float("-inf"))
        mixed = torch.softmax(scores, -1) @ values
        return linear(mixed.transpose(0, 1).reshape(count, heads * head), f"{base}.out_proj")

    def convolve(states: Any, base: str) -> Any:
        before, gate, inner = linear(states, f"{base}.in_proj").chunk(3, -1)
        kernel = weights[f"{base}.conv.weight"]
        length = kernel.shape[-1]
        sides = (length - 1, 0) if causal else (length // 2, length // 2)
        padded = functional.pad((before * inner).T[None], sides)
        return linear(gate * functional.conv1d(padded, kernel, groups=kernel.shape[0])[0].T, f"{base}.out_proj")

    states = weights["embed_tokens.weight"][torch.tensor(ids)]
    for layer, kind in enumerate(config["layer_types"]):
        base = f"layers.{layer}"
        mixed = norm(states, f"{base}.operator_norm")
        states = states + (convolve(mixed, f"{base}.conv") if kind == "conv" else attend(mixed, f"{base}.self_attn"))
        inner = norm(states, f"{base}.ffn_norm")
        gated = functional.silu(linear(inner, f"{base}.feed_forward.w1")) * linear(inner, f"{base}.feed_forward.w3")
        states = states + linear(gated, f"{base}.feed_forward.w2")
    return norm(states, "embedding_norm")


def rows(folder: Path) -> tuple[list[list[int]], np.ndarray[Any, Any]]:
    """Return the ids and the rows of TEXTS: the state of the first token."""
    from tests.reference.make_zoo_rows import tokenizer_of

    tokenizer = tokenizer_of(folder)
    ids = [tokenizer.encode(text).ids for text in TEXTS.values()]
    return ids, np.stack([hidden_states(folder, numbers, causal=False)[0].numpy() for numbers in ids])


def outputs(folder: Path) -> list[Outputs]:
    """Return the vectors of TEXTS, each as a query and as a document, as PyLate makes them without expansion."""
    import torch
    from safetensors.torch import load_file

    from tests.reference.make_zoo_rows import tokenizer_of

    tokenizer = tokenizer_of(folder)
    config = json.loads((folder / "config_sentence_transformers.json").read_text(encoding="utf-8"))
    projection = load_file(folder / "1_Dense" / "model.safetensors")["linear.weight"].double()
    skipped = [tokenizer.token_to_id(word) for word in config["skiplist_words"]]
    found = []
    for kind, text in TEXTS.items():
        for role in ("query", "document"):
            ids = tokenizer.encode(text).ids
            ids.insert(1, tokenizer.token_to_id(config[f"{role}_prefix"]))
            vectors = hidden_states(folder, ids, causal=False) @ projection.T
            if role == "document":
                vectors = vectors[[number not in skipped for number in ids]]
            unit = torch.nn.functional.normalize(vectors, dim=1).float().numpy()
            found.append(Outputs(kind, role, ids, {"multi": unit}))
    return found


def main() -> None:
    """Print the largest difference of the causal states to those of transformers."""
    import torch
    from transformers import Lfm2Model

    from tests.convert.zoo.lfm2 import make_lfm2_embedder

    with tempfile.TemporaryDirectory() as temporary:
        folder = make_lfm2_embedder(Path(temporary))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        del config["auto_map"]
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        model = Lfm2Model.from_pretrained(folder, dtype=torch.float64).eval()
        ids = list(range(1, 100))
        with torch.no_grad():
            theirs = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        sys.stdout.write(f"{(theirs - hidden_states(folder, ids, causal=True)).abs().max().item():.1e}\n")


if __name__ == "__main__":
    main()
