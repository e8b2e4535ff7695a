"""BERT embedding models: MiniLM, BGE, E5, GTE and similar ones."""

from __future__ import annotations

from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan
from edgeembed_convert.families.bert_encoder import (
    ARCHITECTURE,
    encoder_metadata,
    encoder_tensors,
    plain_name,
    read_shape,
    read_tokenizer,
)
from edgeembed_convert.families.stored import StoredTensors

# Buffers, the pooler and the prediction heads: an embedding model computes nothing with them.
_DROPPED = ("embeddings.position_ids", "embeddings.token_type_ids", "pooler.", "cls.")


class Bert:
    """The BERT family."""

    architectures = ("BertModel", "BertForMaskedLM", "BertForPreTraining")
    model_types = ("bert",)
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a BERT checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        shape = read_shape(checkpoint)
        pooling = checkpoint.pooling(shape.hidden)
        tokenizer = read_tokenizer(checkpoint, shape.vocabulary)
        stored = StoredTensors(checkpoint, _place, "BERT encoder")
        tensors = list(encoder_tensors(stored, shape))
        stored.check_all_placed()
        return ModelPlan(ARCHITECTURE, shape.hidden, pooling, encoder_metadata(shape, pooling, tokenizer), tensors)


def _place(name: str) -> str | None:
    plain = plain_name(name)
    return None if plain.startswith(_DROPPED) else plain
