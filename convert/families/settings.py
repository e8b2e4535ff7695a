"""Settings in config.json that several families have: fixed values, sizes, rotary positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import Checkpoint


def check_fixed(checkpoint: Checkpoint, fixed: Mapping[str, Any], graph: str) -> None:
    """Raise ConversionError for settings in config.json that llama.cpp's graph does not support."""
    for key, value in fixed.items():
        if checkpoint.config.get(key, value) != value:
            raise ConversionError(
                f"{checkpoint.config_file}: {key} = {checkpoint.config[key]!r}; llama.cpp's {graph} supports only {value!r}"
            )


def read_epsilon(checkpoint: Checkpoint, key: str, default: float) -> float:
    """Return the epsilon of the layer norms. Raises ConversionError."""
    epsilon = checkpoint.config.get(key, default)
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise ConversionError(f"{checkpoint.config_file}: {key} = {epsilon!r}; expected a number between 0 and 1")
    return epsilon


def read_heads(checkpoint: Checkpoint, hidden: int, key: str = "num_attention_heads") -> int:
    """Return the number of attention heads. Raises ConversionError if the hidden size is not a multiple of it."""
    heads = checkpoint.positive_int(key)
    if hidden % heads:
        raise ConversionError(f"{checkpoint.config_file}: hidden_size {hidden} is not a multiple of {key} {heads}")
    return heads


def positive_float(checkpoint: Checkpoint, key: str) -> float:
    """Return a number from config.json. Raises ConversionError if it is missing or not positive."""
    return positive(checkpoint, key, checkpoint.config.get(key))


def positive(checkpoint: Checkpoint, key: str, value: Any) -> float:
    """Return a value of this key of config.json, which must be a positive number. Raises ConversionError."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ConversionError(f"{checkpoint.config_file}: {key} = {value!r}; expected a positive number")
    return float(value)


def rope_base(checkpoint: Checkpoint, old_key: str, layer_type: str) -> float:
    """Return the base of the rotary positions in layers of this type.

    It is in config.json under `old_key`, or since transformers 5 in `rope_parameters`, for all layers or by layer type.
    Raises ConversionError if it is missing, or if positions are scaled.
    """
    if (scaling := rope_scaling(checkpoint, layer_type)) is not None:
        raise ConversionError(f"{checkpoint.config_file}: rope_scaling = {scaling!r} is not supported")
    return unscaled_rope_base(checkpoint, old_key, layer_type)


def unscaled_rope_base(checkpoint: Checkpoint, old_key: str, layer_type: str) -> float:
    """Return what `rope_base` does, for positions that may be scaled."""
    parameters = checkpoint.config.get("rope_parameters")
    if not isinstance(parameters, dict):
        return positive_float(checkpoint, old_key)
    return positive(checkpoint, "rope_theta", parameters.get(layer_type, parameters).get("rope_theta"))


def rope_scaling(checkpoint: Checkpoint, layer_type: str) -> dict[str, Any] | None:
    """Return how the rotary positions of such layers are scaled, with `rope_type`; None if they are not."""
    scaling = checkpoint.config.get("rope_scaling") or checkpoint.config.get("rope_parameters")
    if scaling is None:
        return None
    if not isinstance(scaling, dict):
        raise ConversionError(f"{checkpoint.config_file}: rope_scaling = {scaling!r}; expected an object")
    scaling = scaling.get(layer_type, scaling)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    return None if kind == "default" else {**scaling, "rope_type": kind}
