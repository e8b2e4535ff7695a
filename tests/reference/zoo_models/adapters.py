"""Rows of models with an adapter, by transformers and peft, which puts the adapter beside the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.encoder_texts import TEXTS

# The class of transformers for the model without its adapter, the adapter's folder, the pooling.
_MODELS = {
    "jina_v3_peft": ("JinaEmbeddingsV3", "retrieval_query", "mean"),
    "jina_v5_nano": ("EuroBert", "adapters/retrieval", "last"),
    "jina_v5_small": ("Qwen3", "adapters/text-matching", "last"),
    "peft_adapter": ("XLMRoberta", "adapters/legal", "mean"),
}


def rows(folder: Path) -> tuple[list[list[int]], np.ndarray[Any, Any]]:
    """Return the ids and the pooled rows of TEXTS. folder: named after the form."""
    import torch
    import transformers
    from peft import PeftModel

    from tests.reference.make_zoo_rows import pool, tokenizer_of

    torch.set_num_threads(1)
    name, adapter, pooling = _MODELS[folder.name]
    config = json.loads((folder / "config.json").read_text())
    for key in ("architectures", "auto_map", "model_type", "task_names"):
        config.pop(key, None)
    settings = getattr(transformers, f"{name}Config")(**config)
    base = getattr(transformers, f"{name}Model").from_pretrained(folder, config=settings, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(folder / adapter)).eval()
    tokenizer = tokenizer_of(folder)
    ids = [tokenizer.encode(text).ids for text in TEXTS.values()]
    found = []
    for numbers in ids:
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([numbers])).last_hidden_state[0].double()
        found.append(pool(hidden, pooling).numpy())
    return ids, np.stack(found)
