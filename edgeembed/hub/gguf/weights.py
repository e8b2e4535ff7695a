"""Sizes of the parts of a model, from the head of its file, for `edgeembed.engine.gpu.plan`.

llama.cpp decides which tensors belong to the input and which to the output (llama-arch.cpp, LLM_TENSOR_INFOS).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeembed.engine.context_plan import ModelFacts
from edgeembed.engine.gpu.plan import ModelWeights
from edgeembed.engine.stand_ins import STAND_INS, architecture_of
from edgeembed.hub.gguf.file import TensorInfo
from edgeembed.hub.gguf.header import RANK_POOLING, GgufHeader, open_gguf

_INPUT = ("token_embd", "token_embd_norm", "position_embd", "token_types")
_LAST_POOLING = 3
_KV_BYTES = 2  # float16


@dataclass(frozen=True)
class _TensorSizes:
    """Bytes of tensors, with the padding after each."""

    layers: tuple[int, ...]
    output: int
    largest_matrix: int
    """In values."""


def fits_cards(path: Path) -> bool:
    """Return whether graphics cards can compute a model: those that llama.cpp lacks, only the processor can."""
    return architecture_of(path) not in STAND_INS


def read_weights(path: Path) -> tuple[ModelWeights, ModelFacts]:
    """Return the sizes of a model; the weights are not read. Raises UnknownModelError or HubError."""
    with open_gguf(path) as reader:
        head = reader.head()
        tensors = sorted(reader.tensors(head), key=lambda tensor: tensor.offset)
        end = reader.size - reader.position
    header = GgufHeader(head.values)

    def number(key: str, otherwise: int) -> int:
        return header.size(key) or otherwise

    width = number("embedding_length", 1)
    heads = number("attention.head_count", 1)
    head_width = number("attention.key_length", width // heads)
    value_width = number("attention.value_length", width // heads)
    layers = number("block_count", 1)
    # One matrix for input and output: the output layer gets a copy.
    shared = "bert" not in (header.architecture or "") and all(tensor.name != "output.weight" for tensor in tensors)
    sizes = _tensor_sizes(tensors, end, layers, shared=shared)
    gated = any(tensor.name == "blk.0.ffn_gate.weight" for tensor in tensors)
    causal = header.values.get(header.key("attention.causal"), True)
    pieces = bool(causal) and header.pooling in (_LAST_POOLING, RANK_POOLING)
    tokens = head.arrays.get("tokenizer.ggml.tokens")
    cells = layers * number("attention.head_count_kv", heads) * (head_width + value_width) * _KV_BYTES
    weights = ModelWeights(
        layers=sizes.layers,
        output=sizes.output,
        largest_matrix=sizes.largest_matrix,
        feed_forward=number("feed_forward_length", 4 * width) * (2 if gated else 1),
        heads_width=heads * head_width,
        heads=heads,
    )
    facts = ModelFacts(
        pieces=pieces,
        trained_tokens=number("context_length", 512),
        width=width,
        vocabulary=tokens.count if tokens else 1,
        cell_bytes=cells if pieces else 0,
    )
    return weights, facts


def _tensor_sizes(tensors: Sequence[TensorInfo], end: int, layers: int, *, shared: bool) -> _TensorSizes:
    """Return the sizes of tensors, sorted by offset. end: of the data. shared: whether the output uses the embeddings."""
    sizes = [0] * layers
    output = largest = 0
    for tensor, next_offset in zip(tensors, [*(each.offset for each in tensors[1:]), end], strict=True):
        size = max(0, next_offset - tensor.offset)
        if block := re.match(r"blk\.(\d+)\.", tensor.name):
            if int(block[1]) < layers:
                sizes[int(block[1])] += size
            largest = max(largest, math.prod(tensor.shape))
        elif tensor.name.split(".")[0] not in _INPUT or (shared and tensor.name == "token_embd.weight"):
            output += size
    return _TensorSizes(tuple(sizes), output, largest)
