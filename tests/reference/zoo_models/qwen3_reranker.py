"""Qwen3-Reranker: the probability of "yes" after the prompt of its model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.encoder_texts import PAIRS
from tests.reference.make_decoder_rows import PAIR, PREFIX, SUFFIX, open_tokenizer


def rows(folder: Path) -> tuple[list[list[int]], np.ndarray[Any, Any]]:
    """Return the ids and the scores of PAIRS."""
    import torch
    from transformers import AutoModelForCausalLM

    plain, parsing = open_tokenizer(folder, names_are_text=True), open_tokenizer(folder, names_are_text=False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    answers = [plain.token_to_id(word) for word in ("yes", "no")]
    ids, found = [], []
    for query, document in PAIRS.values():
        numbers = parsing.encode(PREFIX).ids + plain.encode(PAIR.format(query, document)).ids + parsing.encode(SUFFIX).ids
        with torch.no_grad():
            logits = model(torch.tensor([numbers])).logits[0, -1, answers].double()
        ids.append(numbers)
        found.append(torch.softmax(logits, dim=0)[0].item())
    return ids, np.array(found)
