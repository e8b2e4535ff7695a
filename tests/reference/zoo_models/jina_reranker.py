"""Reference scores of jina-reranker-v2: its code computes what XLM-RoBERTa of transformers does, under other names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.encoder_texts import PAIRS
from tests.reference.make_zoo_rows import Rows, tokenizer_of

_NAMES = {
    "emb_ln": "embeddings.LayerNorm",
    "mixer.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "norm2": "output.LayerNorm",
    "encoder.layers.": "encoder.layer.",
}


def rows(folder: Path) -> Rows:
    """Return the ids and the scores of PAIRS."""
    import torch
    from safetensors.torch import load_file
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    weights: dict[str, Any] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        for old, new in _NAMES.items():
            name = re.sub(re.escape(old), new, name)
        if "mixer.Wqkv" in name:
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                weights[name.replace("mixer.Wqkv", f"attention.self.{part}")] = third
        else:
            weights[name] = tensor
    config = XLMRobertaConfig.from_json_file(folder / "config.json")
    model = XLMRobertaForSequenceClassification(config).eval()
    model.load_state_dict(weights, strict=False)
    left = set(dict(model.named_parameters())) - set(weights)
    assert not left, left
    tokenizer = tokenizer_of(folder)
    encodings = [tokenizer.encode(query, document) for query, document in PAIRS.values()]
    with torch.no_grad():
        found = [model(input_ids=torch.tensor([encoding.ids])).logits[0, 0].item() for encoding in encodings]
    return [encoding.ids for encoding in encodings], np.array(found)
