"""DistilBERT embedding models: multi-qa-distilbert, msmarco-distilbert and similar ones.

Architecture: Sanh et al., "DistilBERT, a distilled version of BERT", 2019: BERT's encoder without token types and pooler,
with names of its own in config.json and in the weights (transformers' DistilBertModel).
"""

from __future__ import annotations

from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan
from edgeembed_convert.families.bert_encoder import (
    ARCHITECTURE,
    EncoderShape,
    encoder_metadata,
    encoder_tensors,
    read_tokenizer,
)
from edgeembed_convert.families.settings import check_fixed, read_heads
from edgeembed_convert.families.stored import StoredTensors

# The only values that the graph supports. They are also the defaults of transformers' DistilBertConfig.
_FIXED = {"activation": "gelu"}
# Not in config.json: transformers' class has it in its code.
_EPSILON = 1e-12
LAYER_PARTS = {
    "attention.q_lin": "attn_q",
    "attention.k_lin": "attn_k",
    "attention.v_lin": "attn_v",
    "attention.out_lin": "attn_output",
    "sa_layer_norm": "attn_output_norm",
    "ffn.lin1": "ffn_up",
    "ffn.lin2": "ffn_down",
    "output_layer_norm": "layer_output_norm",
}
"""Part of a layer in DistilBertModel -> in the GGUF file."""
# A buffer, and the prediction head of masked language models.
_DROPPED = ("embeddings.position_ids", "vocab_transform.", "vocab_layer_norm.", "vocab_projector.")


class DistilBert:
    """The DistilBERT family."""

    architectures = ("DistilBertModel", "DistilBertForMaskedLM")
    model_types = ("distilbert",)
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a DistilBERT checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        shape = read_distil_bert(checkpoint)
        pooling = checkpoint.pooling(shape.hidden)
        tokenizer = read_tokenizer(checkpoint, shape.vocabulary)
        stored = StoredTensors(checkpoint, _place, "DistilBERT encoder")
        tensors = list(encoder_tensors(stored, shape, layers="transformer.layer", parts=LAYER_PARTS))
        stored.check_all_placed()
        return ModelPlan(ARCHITECTURE, shape.hidden, pooling, encoder_metadata(shape, pooling, tokenizer), tensors)


def read_distil_bert(checkpoint: Checkpoint) -> EncoderShape:
    """Return the sizes in config.json, under DistilBERT's names. Raises ConversionError."""
    check_fixed(checkpoint, _FIXED, "BERT")
    hidden = checkpoint.positive_int("dim")
    return EncoderShape(
        hidden=hidden,
        heads=read_heads(checkpoint, hidden, "n_heads"),
        layers=checkpoint.positive_int("n_layers"),
        feed_forward=checkpoint.positive_int("hidden_dim"),
        vocabulary=checkpoint.positive_int("vocab_size"),
        positions=checkpoint.positive_int("max_position_embeddings"),
        first_position=0,
        token_types=0,
        epsilon=_EPSILON,
    )


def _place(name: str) -> str | None:
    plain = name.removeprefix("distilbert.")
    return None if plain.startswith(_DROPPED) else plain
