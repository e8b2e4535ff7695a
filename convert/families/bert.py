"""BERT embedding models: MiniLM, BGE, E5, GTE and similar ones."""

from __future__ import annotations

from edgeembed.errors import ConversionError
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
from edgeembed_convert.late_interaction import STANFORD_CLASS, STANFORD_WEIGHT

# Buffers, the pooler and the prediction heads: an embedding model computes nothing with them.
_DROPPED = ("embeddings.position_ids", "embeddings.token_type_ids", "pooler.", "cls.")


class Bert:
    """The BERT family."""

    architectures = ("BertModel", "BertForMaskedLM", "BertForPreTraining", STANFORD_CLASS)
    model_types = ("bert",)
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a BERT checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        _check_stanford(checkpoint)
        shape = read_shape(checkpoint)
        pooling = checkpoint.pooling(shape.hidden)
        tokenizer = read_tokenizer(checkpoint, shape.vocabulary)
        place = _place_beside_projection if checkpoint.late else _place
        stored = StoredTensors(checkpoint, place, "BERT encoder")
        tensors = list(encoder_tensors(stored, shape))
        stored.check_all_placed()
        return ModelPlan(ARCHITECTURE, shape.hidden, pooling, encoder_metadata(shape, pooling, tokenizer), tensors)


def _check_stanford(checkpoint: Checkpoint) -> None:
    """Raise ConversionError for a model of Stanford's ColBERT that is no BERT: the class has the same name for all."""
    kind = checkpoint.config.get("model_type")
    if checkpoint.config.get("architectures") == [STANFORD_CLASS] and kind != "bert":
        raise ConversionError(
            f"{checkpoint.config_file}: {STANFORD_CLASS} with model_type = {kind!r}; supported is only bert"
        )


def _place(name: str) -> str | None:
    plain = plain_name(name)
    return None if plain.startswith(_DROPPED) else plain


def _place_beside_projection(name: str) -> str | None:
    return None if name == STANFORD_WEIGHT else _place(name)  # see `outputs`
