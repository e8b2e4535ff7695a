"""llama-embed-nemotron: transformers' Llama without the causal mask, mean of all tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.encoder_texts import TEXTS


def rows(folder: Path) -> tuple[list[list[int]], np.ndarray[Any, Any]]:
    """Return the ids and the mean row of each text."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    from tests.reference.make_zoo_rows import tokenizer_of

    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for key in ("architectures", "auto_map", "model_type"):
        del values[key]
    config = LlamaConfig(**values, is_causal=False)
    model = LlamaModel.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    tokenizer = tokenizer_of(folder)
    ids = [tokenizer.encode(text).ids for text in TEXTS.values()]
    with torch.no_grad():
        found = [model(input_ids=torch.tensor([numbers])).last_hidden_state[0].mean(0).numpy() for numbers in ids]
    return ids, np.stack(found)
