"""Write the two files that fasttextembed reads, with random weights of bge-small's shape: its own are on GitHub only.

The format, version 2, is that of `fte_format.h` in its sources: a header, a table of tensors, the tensors; matrices in half
precision, [inputs, outputs], the rest in float32. The names are those of the ONNX file that its own model was made from.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

LAYERS, WIDTH = 12, 384
_HEADER = struct.Struct("<QQ11I")
_ENTRY = struct.Struct("<QQ64s6i")
_MAGIC, _VERSION, _ALIGNMENT = 0x31455446, 2, 64
_FIRST_MATRIX, _MATRICES_OF_A_LAYER = 1536, 13
"""Numbers in the names of the matrices of the first layer, and from one layer to the next."""


def write_files(vocabulary: Path, weights: Mapping[str, npt.NDArray[np.float32]], folder: Path) -> None:
    """Write model.fte and vocab.tsv. vocabulary: a file with a piece a line. weights: under BertModel's names."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = vocabulary.read_text(encoding="utf-8").splitlines()
    lines = (f"{piece}\t{number}\n" for number, piece in enumerate(pieces))
    (folder / "vocab.tsv").write_text("".join(lines), encoding="utf-8")
    tensors = {name: _stored(tensor) for name, tensor in _renamed(weights).items()}
    table = _aligned(_HEADER.size)
    offset = blob = _aligned(table + _ENTRY.size * len(tensors))
    feed_forward = 4 * WIDTH
    sizes = (WIDTH, LAYERS, 12, feed_forward, len(pieces), 512, 2)
    with (folder / "model.fte").open("wb") as file:
        file.write(_HEADER.pack(table, blob, _MAGIC, _VERSION, *sizes, len(tensors), 0))
        for number, (name, tensor) in enumerate(tensors.items()):
            shape = (*tensor.shape, 0, 0, 0, 0)[:4]
            half = int(tensor.dtype == np.float16)
            file.seek(table + number * _ENTRY.size)
            file.write(_ENTRY.pack(offset, tensor.nbytes, name.encode(), tensor.ndim, *shape, half))
            file.seek(offset)
            file.write(tensor.tobytes())
            offset = _aligned(offset + tensor.nbytes)


def _renamed(weights: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, npt.NDArray[np.float32]]:
    """Return the tensors under fasttextembed's names; queries, keys and values are one matrix."""
    found = {name: tensor for name, tensor in weights.items() if tensor.ndim == 1 or name.startswith("embeddings.")}
    for layer in range(LAYERS):
        base = f"encoder.layer.{layer}."
        parts = [f"{base}attention.self.{part}" for part in ("query", "key", "value")]
        found[f"Attention_{layer}_qkv_weight"] = np.concatenate([weights[f"{part}.weight"] for part in parts]).T
        found[f"Attention_{layer}_qkv_bias"] = np.concatenate([weights[f"{part}.bias"] for part in parts])
        matrices = ("attention.output.dense", "intermediate.dense", "output.dense")
        for number, name in enumerate(matrices, _FIRST_MATRIX + _MATRICES_OF_A_LAYER * layer):
            found[f"onnx::MatMul_{number}"] = weights[f"{base}{name}.weight"].T
    return found


def _stored(tensor: npt.NDArray[np.float32]) -> npt.NDArray[np.generic]:
    return np.ascontiguousarray(tensor, dtype=np.float16 if tensor.ndim == 2 else np.float32)


def _aligned(size: int) -> int:
    return (size + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
