"""Sizes of the parts of a model, from the head of its file, for `edgeembed.engine.gpu.plan`.

llama.cpp decides which tensors belong to the input and which to the output (llama-arch.cpp, LLM_TENSOR_INFOS).
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from edgeembed.engine.context_plan import ModelFacts
from edgeembed.engine.gpu.plan import ModelWeights
from edgeembed.hub.gguf.header import RANK_POOLING, GgufHeader, open_gguf

_INPUT = ("token_embd", "token_embd_norm", "position_embd", "token_types")
_LAST_POOLING = 3
_KV_BYTES = 2  # float16


def read_weights(path: Path) -> tuple[ModelWeights, ModelFacts]:
    """Return the sizes of a model; the weights are not read. Raises UnknownModelError or HubError."""
    with open_gguf(path) as reader:
        head = reader.head()
        tensors = sorted(reader.tensors(head), key=lambda tensor: tensor.offset)
        end = reader.size - reader.position
    header = GgufHeader(head.values)
    name = header.architecture

    def number(key: str, otherwise: int) -> int:
        return header.number(f"{name}.{key}") or otherwise

    width = number("embedding_length", 1)
    heads = number("attention.head_count", 1)
    head_width = number("attention.key_length", width // heads)
    value_width = number("attention.value_length", width // heads)
    layers = number("block_count", 1)
    sizes = [0] * layers
    output = embeddings = largest = 0
    # From one tensor to the next, including the padding between them.
    for tensor, behind in zip(tensors, [*(each.offset for each in tensors[1:]), end], strict=True):
        size = max(0, behind - tensor.offset)
        if block := re.match(r"blk\.(\d+)\.", tensor.name):
            if int(block[1]) < layers:
                sizes[int(block[1])] += size
            largest = max(largest, math.prod(tensor.shape))
        elif tensor.name.split(".")[0] not in _INPUT:
            output += size
        elif tensor.name == "token_embd.weight":
            embeddings = size
    names = {tensor.name for tensor in tensors}
    if "output.weight" not in names and "bert" not in (name or ""):
        output += embeddings  # one matrix for input and output: the output layer gets a copy
    feed_forward = number("feed_forward_length", 4 * width)
    causal = header.values.get(f"{name}.attention.causal", True)
    pieces = bool(causal) and header.pooling in (_LAST_POOLING, RANK_POOLING)
    tokens = head.arrays.get("tokenizer.ggml.tokens")
    cells = layers * number("attention.head_count_kv", heads) * (head_width + value_width) * _KV_BYTES
    weights = ModelWeights(
        layers=tuple(sizes),
        output=output,
        largest_matrix=largest,
        feed_forward=feed_forward * (2 if "blk.0.ffn_gate.weight" in names else 1),
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
