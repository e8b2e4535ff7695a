"""ELECTRA embedding models: the discriminator as an encoder.

Architecture: Clark et al., "ELECTRA: Pre-training Text Encoders as Discriminators", 2020: BERT's encoder. The embeddings of
small models are narrower than their layers; llama.cpp's graph lacks the projection between the two. Tensor names: those of
transformers' ElectraModel.
"""

from __future__ import annotations

from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan
from edgeembed_convert.families.bert_encoder import (
    ARCHITECTURE,
    EncoderShape,
    encoder_metadata,
    encoder_tensors,
    plain_name,
    read_shape,
    read_tokenizer,
)
from edgeembed_convert.families.stored import StoredTensors

# ElectraConfig's, if config.json has no value.
_DEFAULT_WIDTH = 128
# Buffers and the heads that the pre-training uses.
_DROPPED = ("embeddings.position_ids", "embeddings.token_type_ids", "discriminator_predictions.", "generator_")


class Electra:
    """The ELECTRA family."""

    architectures = ("ElectraModel", "ElectraForPreTraining")
    model_types = ("electra",)
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate an ELECTRA checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        shape = read_electra(checkpoint)
        pooling = checkpoint.pooling(shape.hidden)
        tokenizer = read_tokenizer(checkpoint, shape.vocabulary)
        stored = StoredTensors(checkpoint, _place, "ELECTRA encoder")
        tensors = list(encoder_tensors(stored, shape))
        stored.check_all_placed()
        return ModelPlan(ARCHITECTURE, shape.hidden, pooling, encoder_metadata(shape, pooling, tokenizer), tensors)


def read_electra(checkpoint: Checkpoint) -> EncoderShape:
    """Return the sizes of an ELECTRA encoder. Raises ConversionError for embeddings narrower than the layers."""
    shape = read_shape(checkpoint)
    width = checkpoint.config.get("embedding_size", _DEFAULT_WIDTH)
    if width != shape.hidden:
        raise ConversionError(
            f"{checkpoint.config_file}: embedding_size = {width!r} is not hidden_size, {shape.hidden}; llama.cpp's BERT "
            "has no projection between embeddings and layers"
        )
    return shape


def _place(name: str) -> str | None:
    plain = plain_name(name.removeprefix("electra."))
    return None if plain.startswith(_DROPPED) else plain
