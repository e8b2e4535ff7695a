"""BERT's forward pass in plain numpy, float64: an independent reference for converted files.

Devlin et al. 2018, with the details of transformers' BertModel: post-layer-norm, GELU by the error function, token type 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def embed(weights: Mapping[str, npt.NDArray[Any]], heads: int, ids: Sequence[int], pooling: str) -> Array:
    """Return the pooled row, shape (hidden,), of one sequence of ids; `pooling` is mean, cls or last."""
    w = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
    x = w["embeddings.word_embeddings.weight"][list(ids)] + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = _norm(w, "embeddings.LayerNorm", x + w["embeddings.token_type_embeddings.weight"][0])
    layer = 0
    while f"encoder.layer.{layer}.output.dense.weight" in w:
        base = f"encoder.layer.{layer}"
        x = _norm(w, f"{base}.attention.output.LayerNorm", x + _attention(w, f"{base}.attention", x, heads))
        inner = _gelu(_dense(w, f"{base}.intermediate.dense", x))
        x = _norm(w, f"{base}.output.LayerNorm", x + _dense(w, f"{base}.output.dense", inner))
        layer += 1
    row: Array = {"mean": x.mean(axis=0), "cls": x[0], "last": x[-1]}[pooling]
    return row


def _attention(w: Mapping[str, Array], base: str, x: Array, heads: int) -> Array:
    def split(part: str) -> Array:
        return _dense(w, f"{base}.self.{part}", x).reshape(len(x), heads, -1).transpose(1, 0, 2)

    query, key, value = split("query"), split("key"), split("value")
    scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = scores / scores.sum(axis=-1, keepdims=True) @ value
    return _dense(w, f"{base}.output.dense", mixed.transpose(1, 0, 2).reshape(len(x), -1))


def _dense(w: Mapping[str, Array], name: str, x: Array) -> Array:
    result: Array = x @ w[f"{name}.weight"].T + w[f"{name}.bias"]
    return result


def _norm(w: Mapping[str, Array], name: str, x: Array) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
    result: Array = scaled * w[f"{name}.weight"] + w[f"{name}.bias"]
    return result


def _gelu(x: Array) -> Array:
    result: Array = x * (1 + _erf(x / math.sqrt(2))) / 2
    return result
