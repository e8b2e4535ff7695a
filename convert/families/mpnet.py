"""MPNet embedding models: all-mpnet-base-v2, multi-qa-mpnet-base-dot-v1 and similar ones.

Architecture: Song et al., "MPNet: Masked and Permuted Pre-training for Language Understanding", 2020: BERT's encoder without
token types, with positions counted from pad_token_id + 1, and with T5's relative position bias (Raffel et al., "Exploring
the Limits of Transfer Learning with a Unified Text-to-Text Transformer", 2019), one table for all layers. llama.cpp has no
such architecture: the engine has it compute `bert`, and adds the bias (`edgeembed/engine/stand_ins.py`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeembed.engine.float_strings import encode_floats
from edgeembed.engine.stand_ins import SCORE_BIAS_KEY
from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.families.bert_encoder import (
    encoder_metadata,
    encoder_tensors,
    plain_name,
    read_shape_after_padding,
)
from edgeembed_convert.families.settings import check_fixed
from edgeembed_convert.families.stored import StoredTensors
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.tokenizer import WordPiece, read_wordpiece

MPNET = "mpnet"
_FARTHEST = 128
"""Beyond this distance all tokens have one bucket (transformers' MPNetEncoder.compute_position_bias)."""
_DEFAULT_BUCKETS = 32
_TABLE = "encoder.relative_attention_bias.weight"
_LAYER_PARTS = {
    "attention.attn.q": "attn_q",
    "attention.attn.k": "attn_k",
    "attention.attn.v": "attn_v",
    "attention.attn.o": "attn_output",
    "attention.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
# A buffer, the pooler, and the prediction head of masked language models.
_DROPPED = ("embeddings.position_ids", "pooler.", "lm_head.")


class MPNet:
    """The MPNet family."""

    architectures = ("MPNetModel", "MPNetForMaskedLM")
    model_types = ("mpnet",)
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate an MPNet checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        stored = StoredTensors(checkpoint, place_mpnet, "MPNet encoder")
        pooling = checkpoint.pooling(checkpoint.positive_int("hidden_size"))
        parts = read_mpnet(checkpoint, stored, pooling)
        stored.check_all_placed()
        return ModelPlan(MPNET, parts.hidden, pooling, parts.metadata, parts.tensors)


class MPNetParts(NamedTuple):
    """What a GGUF file of MPNet consists of."""

    hidden: int
    metadata: Metadata
    tensors: list[PlannedTensor]
    tokenizer: WordPiece


def read_mpnet(checkpoint: Checkpoint, stored: StoredTensors, pooling: str) -> MPNetParts:
    """Return the parts of the GGUF file of an MPNet checkpoint. Raises ConversionError."""
    check_fixed(checkpoint, {"type_vocab_size": 0}, "BERT, as it computes MPNet,")
    shape = read_shape_after_padding(checkpoint, token_types=0)
    tokenizer = read_wordpiece(checkpoint.model_folder, shape.vocabulary, lowercases_input=checkpoint.lowercases_input)
    buckets = checkpoint.positive_int("relative_attention_num_buckets", _DEFAULT_BUCKETS)
    if buckets < 4 or buckets % 2 or buckets // 4 >= _FARTHEST:
        raise ConversionError(
            f"{checkpoint.config_file}: relative_attention_num_buckets = {buckets}; expected an even number from 4 to"
            f" {4 * _FARTHEST - 2}"
        )
    table = stored.take(_TABLE, buckets, shape.heads).values()
    metadata = encoder_metadata(shape, pooling, tokenizer)
    metadata[SCORE_BIAS_KEY] = encode_floats(_by_distance(table))
    return MPNetParts(shape.hidden, metadata, list(encoder_tensors(stored, shape, parts=_LAYER_PARTS)), tokenizer)


def place_mpnet(name: str) -> str | None:
    """Return the name in MPNetModel; None for what vectors and classes do not need."""
    plain = plain_name(name.removeprefix("mpnet."))
    return None if plain.startswith(_DROPPED) else plain


def _by_distance(table: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the bias by distance, shape (heads, 2 * _FARTHEST + 1), of a table by bucket, shape (buckets, heads)."""
    bias: npt.NDArray[np.float32] = table[_buckets(len(table))].T
    return bias


def _buckets(count: int) -> npt.NDArray[np.int64]:
    """Return the bucket of each distance: one per token nearby, then ever wider ones; half of them for keys ahead.

    In float32, as torch computes it: the edge of a bucket can be a power of two.
    """
    distances = np.arange(-_FARTHEST, _FARTHEST + 1)
    one_side = count // 2
    exact = one_side // 2
    away = np.abs(distances)
    with np.errstate(divide="ignore"):
        ratio = np.log(away.astype(np.float32) / np.float32(exact)) / np.float32(math.log(_FARTHEST / exact))
        steps = ratio * np.float32(one_side - exact)
    wide = np.minimum(exact + np.where(away < exact, 0, steps).astype(np.int64), one_side - 1)
    buckets: npt.NDArray[np.int64] = np.where(away < exact, away, wide) + one_side * (distances > 0)
    return buckets
