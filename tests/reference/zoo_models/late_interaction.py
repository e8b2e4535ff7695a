"""Vectors of ColBERT checkpoints, by PyLate 1.6: `pip install pylate` beside what make_zoo_rows needs.

PyLate reads the texts, but for two things, as in the daemon: names of special tokens inside a text stay text, and so does
white space around it.
Queries longer than `query_length` and documents longer than `document_length` are read to their end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.encoder_texts import TEXTS
from tests.convert.zoo.rows import Outputs

_MOST = 1024


def outputs(folder: Path) -> list[Outputs]:
    """Return the vectors of TEXTS, each as a query and as a document."""
    import torch
    from pylate.models import ColBERT

    from tests.reference.make_zoo_rows import tokenizer_of

    torch.set_num_threads(1)
    tokenizer = tokenizer_of(folder)
    model = ColBERT(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    length, filler = model.query_length, model.tokenizer.pad_token_id
    seen: list[list[int]] = []

    def tokenize(texts: list[str], padding: str = "", **_: Any) -> dict[str, Any]:
        """As Transformer.tokenize, for one text."""
        ids = tokenizer.encode(texts[0]).ids
        missing = max(0, transformer.max_seq_length - len(ids)) if padding else 0
        features = {"input_ids": ids + [filler] * missing, "attention_mask": [1] * len(ids) + [0] * missing}
        return {name: torch.tensor([values]) for name, values in features.items()}

    def forward(features: dict[str, Any], **arguments: Any) -> dict[str, Any]:
        seen.append(features["input_ids"][0].tolist())
        found: dict[str, Any] = encode(features, **arguments)
        return found

    transformer: Any = model[0]
    encode = transformer.forward
    transformer.tokenize, transformer.forward = tokenize, forward
    model.document_length = _MOST
    found = []
    for kind, text in TEXTS.items():
        for role in ("query", "document"):
            model.query_length = max(length, len(tokenizer.encode(text).ids) + (model.query_prefix_id is not None))
            vectors = model.encode([text], is_query=role == "query", show_progress_bar=False)[0]
            found.append(Outputs(kind, role, seen[-1], {"multi": np.asarray(vectors, dtype=np.float32)}))
    return found
