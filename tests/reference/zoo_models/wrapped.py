"""BERT with weights that sentence-transformers saved as a part of its own module, and mean pooling."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.convert.encoder_texts import TEXTS
from tests.reference.make_zoo_rows import Rows, pool, tokenizer_of


def rows(folder: Path) -> Rows:
    """Return the ids and rows of TEXTS."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, BertModel

    model = BertModel(AutoConfig.from_pretrained(folder)).eval()
    stored = load_file(folder / "model.safetensors")
    model.load_state_dict({name.removeprefix("0.auto_model."): tensor for name, tensor in stored.items()})
    tokenizer = tokenizer_of(folder)
    ids = [tokenizer.encode(text).ids for text in TEXTS.values()]
    with torch.no_grad():
        found = [pool(model(torch.tensor([numbers])).last_hidden_state[0].double(), "mean") for numbers in ids]
    return ids, np.stack([row.numpy() for row in found])
