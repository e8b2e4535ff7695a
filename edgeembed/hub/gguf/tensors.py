"""Checks of the tensors in a GGUF file: their offsets, types and shapes.

Formats: the GGUF specification; block sizes of the quantisation types from ggml.h and ggml-common.h. llama.cpp itself
compares shapes with the metadata, for all architectures, and refuses cleanly (`tests/hub/gguf/test_mutants.py`); what it
does not verify is checked here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeembed.hub.gguf.file import GgufHead, MalformedError, TensorInfo

ALIGNMENT_KEY = "general.alignment"
_DEFAULT_ALIGNMENT = 32
_MOST_ALIGNMENT = 65_536
F32 = 0

# ggml's number of a type: its name, values in a block, bytes of a block. ggml's other types support neither row lookup nor
# multiplication in llama.cpp: integers, F64, and two for intermediate results (Q8_1, Q8_K).
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip
BLOCKS = {name: (values, size) for name, values, size in TYPES.values()}
"""Values in a block and its bytes, by the name of the type."""
_REMOVED = {4, 5, 31, 32, 33, 36, 37, 38}

# Tensors that llama.cpp adds to, multiplies with or folds over activations must be F32 like these: its kernels abort
# otherwise.
_F32_SUFFIXES = (".bias", ".scale", ".input_scale")
_F32_PARTS = ("norm", "token_types", "shortconv.conv")


_MOST_TOKENS = 4096
"""Tokens of the vocabulary per number of an embedding: a decoder computes a number for each token, at each position."""


@dataclass(frozen=True)
class Attention:
    """Sizes of the attention heads, the same in all layers."""

    heads: int
    kv_heads: int
    head: int
    """Length of a head's query, key and value."""


class UnfitError(ValueError):
    """The file is complete but not safe for llama.cpp; the message names the key or tensor."""


def check_layout(head: GgufHead, tensors: Sequence[TensorInfo], end: int, size: int) -> None:
    """Check that the tensors are contiguous and aligned, from the first alignment after `end` on, within `size` bytes.

    Raises MalformedError.
    """
    alignment = head.values.get(ALIGNMENT_KEY, _DEFAULT_ALIGNMENT)
    if (
        not isinstance(alignment, int)
        # ggml requires weights that it uses in place at multiples of 32 bytes, whatever the file states.
        or not _DEFAULT_ALIGNMENT <= alignment <= _MOST_ALIGNMENT
        or alignment & (alignment - 1)
    ):
        raise MalformedError(
            f"key {ALIGNMENT_KEY!r} is {alignment!r}, expected a power of two from {_DEFAULT_ALIGNMENT} to {_MOST_ALIGNMENT}"
        )
    if not tensors:
        raise MalformedError("the file has no tensors")
    data = _aligned(end, alignment)
    expected = 0
    for tensor in tensors:
        where = f"tensor {tensor.name!r}"
        if tensor.offset % alignment:
            raise MalformedError(f"{where} is at offset {tensor.offset}, not a multiple of {alignment}")
        if tensor.offset != expected:
            how = "overlaps the tensor before" if tensor.offset < expected else "leaves a gap after the tensor before"
            raise MalformedError(f"{where} is at offset {tensor.offset} instead of {expected}: it {how}")
        last = data + expected + tensor_bytes(tensor)
        if last > size:
            raise MalformedError(f"{where} ends at byte {last}, but the file has {size}")
        expected = _aligned(expected + tensor_bytes(tensor), alignment)


def alignment_of(head: GgufHead) -> int:
    """Return the alignment of the tensors' data; the default for a value that `check_layout` refuses."""
    alignment = head.values.get(ALIGNMENT_KEY, _DEFAULT_ALIGNMENT)
    return alignment if isinstance(alignment, int) and alignment > 0 else _DEFAULT_ALIGNMENT


def tensor_starts(head: GgufHead, tensors: Sequence[TensorInfo], end: int) -> dict[str, int]:
    """Return where the data of each tensor begins in the file. end: of the tensors' descriptions."""
    data = _aligned(end, alignment_of(head))
    return {tensor.name: data + tensor.offset for tensor in tensors}


def check_kinds(tensors: Mapping[str, TensorInfo]) -> None:
    """Check that each tensor has a type that llama.cpp's kernels accept for it. Raises UnfitError."""
    for tensor in tensors.values():
        plain = (
            len(tensor.shape) == 1 or tensor.name.endswith(_F32_SUFFIXES) or any(part in tensor.name for part in _F32_PARTS)
        )
        if plain and tensor.kind != F32:
            raise UnfitError(f"tensor {tensor.name!r} is {TYPES[tensor.kind][0]}; llama.cpp requires F32")


def check_vocabulary_size(vocabulary: int, width: int) -> None:
    """Check that the logits of a position take memory in proportion to the file. Raises UnfitError."""
    if vocabulary > _MOST_TOKENS * width:
        raise UnfitError(f"key 'tokenizer.ggml.tokens' has {vocabulary} tokens for embeddings of {width} numbers")


def check_fused_attention(tensors: Mapping[str, TensorInfo], layers: int, attention: Attention) -> None:
    """Check that fused matrices of queries, keys and values fit the number of heads. Raises UnfitError.

    Some of llama.cpp's architectures split them by the number of heads but take their shape from elsewhere: they would
    compute with the wrong parts.
    """
    rows = (attention.heads + 2 * attention.kv_heads) * attention.head
    for layer in range(layers):
        name = f"blk.{layer}.attn_qkv.weight"
        tensor = tensors.get(name)
        if tensor is not None and tensor.shape[1:] != (rows,):
            raise UnfitError(f"tensor {name!r} has the shape {tensor.shape}; the metadata requires {rows} on axis 1")


def check_dense(tensors: Mapping[str, TensorInfo]) -> None:
    """Check that the dense layers after the pooling are complete: with one alone, rows have another length than is read.

    Raises UnfitError.
    """
    found = [name for name in ("dense_2.weight", "dense_3.weight") if name in tensors]
    if len(found) == 1:
        raise UnfitError(f"there is a tensor {found[0]!r}, but not both 'dense_2.weight' and 'dense_3.weight'")


def check_distances(tensors: Mapping[str, TensorInfo]) -> None:
    """Check that the first layer has the table of biases by distance, which llama.cpp uses without looking for it.

    Raises UnfitError.
    """
    if (name := "enc.blk.0.attn_rel_b.weight") not in tensors:
        raise UnfitError(f"there is no tensor {name!r}, which this architecture requires")


def check_scores(tensors: Mapping[str, TensorInfo], labels: int) -> None:
    """Check that a reranker's last layer computes `labels` numbers, which is how many are read. Raises UnfitError."""
    name = "cls.output.weight" if "cls.output.weight" in tensors else "cls.weight"
    if name not in tensors:
        raise UnfitError("the reranker has no tensor 'cls.output.weight' or 'cls.weight'")
    shape = tensors[name].shape
    if (shape[1] if len(shape) > 1 else 1) != labels:
        raise UnfitError(f"tensor {name!r} has the shape {shape}; the metadata requires {labels} on axis 1")


def tensor_bytes(tensor: TensorInfo) -> int:
    """Return the size of a tensor's data in bytes. Raises MalformedError for an impossible shape or type."""
    where = f"tensor {tensor.name!r}"
    if tensor.kind not in TYPES:
        what = "a type that ggml has removed" if tensor.kind in _REMOVED else "an unsupported type"
        raise MalformedError(f"{where} has {what}: {tensor.kind}")
    name, values, size = TYPES[tensor.kind]
    if 0 in tensor.shape:
        raise MalformedError(f"{where} is empty: its shape is {tensor.shape}")
    if tensor.shape[0] % values:
        raise MalformedError(
            f"{where} has rows of {tensor.shape[0]} numbers, not a multiple of {values}, the block size of {name}"
        )
    # Python integers do not overflow: a product beyond 64 bits is larger than any file.
    return math.prod(tensor.shape) // values * size


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
