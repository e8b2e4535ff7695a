"""EuroBERT encoders, and the models made of them, such as jina-embeddings-v5-text-nano.

Architecture: Boizard et al., "EuroBERT: Scaling Multilingual Encoders for European Languages", 2025: the layers of Llama,
with attention in both directions. Tensor names: those of transformers' EuroBertModel, and of the makers' own code.
"""

from __future__ import annotations

from collections.abc import Iterator

from gguf import Keys, PoolingType

from edgeembed.errors import ConversionError
from edgeembed_convert.bpe import read_byte_bpe
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.families.decoder import DecoderShape, plain_layers, plain_name, read_shape
from edgeembed_convert.families.settings import check_fixed, rope_base
from edgeembed_convert.families.stored import StoredTensors
from edgeembed_convert.metadata import Metadata

_ARCHITECTURE = "eurobert"
# The only values that the graph supports. They are also the defaults of transformers' EuroBertConfig.
_FIXED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "is_decoder": False,
}
# The prediction head of masked language models.
_DROPPED = ("lm_head.",)


class EuroBert:
    """The EuroBERT family."""

    architectures = ("EuroBertModel", "EuroBertForMaskedLM")
    model_types = ("eurobert",)
    followed_code = (
        "modeling_eurobert.EuroBertModel",
        "EuroBERT/EuroBERT-210m--modeling_eurobert.EuroBertModel",
        "EuroBERT/EuroBERT-610m--modeling_eurobert.EuroBertModel",
        "EuroBERT/EuroBERT-2.1B--modeling_eurobert.EuroBertModel",
    )

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a EuroBERT checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        return plan_eurobert(checkpoint, checkpoint.pooling(checkpoint.positive_int("hidden_size")))


def plan_eurobert(checkpoint: Checkpoint, pooling: str) -> ModelPlan:
    """Return the plan for a EuroBERT encoder with this pooling. Raises ConversionError."""
    check_fixed(checkpoint, _FIXED, "EuroBERT")
    shape = read_shape(checkpoint, optional=True)
    if shape.heads * shape.head != shape.hidden:
        raise ConversionError(
            f"{checkpoint.config_file}: {shape.heads} heads of {shape.head} values are not hidden_size {shape.hidden}, as "
            "llama.cpp's EuroBERT requires"
        )
    tokenizer = read_byte_bpe(checkpoint.model_folder, checkpoint.config, shape.vocabulary)
    tensors = list(_tensors(checkpoint, shape))
    arch = _ARCHITECTURE
    metadata: Metadata = {
        **shape.metadata(arch),
        Keys.Rope.FREQ_BASE.format(arch=arch): rope_base(checkpoint, "rope_theta", "full_attention"),
        Keys.Rope.SCALING_TYPE.format(arch=arch): "none",
        Keys.Attention.CAUSAL.format(arch=arch): False,
        Keys.LLM.POOLING_TYPE.format(arch=arch): int(PoolingType[pooling.upper()]),
        **tokenizer.metadata(),
    }
    return ModelPlan(arch, shape.hidden, pooling, metadata, tensors)


def _place(name: str) -> str | None:
    plain = plain_name(name)
    return None if plain.startswith(_DROPPED) else plain


def _tensors(checkpoint: Checkpoint, shape: DecoderShape) -> Iterator[PlannedTensor]:
    """Yield the tensors in the order of the computation. Raises ConversionError for missing, misshapen and extra ones."""
    stored = StoredTensors(checkpoint, _place, "EuroBERT encoder")
    yield stored.place("embed_tokens.weight", "token_embd.weight", shape.vocabulary, shape.hidden)
    yield from plain_layers(stored, shape)
    stored.check_all_placed()
