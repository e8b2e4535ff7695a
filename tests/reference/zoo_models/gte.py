"""GTE: transformers' GteModel, with the frequencies of the makers' NTK scaling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.encoder_texts import TEXTS


def rows(folder: Path) -> tuple[list[list[int]], np.ndarray[Any, Any]]:
    """Return the ids and the row of the first token of each text."""
    found = states(folder)
    return [ids for ids, _ in found], np.stack([hidden[0].numpy() for _, hidden in found])


def states(folder: Path) -> list[tuple[list[int], Any]]:
    """Return the ids and the hidden states, a tensor of shape (tokens, width), of each text."""
    import torch
    from transformers import GteConfig, GteModel

    from tests.reference.make_zoo_rows import tokenizer_of

    torch.set_num_threads(1)
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    factor, base = (stored.pop("rope_scaling", None) or {"factor": 1})["factor"], stored.pop("rope_theta")
    for key in ("architectures", "auto_map", "model_type"):
        del stored[key]
    config = GteConfig(**stored, rope_parameters={"rope_type": "default", "rope_theta": base})
    model, found = GteModel.from_pretrained(folder, config=config, dtype=torch.float32, output_loading_info=True)
    missing = [name for name in found["missing_keys"] if not name.startswith("pooler.")]
    assert not missing and set(found["unexpected_keys"]) <= {"classifier.weight", "classifier.bias"}, found
    model.eval()
    width = config.hidden_size // config.num_attention_heads
    powers = np.arange(0, width, 2) / width
    wanted = (base * factor) ** -powers / factor ** (2 / width)
    model.rotary_emb.inv_freq = torch.tensor(wanted, dtype=torch.float32)
    tokenizer = tokenizer_of(folder)
    ids = [tokenizer.encode(text).ids for text in TEXTS.values()]
    with torch.no_grad():
        return [(numbers, model(input_ids=torch.tensor([numbers])).last_hidden_state[0]) for numbers in ids]
