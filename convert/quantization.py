"""The types that the converter writes, and the alternatives for tensors that do not fit a type.

The `gguf` package does the arithmetic; it is bit-identical with ggml's reference quantisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from gguf.quants import quantize

from edgeembed.errors import ConversionError
from edgeembed_convert.recipes import RECIPES

_FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
    "Q6_K": LlamaFileType.MOSTLY_Q6_K,
    "Q5_K_M": LlamaFileType.MOSTLY_Q5_K_M,
    "Q5_1": LlamaFileType.MOSTLY_Q5_1,
    "Q5_0": LlamaFileType.MOSTLY_Q5_0,
    "Q4_K_M": LlamaFileType.MOSTLY_Q4_K_M,
    "Q4_1": LlamaFileType.MOSTLY_Q4_1,
    "Q4_0": LlamaFileType.MOSTLY_Q4_0,
    "IQ4_XS": LlamaFileType.MOSTLY_IQ4_XS,
}

QUANTIZATIONS: tuple[str, ...] = (*_FILE_TYPES, *RECIPES)
"""Names of the types that `convert_checkpoint` accepts, largest files first, then our own."""

MIXTURES = {
    "Q6_K": frozenset({"Q6_K"}),
    "Q5_K_M": frozenset({"Q5_K", "Q6_K"}),
    "Q4_K_M": frozenset({"Q4_K", "Q5_K", "Q6_K"}),
    "IQ4_XS": frozenset({"IQ4_XS", "Q4_K", "Q5_K", "Q6_K"}),
}
"""Types that only llama.cpp's quantiser writes, with the tensor types that count as each."""
MIXTURE_BITS = 7
"""Upper estimate of the bits per value of a mixture, fallbacks to Q8_0 aside; for the estimate of disk space."""
MIXTURE_BLOCK = 256
"""Values per block; llama.cpp stores tensors whose rows are not a multiple of it in another type."""

WEIGHED = frozenset(
    {"Q5_1", "Q5_0", "Q4_1", "Q4_0", *MIXTURES} | {name for name, recipe in RECIPES.items() if recipe.weighed}
)
"""Types whose quantisers use the importance of columns."""

FALLBACK = "F16"
"""Type of tensors whose rows are not a multiple of the block of the requested type."""

_HALF_MAX = 65504.0  # largest finite F16; quantised blocks have F16 scales


def parse_quantization(name: str) -> str:
    """Return the canonical name of a type. Raises ConversionError that lists the known types."""
    if name.upper() not in QUANTIZATIONS:
        raise ConversionError(f"unknown type {name!r}; known types: {', '.join(QUANTIZATIONS)}")
    return name.upper()


def file_type(name: str) -> int:
    """Return `general.file_type` of a file that has mostly this type (llama.h, llama_ftype)."""
    return int(RECIPES[name].file_type if name in RECIPES else _FILE_TYPES[name])


def kinds_of(name: str) -> frozenset[str]:
    """Return the types of tensors that count as this type."""
    if name in RECIPES:
        return RECIPES[name].kinds
    return MIXTURES.get(name, frozenset({name}))


def block_of(name: str) -> int:
    """Return the number of values of which rows have to be a multiple."""
    return MIXTURE_BLOCK if name in MIXTURES else min(map(block_values, kinds_of(name)))


def file_type_of_tensors(name: str) -> int:
    """Return `general.file_type` of a file whose values have mostly this ggml type, such as Q5_0 or IQ4_NL."""
    return int(LlamaFileType[f"MOSTLY_{name}"])


def ggml_type(name: str) -> GGMLQuantizationType:
    """Return ggml's number of a type."""
    return GGMLQuantizationType[name]


def block_values(name: str) -> int:
    """Return the number of values per block; the row length must be a multiple of it."""
    return int(GGML_QUANT_SIZES[GGMLQuantizationType[name]][0])


def stored_bytes(shape: Sequence[int], name: str) -> int:
    """Return the size of a tensor in bytes; its last dimension must be a multiple of the block."""
    values, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    total = 1
    for length in shape:
        total *= length
    return total // int(values) * int(size)


def choose_type(name: str, shape: Sequence[int], wanted: str, *, keep_f32: bool) -> str:
    """Return the type for a tensor: F32 if it is 1-D or `keep_f32`, else `wanted` if its rows fit, else FALLBACK."""
    if keep_f32 or len(shape) < 2:
        return "F32"
    if wanted in RECIPES:
        return RECIPES[wanted].type_of(name, shape[-1])
    return wanted if shape[-1] % block_values(wanted) == 0 else FALLBACK


def encode(rows: npt.NDArray[np.float32], name: str) -> npt.NDArray[Any]:
    """Return float32 rows of shape (rows, length) encoded as this type.

    Raises ConversionError for values that would become infinite.
    """
    if name not in {"F32", "BF16"} and float(np.abs(rows).max(initial=0.0)) > _HALF_MAX:
        raise ConversionError(f"a value exceeds {_HALF_MAX:.0f}, the limit of {name}; choose F32 or BF16")
    encoded: npt.NDArray[Any] = quantize(np.ascontiguousarray(rows), ggml_type(name))
    return encoded
