"""Sparse vectors, by sentence-transformers' SparseEncoder; of checkpoints without modules, by its modules in code."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.encoder_texts import TEXTS
from tests.convert.zoo.rows import Outputs


def pairs(weights: Any) -> np.ndarray[Any, Any]:
    """Return ids and weights, shape (tokens with a weight, 2), of a vector of the whole vocabulary."""
    ids = np.flatnonzero(weights)
    return np.stack([ids, weights[ids]], axis=1).astype(np.float32)


def outputs(folder: Path) -> list[Outputs]:
    """Return the ids of TEXTS and the weights of the vocabulary; if queries are read otherwise, for both roles."""
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

    from tests.reference.make_zoo_rows import tokenizer_of

    torch.set_num_threads(1)
    # sentence-transformers looks for a file of weights in the current folder.
    tables = list(folder.rglob("idf.json"))
    with contextlib.chdir(tables[0].parent if tables else folder):
        model = SparseEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    files = [file for file in sorted(folder.rglob("tokenizer.json")) if "query" not in file.parent.name]
    tokenizer = tokenizer_of(files[0].parent)
    found = []
    free = any(isinstance(module, SparseStaticEmbedding) for module in model.modules())
    for kind, text in TEXTS.items():
        for role in ("query", "document") if free else ("",):
            ids = tokenizer.encode(text).ids
            # A query's weights are those of its own tokens, without the special ones around it.
            given = ids[1:-1] if role == "query" else ids
            features = {"input_ids": torch.tensor([given]), "attention_mask": torch.ones(1, len(given), dtype=torch.int64)}
            with torch.no_grad():
                result = model(features, **({"task": role} if role else {}))["sentence_embedding"]
            dense = result.to_dense() if result.is_sparse else result
            found.append(Outputs(kind, role, ids, {"sparse": pairs(dense[0].numpy())}))
    return found
