"""The vector of gte-multilingual-base and the weights of its tokens, as its makers compute them, in torch: the largest of a
token, without those of bos, eos, pad and unknown words.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.convert.encoder_texts import TEXTS
from tests.convert.zoo.rows import Outputs

_UNUSED = ("<s>", "</s>", "<pad>", "<unk>")


def outputs(folder: Path) -> list[Outputs]:
    """Return the ids of TEXTS, their vector, and the weights of their tokens."""
    import torch
    from safetensors.torch import load_file

    from tests.reference.make_zoo_rows import tokenizer_of
    from tests.reference.zoo_models.gte import states

    stored = load_file(folder / "model.safetensors")
    names = tokenizer_of(folder).get_vocab(with_added_tokens=True)
    unused = {number for name, number in names.items() if any(name.endswith(part) for part in _UNUSED)}
    found = []
    for kind, (ids, hidden) in zip(TEXTS, states(folder), strict=True):
        weights = torch.relu(hidden @ stored["classifier.weight"][0] + stored["classifier.bias"]).tolist()
        largest: dict[int, float] = {}
        for number, weight in zip(ids, weights, strict=True):
            if weight > 0 and number not in unused:
                largest[number] = max(weight, largest.get(number, 0.0))
        sparse = np.array(sorted(largest.items()), dtype=np.float32).reshape(-1, 2)
        found.append(Outputs(kind, "", ids, {"dense": hidden[:1].numpy(), "sparse": sparse}))
    return found
