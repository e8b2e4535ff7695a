"""What the decoder families have in common: sizes from config.json and the tensors of a layer.

Tensor names: in the checkpoint those of transformers' Qwen3Model and Gemma3TextModel, in the GGUF file llama.cpp's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gguf import Keys

from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import PlannedTensor
from edgeembed_convert.families.stored import StoredTensors
from edgeembed_convert.metadata import Metadata


@dataclass(frozen=True)
class DecoderShape:
    """The sizes of a decoder with grouped-query attention."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    """Values of one head; heads * head need not be `hidden`."""
    feed_forward: int
    vocabulary: int
    context: int
    epsilon: float

    def metadata(self, arch: str) -> Metadata:
        """Give the `{arch}.*` keys that say these sizes."""
        return {
            Keys.LLM.BLOCK_COUNT.format(arch=arch): self.layers,
            Keys.LLM.CONTEXT_LENGTH.format(arch=arch): self.context,
            Keys.LLM.EMBEDDING_LENGTH.format(arch=arch): self.hidden,
            Keys.LLM.FEED_FORWARD_LENGTH.format(arch=arch): self.feed_forward,
            Keys.LLM.VOCAB_SIZE.format(arch=arch): self.vocabulary,
            Keys.Attention.HEAD_COUNT.format(arch=arch): self.heads,
            Keys.Attention.HEAD_COUNT_KV.format(arch=arch): self.kv_heads,
            Keys.Attention.KEY_LENGTH.format(arch=arch): self.head,
            Keys.Attention.VALUE_LENGTH.format(arch=arch): self.head,
            Keys.Attention.LAYERNORM_RMS_EPS.format(arch=arch): self.epsilon,
        }


def read_shape(checkpoint: Checkpoint) -> DecoderShape:
    """Read the sizes from config.json. Raises ConversionError for missing or impossible ones."""
    heads, kv_heads = checkpoint.positive_int("num_attention_heads"), checkpoint.positive_int("num_key_value_heads")
    if heads % kv_heads:
        raise ConversionError(
            f"{checkpoint.config_file}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}"
        )
    return DecoderShape(
        layers=checkpoint.positive_int("num_hidden_layers"),
        hidden=checkpoint.positive_int("hidden_size"),
        heads=heads,
        kv_heads=kv_heads,
        head=checkpoint.positive_int("head_dim"),
        feed_forward=checkpoint.positive_int("intermediate_size"),
        vocabulary=checkpoint.positive_int("vocab_size"),
        context=checkpoint.positive_int("max_position_embeddings"),
        epsilon=positive_float(checkpoint, "rms_norm_eps"),
    )


def require_config(checkpoint: Checkpoint, wanted: Mapping[str, Any]) -> None:
    """Check the settings that llama.cpp's graph has built in; one that config.json leaves out counts as wanted.

    Raises ConversionError.
    """
    for key, value in wanted.items():
        if checkpoint.config.get(key, value) != value:
            raise ConversionError(
                f"{checkpoint.config_file}: {key} = {checkpoint.config[key]!r}; llama.cpp computes only {value!r}"
            )


def positive_float(checkpoint: Checkpoint, key: str) -> float:
    """Give a number from config.json. Raises ConversionError when it is missing or not positive."""
    return _positive(checkpoint, key, checkpoint.config.get(key))


def rope_base(checkpoint: Checkpoint, old_key: str, layer_type: str) -> float:
    """Give the base of the rotary positions of layers of this type.

    config.json says it under `old_key`, or since transformers 5 in `rope_parameters`, for all layers or by their type.
    Raises ConversionError when it does not, or asks for a scaling of positions.
    """
    if checkpoint.config.get("rope_scaling") is not None:
        raise ConversionError(
            f"{checkpoint.config_file}: rope_scaling = {checkpoint.config['rope_scaling']!r} cannot be converted"
        )
    parameters = checkpoint.config.get("rope_parameters")
    if not isinstance(parameters, dict):
        return positive_float(checkpoint, old_key)
    parameters = parameters.get(layer_type, parameters)
    if parameters.get("rope_type", "default") != "default":
        raise ConversionError(
            f"{checkpoint.config_file}: rope_parameters = {parameters!r}: scaled positions cannot be converted"
        )
    return _positive(checkpoint, "rope_theta", parameters.get("rope_theta"))


def _positive(checkpoint: Checkpoint, key: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ConversionError(f"{checkpoint.config_file}: {key} = {value!r} is not a positive number")
    return float(value)


def plain_name(name: str) -> str:
    """Give a tensor's name in the bare model: one saved with its head has `model.` in front."""
    return name.removeprefix("model.")


def layer_projections(stored: StoredTensors, shape: DecoderShape, layer: int) -> Iterator[PlannedTensor]:
    """Yield the projections of a layer, without its norms."""
    query, key_value = shape.heads * shape.head, shape.kv_heads * shape.head
    parts = {
        "self_attn.q_proj": ("attn_q", (query, shape.hidden)),
        "self_attn.k_proj": ("attn_k", (key_value, shape.hidden)),
        "self_attn.v_proj": ("attn_v", (key_value, shape.hidden)),
        "self_attn.o_proj": ("attn_output", (shape.hidden, query)),
        "mlp.gate_proj": ("ffn_gate", (shape.feed_forward, shape.hidden)),
        "mlp.up_proj": ("ffn_up", (shape.feed_forward, shape.hidden)),
        "mlp.down_proj": ("ffn_down", (shape.hidden, shape.feed_forward)),
    }
    for part, (short, sizes) in parts.items():
        yield stored.place(f"layers.{layer}.{part}.weight", f"blk.{layer}.{short}.weight", *sizes)
