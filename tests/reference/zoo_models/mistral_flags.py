"""SFR-Embedding-Mistral: transformers' Mistral, and the last token that add_eos_token asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.encoder_texts import TEXTS


def rows(folder: Path) -> tuple[list[list[int]], np.ndarray[Any, Any]]:
    """Return the ids and the row of the last token of each text."""
    import torch
    from transformers import MistralModel

    from tests.reference.make_zoo_rows import tokenizer_of

    model = MistralModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = tokenizer_of(folder)
    ids = [[*tokenizer.encode(text).ids, model.config.eos_token_id] for text in TEXTS.values()]
    with torch.no_grad():
        found = [model(input_ids=torch.tensor([numbers])).last_hidden_state[0, -1].numpy() for numbers in ids]
    return ids, np.stack(found)
