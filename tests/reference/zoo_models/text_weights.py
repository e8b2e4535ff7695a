"""Outputs beside the vector, in torch: as FlagEmbedding computes them of bge-m3, and the makers of gte-multilingual-base.

Sparse: the largest weight of each token of the text, without those of bos, eos, pad and unknown words. Multi: a vector of
length 1 for each token but the first.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.convert.encoder_texts import TEXTS
from tests.convert.zoo.rows import Outputs

_UNUSED = ("cls", "eos", "pad", "unk")


def outputs(folder: Path) -> list[Outputs]:
    """Return the ids of TEXTS, their vector, the weights of their tokens, and with bge-m3 the vectors of tokens."""
    import torch
    from safetensors.torch import load_file
    from transformers import XLMRobertaModel

    from tests.reference.make_zoo_rows import tokenizer_of
    from tests.reference.zoo_models.gte import states

    tokenizer = tokenizer_of(folder)
    multi = None
    if (folder / "sparse_linear.pt").is_file():
        model = XLMRobertaModel.from_pretrained(folder, dtype=torch.float32).eval()
        ids = [tokenizer.encode(text).ids for text in TEXTS.values()]
        with torch.no_grad():
            hidden = [model(torch.tensor([numbers])).last_hidden_state[0] for numbers in ids]
        read = list(zip(ids, hidden, strict=True))
        sparse, multi = (torch.load(folder / f"{name}_linear.pt") for name in ("sparse", "colbert"))
    else:
        read = states(folder)
        stored = load_file(folder / "model.safetensors")
        sparse = {name: stored[f"classifier.{name}"] for name in ("weight", "bias")}
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    vocabulary = [piece for piece, _ in json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]]
    unused = {vocabulary.index(config[f"{role}_token"]) for role in _UNUSED}
    found = []
    for kind, (numbers, states_of) in zip(TEXTS, read, strict=True):
        weights = torch.relu(states_of @ sparse["weight"][0] + sparse["bias"]).tolist()
        largest: dict[int, float] = {}
        for number, weight in zip(numbers, weights, strict=True):
            if weight > 0 and number not in unused:
                largest[number] = max(weight, largest.get(number, 0.0))
        values = {
            "dense": states_of[:1].numpy(),
            "sparse": np.array(sorted(largest.items()), dtype=np.float32).reshape(-1, 2),
        }
        if multi is not None:
            vectors = states_of[1:] @ multi["weight"].T + multi["bias"]
            values["multi"] = torch.nn.functional.normalize(vectors, dim=-1).numpy()
        found.append(Outputs(kind, "", numbers, values))
    return found
