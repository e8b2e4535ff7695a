"""XLM-RoBERTa embedding models: bge-m3, multilingual-e5 and similar ones.

Architecture: Conneau et al., "Unsupervised Cross-lingual Representation Learning at Scale", 2019: BERT's encoder with a
Unigram vocabulary, and with positions counted from pad_token_id + 1 (a convention of fairseq).
"""

from __future__ import annotations

from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan
from edgeembed_convert.families.bert_encoder import (
    ARCHITECTURE,
    EncoderShape,
    encoder_metadata,
    encoder_tensors,
    plain_name,
    read_shape_after_padding,
)
from edgeembed_convert.families.stored import StoredTensors
from edgeembed_convert.unigram import Unigram, read_unigram

# Buffers, the pooler and the prediction head.
_DROPPED = ("embeddings.position_ids", "embeddings.token_type_ids", "pooler.", "lm_head.")


class XlmRoberta:
    """The XLM-RoBERTa family."""

    architectures = ("XLMRobertaModel", "XLMRobertaForMaskedLM")
    model_types = ("xlm-roberta",)
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate an XLM-RoBERTa checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        shape, tokenizer = read_xlm_roberta(checkpoint)
        pooling = checkpoint.pooling(shape.hidden)
        stored = StoredTensors(checkpoint, place_xlm_roberta, "XLM-RoBERTa encoder")
        tensors = list(encoder_tensors(stored, shape))
        stored.check_all_placed()
        return ModelPlan(ARCHITECTURE, shape.hidden, pooling, encoder_metadata(shape, pooling, tokenizer), tensors)


def read_xlm_roberta(checkpoint: Checkpoint) -> tuple[EncoderShape, Unigram]:
    """Return the sizes and the tokenizer of an XLM-RoBERTa encoder. Raises ConversionError."""
    shape = read_shape_after_padding(checkpoint)
    tokenizer = read_unigram(checkpoint.model_folder, shape.vocabulary)
    return shape, tokenizer


def place_xlm_roberta(name: str) -> str | None:
    """Return the plain name of a tensor; None if an encoder does not need it."""
    plain = plain_name(name)
    return None if plain.startswith(_DROPPED) else plain
