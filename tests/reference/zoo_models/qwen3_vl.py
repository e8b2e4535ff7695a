"""Qwen3-VL-Embedding: texts in the conversation of its makers' script, the state of the last token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.encoder_texts import TEXTS
from tests.reference.make_decoder_rows import open_tokenizer

BEFORE = "<|im_start|>system\nRepresent the user's input.<|im_end|>\n<|im_start|>"
USER = "user\n"
BEHIND = "<|im_end|>\n<|im_start|>assistant\n"


def rows(folder: Path) -> tuple[list[list[int]], np.ndarray[Any, Any]]:
    """Return the ids and the rows of TEXTS."""
    import torch
    from transformers import Qwen3VLModel

    plain, parsing = open_tokenizer(folder, names_are_text=True), open_tokenizer(folder, names_are_text=False)
    model = Qwen3VLModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids, found = [], []
    for text in TEXTS.values():
        numbers = parsing.encode(BEFORE).ids + plain.encode(USER + text).ids + parsing.encode(BEHIND).ids
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([numbers])).last_hidden_state[0]
        ids.append(numbers)
        found.append(hidden[-1].double().numpy())
    return ids, np.stack(found)
