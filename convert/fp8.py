"""Weights in 8-bit floating point, as transformers and compressed-tensors store them: numbers, and scales of their blocks.

`config.json` says how under `quantization_config`. The stored numbers are multiplied by their scales, as these formats
define it. Scales of activations are not used: here activations are not rounded. Other formats are refused by name.
Formats: transformers' FineGrainedFP8Config ("fp8"), compressed-tensors' `config_groups`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeembed.errors import ConversionError
from edgeembed_convert.tensors import ScaledTensor, StoredTensor
from edgeembed_convert.weights import Weights

_KEYS = ("quantization_config", "compression_config")
_FLOAT8 = ("F8_E4M3", "F8_E5M2")
_SCALES = ("_scale_inv", "_scale")
"""After the name of a weight. In spite of its name, the first is a factor, too."""
# Of activations and of the cache of keys and values.
_UNUSED = (".input_scale", ".output_scale", ".activation_scale", ".q_scale", ".k_scale", ".v_scale", ".input_scale_inv")
_COMPRESSED = ("float-quantized", "naive-quantized")
_STRATEGIES = ("tensor", "channel", "block")


def is_quantized(config: dict[str, Any]) -> bool:
    """Return whether config.json says that the weights are quantised."""
    return any(config.get(key) for key in _KEYS)


def check_quantization(config: dict[str, Any], file: Path) -> None:
    """Raise ConversionError for weights in a format that is not read."""
    for key in _KEYS:
        found = config.get(key)
        if found and (reason := _reason(found)):
            raise ConversionError(
                f"{file}: {key}: the weights are already quantised, {reason}. Of such formats, only fp8 can be read. "
                "Convert the model's original weights (F32, F16 or BF16)"
            )


def dequantized(weights: Weights, config: dict[str, Any], file: Path) -> Weights:
    """Return the weights with fp8 tensors in place of their numbers and scales.

    file: that of `config`. Raises ConversionError for a tensor without the scale that belongs to it.
    """
    if not is_quantized(config):
        return weights
    tensors = weights.tensors
    found: dict[str, StoredTensor] = {}
    used = set()
    for name, tensor in tensors.items():
        if tensor.dtype in _FLOAT8:
            scales = [f"{name}{end}" for end in _SCALES if f"{name}{end}" in tensors]
            if len(scales) != 1:
                raise ConversionError(
                    f"{tensor.file}: tensor {name} is in fp8, with {' and '.join(scales) or 'no scale'}; expected one of "
                    f"{', '.join(name + end for end in _SCALES)}"
                )
            used.add(scales[0])
            tensor = _scaled(tensor, tensors[scales[0]], _block_size(config), file)
        found[name] = tensor
    return Weights(
        weights.files,
        {name: tensor for name, tensor in found.items() if name not in used and not name.endswith(_UNUSED)},
    )


def _reason(found: Any) -> str:
    """Return what is not read of a format; empty for fp8."""
    if not isinstance(found, dict):
        return f"as {found!r}"
    method = found.get("quant_method")
    if method in ("fp8", "fbgemm_fp8"):
        return ""
    if method != "compressed-tensors":
        return f"with quant_method = {method!r}"
    if found.get("format") not in _COMPRESSED:
        return f"by compressed-tensors as {found.get('format')!r}"
    for key in ("sparsity_config", "transform_config"):
        if found.get(key) and _object(found[key]).get("format") != "dense":
            return f"by compressed-tensors with {key}"
    for weights in _groups(found):
        kind = (weights.get("type"), weights.get("num_bits"), weights.get("strategy"), weights.get("symmetric", True))
        if kind[:2] != ("float", 8) or kind[2] not in _STRATEGIES or kind[3] is not True:
            return f"by compressed-tensors with weights of the kind {kind!r}"
    return ""


def _groups(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for group in _object(found.get("config_groups")).values():
        yield _object(_object(group).get("weights"))


def _block_size(config: dict[str, Any]) -> tuple[int, int] | None:
    """Return the rows and columns of a block; None if config.json has none."""
    for key in _KEYS:
        found = _object(config.get(key))
        sizes = [found.get("weight_block_size"), *(group.get("block_structure") for group in _groups(found))]
        for size in sizes:
            if isinstance(size, list) and len(size) == 2 and all(type(part) is int and part > 0 for part in size):
                return size[0], size[1]
    return None


def _scaled(tensor: StoredTensor, scale: StoredTensor, block: tuple[int, int] | None, file: Path) -> StoredTensor:
    """Return the tensor with its scale: one for all of it, one for each row, or one for each block."""
    if len(tensor.shape) != 2 or not tensor.size:
        raise ConversionError(
            f"{tensor.file}: tensor {tensor.name} of the shape {list(tensor.shape)} is in fp8; expected 2-D"
        )
    rows, columns = tensor.shape
    shape: tuple[int, ...] = ()
    if scale.size == 1:
        shape, block = (1, 1), (rows, columns)
    elif scale.shape in ((rows,), (rows, 1)):
        shape, block = (rows, 1), (1, columns)
    elif block is not None and scale.shape == (-(-rows // block[0]), -(-columns // block[1])):
        shape = scale.shape
    if block is None or not shape:
        raise ConversionError(
            f"{scale.file}: tensor {scale.name} has the shape {list(scale.shape)}, which does not fit {tensor.name} of the "
            f"shape {list(tensor.shape)} and the blocks in {file.name}, {block or 'none'}"
        )
    located = StoredTensor(scale.name, scale.file, scale.dtype, shape, scale.offset)
    return ScaledTensor(tensor.name, tensor.file, tensor.dtype, tensor.shape, tensor.offset, located, block)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
