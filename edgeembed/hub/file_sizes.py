"""Sizes of GGUF files that do not exist yet: from a model's shape and a quantisation type, by arithmetic.

The tensors are those that our converter writes, and so do the official files. Types of the mixtures (Q4_K_M and others):
llama.cpp's src/llama-quant.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from edgeembed.hub.catalogue import CatalogueEntry, HubGguf, Shape
from edgeembed.hub.gguf.tensors import BLOCKS

CAUSAL = frozenset({"gemma3", "llama", "qwen2", "qwen3"})
"""Architectures with causal attention, whose keys and values llama.cpp keeps in a cache."""
CACHED = CAUSAL | {"llama-embed"}
"""Architectures for which llama.cpp allocates such a cache; llama-embed makes no use of it."""

_HEADER_BYTES_PER_TOKEN = {
    "bert": 26,
    "mpnet": 26,
    "nomic-bert": 21,
    "nomic-bert-moe": 26,
    "gte": 26,
    "jina-bert-v2": 21,
    "jina-bert-v3": 26,
    "modern-bert": 42,
    "eurobert": 39,
    "llama": 24,
    "llama-embed": 39,
    "qwen2": 39,
    "qwen3": 39,
    "gemma-embedding": 24,
    "gemma3": 24,
}
"""Metadata is mostly the vocabulary: its pieces, their types, scores of SentencePiece and merges of BPE. Measured."""

_JOINT_ATTENTION = frozenset({"gte", "jina-bert-v3", "modern-bert", "nomic-bert", "nomic-bert-moe"})
"""Architectures with one matrix for queries, keys and values."""
_WITHOUT_GATE = frozenset({"bert", "jina-bert-v3", "mpnet", "nomic-bert-moe"})

_PLAIN = frozenset({"F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"})
"""Types that all matrices have if their rows fit."""
_MIXTURES = {"Q4_K_M": "Q4_K", "Q5_K_M": "Q5_K", "Q6_K": "Q6_K"}
"""The type of most matrices."""
_BETTER = "Q6_K"
"""In a mixture, the type of the token embeddings, and in some layers of the matrices below."""
_FAVOURED = ("attn_v", "attn_qkv", "ffn_down")
_SPARED_EXPERTS = 8
"""With so many experts, attention is small beside them, and a mixture spares it."""
_SPARED = {("Q4_K_M", "attn_output"): "Q5_K", ("", "attn_qkv"): "Q8_0"}
"""The types of its matrices then, by mixture and role; "" is every mixture."""
_FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""What a mixture has instead for rows that are not a multiple of the block."""
_FOUR, _FIVE, _EIGHT = ("Q4_K", "IQ4_NL"), ("Q5_K", "Q5_1"), ("Q8_0",)
_LITTLE = dict.fromkeys(("token_embd", "attn_q", "attn_k"), _FOUR)
_RECIPES = {
    "Q8_E": ({"token_embd": _FOUR}, _EIGHT),
    "Q5_E": (_LITTLE, _FIVE),
    "Q4_E": ({**_LITTLE, "ffn_up": _FOUR, "ffn_down": _FOUR}, _FIVE),
}
"""The converter's own types: the types of matrices by role, and of the rest; the first that fits."""


class _Tensor(NamedTuple):
    """Values of a tensor, or of several of the same kind. layer: None for those outside the layers."""

    role: str
    rows: int
    columns: int
    layer: int | None = None


def size_of(entry: CatalogueEntry, kind: str) -> int | None:
    """Return the bytes of the model's file of this type: published, else computed; None if neither is possible."""
    return published_sizes(entry).get(kind) or file_bytes(entry, kind)


def published_sizes(entry: CatalogueEntry) -> dict[str, int]:
    """Return the size in bytes of each type for which one is published."""
    ready = {source.type: source.size_bytes for source in entry.sources if isinstance(source, HubGguf) and source.size_bytes}
    return ready | entry.sizes


def file_bytes(entry: CatalogueEntry, kind: str) -> int | None:
    """Return the size of the model's file of this type to about 1 %; None without a shape, or for an unknown type."""
    tensors = tensor_bytes(entry, kind)
    if tensors is None or entry.shape is None:
        return None
    return tensors + _tokens(entry, entry.shape) * _HEADER_BYTES_PER_TOKEN[entry.architecture]


def tensor_bytes(entry: CatalogueEntry, kind: str) -> int | None:
    """Return the size of all tensors, without padding; None without a shape, or for an unknown type or architecture."""
    known = kind in _PLAIN or kind in _MIXTURES or kind in _RECIPES
    if entry.shape is None or entry.architecture not in _HEADER_BYTES_PER_TOKEN or not known:
        return None
    shape = entry.shape
    return sum(_stored_bytes(tensor, _type_of(tensor, kind, shape)) for tensor in _tensors(entry, shape))


class LayerSizes(NamedTuple):
    """Bytes of a model's tensors, by where they are."""

    layers: tuple[int, ...]
    embeddings: int
    outside: int
    """Matrices outside the layers, without the token embeddings."""
    largest_matrix: int
    """In values, of those in layers."""


def layer_sizes(entry: CatalogueEntry, kind: str) -> LayerSizes | None:
    """Return the sizes of the tensors by layer; None as for `tensor_bytes`."""
    if tensor_bytes(entry, kind) is None or entry.shape is None:
        return None
    shape = entry.shape
    layers = [0] * shape.layers
    embeddings = outside = largest = at = 0
    for tensor in _tensors(entry, shape):
        size = _stored_bytes(tensor, _type_of(tensor, kind, shape))
        if tensor.layer is not None:
            at = tensor.layer
            layers[at] += size
            largest = max(largest, tensor.rows * tensor.columns)
        elif tensor.role == "token_embd":
            embeddings += size
        elif tensor.role == "dense":
            outside += size
        elif largest:  # a layer's norms and biases follow its matrices; the others come before all layers
            layers[at] += size
    return LayerSizes(tuple(layers), embeddings, outside, largest)


def parameters(entry: CatalogueEntry) -> int | None:
    """Return the number of a model's parameters; None without a shape."""
    return sum(tensor.rows * tensor.columns for tensor in _tensors(entry, entry.shape)) if entry.shape else None


def _tokens(entry: CatalogueEntry, shape: Shape) -> int:
    """Return the rows of the token embeddings: a BERT cross-encoder has a second copy, for the document of a pair."""
    twice = entry.task == "rerank" and entry.architecture == "bert" and shape.token_types > 1
    return shape.vocabulary * (2 if twice else 1)


def _tensors(entry: CatalogueEntry, shape: Shape) -> Iterator[_Tensor]:
    """Yield the model's tensors; the role "f32" stands for all that are never quantised."""
    width = shape.width
    yield _Tensor("token_embd", _tokens(entry, shape), width)
    yield _Tensor("f32", 1, _outer_values(entry, shape))
    if shape.projection:
        yield _Tensor("dense", shape.projection, width)
        yield _Tensor("dense", width, shape.projection)
    for layer in range(shape.layers):
        experts = shape.experts if shape.experts and layer % 2 else 1
        for tensor in _layer_matrices(entry.architecture, shape, experts):
            yield tensor._replace(layer=layer)
        yield _Tensor("f32", 1, _layer_values(entry.architecture, shape, experts))


def _layer_matrices(architecture: str, shape: Shape, experts: int) -> Iterator[_Tensor]:
    width, feed_forward = shape.width, stored_feed_forward(architecture, shape.feed_forward)
    queries, keys = _attention_widths(shape)
    if architecture in _JOINT_ATTENTION or shape.joint_attention:
        yield _Tensor("attn_qkv", 3 * width, width)
        yield _Tensor("attn_output", width, width)
    else:
        yield _Tensor("attn_q", queries, width)
        yield _Tensor("attn_k", keys, width)
        yield _Tensor("attn_v", keys, width)
        yield _Tensor("attn_output", width, queries)
    # A gate beside ffn_up; in ModernBERT both are one matrix.
    yield _Tensor("ffn_up", experts * feed_forward * (1 if architecture in _WITHOUT_GATE else 2), width)
    yield _Tensor("ffn_down", experts * width, feed_forward)


def stored_feed_forward(architecture: str, units: int) -> int:
    """Return the units of a feed-forward network in the file: GTE's gets one for its bias, which fills up a block."""
    block = 256 if units % 256 == 0 else 32
    return (units // block + 1) * block if architecture == "gte" else units


def _attention_widths(shape: Shape) -> tuple[int, int]:
    """Return the number of values in a token's queries, and in its keys."""
    head = shape.head_length or shape.width // shape.heads
    return head * shape.heads, head * (shape.kv_heads or shape.heads)


def _layer_values(architecture: str, shape: Shape, experts: int) -> int:
    """Return the number of a layer's norms and biases."""
    width = shape.width
    queries, keys = _attention_widths(shape)
    match architecture:
        case "nomic-bert-moe" if experts > 1:  # two norms with biases; biases of attention; the router
            return 4 * width + 4 * width + experts * width
        # Two norms with biases; biases of attention, ffn_up and ffn_down.
        case "bert" | "mpnet" | "jina-bert-v3" | "nomic-bert-moe":
            return 4 * width + 4 * width + shape.feed_forward + width
        case "jina-bert-v2":  # two norms with biases; biases of attention and ffn_down
            return 4 * width + 4 * width + width
        case "gte":  # two norms with biases; biases of attention
            return 4 * width + 4 * width
        case "nomic-bert":
            return 4 * width
        case "modern-bert" | "eurobert" | "llama":
            return 2 * width
        case "llama-embed" | "qwen2":  # biases of queries, keys and values, which Qwen2 has and Llama has not
            return 2 * width + (queries + 2 * keys if shape.attention_biases else 0)
        case _:  # norms of queries and keys; Gemma also has norms after attention and feed-forward
            norms = 4 if architecture in ("gemma-embedding", "gemma3") else 2
            return norms * width + 2 * (shape.head_length or width // shape.heads)


def _outer_values(entry: CatalogueEntry, shape: Shape) -> int:
    """Return the number of values outside the layers that are never quantised."""
    width, scores = shape.width, entry.task == "rerank"
    match entry.architecture:
        case "mpnet":  # positions, a norm with its bias
            return (entry.context_tokens + 2) * width
        case "bert":  # positions, token types, a norm with its bias; the pooler and the score of a cross-encoder
            return (entry.context_tokens + shape.token_types + 2) * width + (width * width + 2 * width + 1 if scores else 0)
        case "gte" | "nomic-bert" | "nomic-bert-moe" | "jina-bert-v2" | "jina-bert-v3":
            return (shape.token_types + 2) * width
        case "modern-bert":  # the first layer has no norm before attention; a classifier has a dense layer with a norm
            return width + (width * width + 2 * width + 1 if scores else 0)
        case "qwen2":
            return width
        case _:  # the last norm; a reranker's rows for "yes" and "no"
            return width + (2 * width if scores else 0)


def _type_of(tensor: _Tensor, kind: str, shape: Shape) -> str:
    if tensor.role == "f32":
        return "F32"
    chosen = _MIXTURES.get(kind, kind)
    if kind in _RECIPES:
        roles, rest = _RECIPES[kind]
        return next((found for found in roles.get(tensor.role, rest) if _fits(tensor, found)), "F16")
    if kind in _MIXTURES:
        favoured = tensor.role in _FAVOURED and tensor.layer is not None and _has_more_bits(tensor.layer, shape.layers)
        if favoured or tensor.role == "token_embd":
            chosen = _BETTER
        if shape.experts == _SPARED_EXPERTS:
            chosen = _SPARED.get((kind, tensor.role), _SPARED.get(("", tensor.role), chosen))
        if not _fits(tensor, chosen):
            chosen = _FALLBACKS[chosen]
    return chosen if _fits(tensor, chosen) else "F16"


def _fits(tensor: _Tensor, kind: str) -> bool:
    return tensor.columns % BLOCKS[kind][0] == 0


def _has_more_bits(layer: int, layers: int) -> bool:
    """Return whether a mixture has a better type in this layer: the first and last eighth, and every third between."""
    first = layers // 8
    return layer < first or layer >= 7 * layers // 8 or (layer - first) % 3 == 2


def _stored_bytes(tensor: _Tensor, kind: str) -> int:
    values, size = BLOCKS[kind]
    return tensor.rows * tensor.columns // values * size
