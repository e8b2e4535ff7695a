"""All outputs of bge-m3, as FlagEmbedding computes them (BGEM3FlagModel.encode), in torch.

Dense: the first token's state. Vectors of tokens: a projection of each but the first one, of length 1. Sparse: the largest
weight of each token of the text, without bos, eos, pad and unknown words.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.convert.encoder_texts import TEXTS
from tests.convert.zoo.rows import Outputs

_UNUSED = ("<s>", "</s>", "<pad>", "<unk>")


def outputs(folder: Path) -> list[Outputs]:
    """Return the ids of TEXTS, and all outputs of each."""
    import torch
    from transformers import AutoModel

    from tests.reference.make_zoo_rows import tokenizer_of

    tokenizer, names = tokenizer_of(folder), tokenizer_of(folder).get_vocab(with_added_tokens=True)
    heads = {name: torch.load(folder / f"{name}_linear.pt", weights_only=True) for name in ("colbert", "sparse")}
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    unused = {number for name, number in names.items() if any(name.endswith(part) for part in _UNUSED)}

    def linear(states: torch.Tensor, name: str) -> torch.Tensor:
        return states @ heads[name]["weight"].float().T + heads[name]["bias"].float()

    found = []
    for kind, text in TEXTS.items():
        ids = tokenizer.encode(text).ids
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        largest: dict[int, float] = {}
        for number, weight in zip(ids, torch.relu(linear(states, "sparse"))[:, 0].tolist(), strict=True):
            if weight > 0 and number not in unused:
                largest[number] = max(weight, largest.get(number, 0.0))
        values = {
            "dense": states[:1].numpy(),
            "multi": torch.nn.functional.normalize(linear(states[1:], "colbert"), dim=1).numpy(),
            "sparse": np.array(sorted(largest.items()), dtype=np.float32).reshape(-1, 2),
        }
        found.append(Outputs(kind, "", ids, values))
    return found
