"""Rows of a text generator's LM head, from which the classifier of a reranker is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgeembed.engine.interface import Float32Matrix
from edgeembed.hub.gguf.file import GgufReader, MalformedError, TensorInfo
from edgeembed.hub.gguf.tensors import TYPES


def read_head_rows(
    reader: GgufReader, tensors: Mapping[str, TensorInfo], starts: Mapping[str, int], numbers: Sequence[int]
) -> Float32Matrix:
    """Return the rows of the LM head for these tokens, shape (tokens, width); the embeddings are the head if there is none.

    starts: of the tensors' data in the file. Raises MalformedError.
    """
    tensor = tensors.get("output.weight") or tensors.get("token_embd.weight")
    if tensor is None or len(tensor.shape) != 2 or tensor.kind not in TYPES or max(numbers) >= tensor.shape[1]:
        raise MalformedError("there is no LM head with a row for each token")
    # Importing the package takes longer than reading a file, and few files need it.
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    _, values, size = TYPES[tensor.kind]
    if tensor.shape[0] % values:
        raise MalformedError(f"tensor {tensor.name!r} has rows of {tensor.shape[0]} numbers, not a multiple of {values}")
    length = tensor.shape[0] // values * size
    rows = [reader.bytes_at(tensor.name, starts[tensor.name] + number * length, length) for number in numbers]
    raw = np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), length)
    try:
        found = dequantize(raw, GGMLQuantizationType(tensor.kind))
    except (ValueError, NotImplementedError) as error:
        raise MalformedError(f"tensor {tensor.name!r} is of the type {TYPES[tensor.kind][0]}, which is not read") from error
    return np.asarray(found, dtype=np.float32).reshape(len(rows), tensor.shape[0])
