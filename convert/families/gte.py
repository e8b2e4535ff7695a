"""GTE encoders: gte-base-en-v1.5, gte-large-en-v1.5, gte-multilingual-base, snowflake-arctic-embed-m-v2.0.

Architecture: Zhang et al., "mGTE: Generalized Long-Context Text Representation and Reranking Models for Multilingual Text
Retrieval", 2024: BERT with rotary positions and a gated feed-forward network. The makers' code calls it NewModel,
transformers and Snowflake GteModel. llama.cpp's `nomic-bert` is the same but for two things: its gate has SiLU where GTE has
GELU, which the engine exchanges (`edgeembed/engine/stand_ins.py`), and its feed-forward network adds no bias.

The bias becomes a unit of that network. Its input is a layer norm's output x = weight * n + bias, where the numbers n sum up
to 0, so that the sum of x / weight is always that of bias / weight. A row 1 / weight, divided by that, therefore gives 1 for
every token, in the gate and beside it; and GELU(1) times a column bias / GELU(1) is the bias.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from gguf import Keys, PoolingType

from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.families.settings import check_fixed, read_epsilon, read_heads
from edgeembed_convert.families.stored import StoredTensors
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.quantization import MIXTURE_BLOCK
from edgeembed_convert.tokenizer import WordPiece, read_wordpiece
from edgeembed_convert.tokenizer_json import count_pieces, model_type
from edgeembed_convert.unigram import Unigram, read_unigram
from edgeembed_convert.views import Derived, row_range
from edgeembed_convert.weights import Float32Array, StoredTensor

_ARCHITECTURE, _KEYS = "gte", "nomic-bert"
# The only values that the graph supports. They are also the defaults of the makers' NewConfig.
_FIXED = {
    "hidden_act": "gelu",
    "layer_norm_type": "layer_norm",
    "logn_attention_clip1": False,
    "logn_attention_scale": False,
    "pack_qkv": True,
    "position_embedding_type": "rope",
}
_DEFAULT_EPSILON = 1e-12
_PLAIN_BLOCK = 32
_GELU_OF_1 = 0.5 * (1 + math.erf(math.sqrt(0.5)))
_LEAST_CONSTANT = 1e-3
"""Of the sum of bias / weight, in lengths of the row 1 / weight. Below it, rounding would change the feed-forward's bias."""
# Buffers, the pooler, the prediction head, and the weights of tokens that gte-multilingual-base has beside its vectors.
_DROPPED = ("embeddings.position_ids", "rotary_emb.", "embeddings.rotary_emb.", "pooler.", "lm_head.", "classifier.")


class Gte:
    """The GTE family."""

    architectures = ("NewModel", "NewForMaskedLM", "NewForTokenClassification", "GteModel")
    model_types = ("gte", "new")
    followed_code = (
        "Alibaba-NLP/new-impl--modeling.NewModel",
        "modeling.NewModel",
        "modeling_hf_alibaba_nlp_gte.GteModel",
    )

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a GTE checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        check_fixed(checkpoint, _FIXED, "GTE")
        hidden = checkpoint.positive_int("hidden_size")
        pooling = checkpoint.pooling(hidden)
        tokenizer = _read_tokenizer(checkpoint)
        heads = read_heads(checkpoint, hidden)
        stored = StoredTensors(checkpoint, _place, "GTE encoder")
        types = _token_types(checkpoint)
        feed_forward = _padded(checkpoint)
        tensors = list(_tensors(stored, checkpoint, len(tokenizer.pieces), types, feed_forward))
        stored.check_all_placed()
        arch = _KEYS
        metadata: Metadata = {
            Keys.LLM.BLOCK_COUNT.format(arch=arch): checkpoint.positive_int("num_hidden_layers"),
            Keys.LLM.CONTEXT_LENGTH.format(arch=arch): checkpoint.positive_int("max_position_embeddings"),
            Keys.LLM.EMBEDDING_LENGTH.format(arch=arch): hidden,
            Keys.LLM.FEED_FORWARD_LENGTH.format(arch=arch): feed_forward,
            Keys.LLM.VOCAB_SIZE.format(arch=arch): len(tokenizer.pieces),
            Keys.Attention.HEAD_COUNT.format(arch=arch): heads,
            Keys.Attention.LAYERNORM_EPS.format(arch=arch): read_epsilon(checkpoint, "layer_norm_eps", _DEFAULT_EPSILON),
            Keys.Attention.CAUSAL.format(arch=arch): False,
            **_rotation(checkpoint, hidden // heads),
            Keys.LLM.POOLING_TYPE.format(arch=arch): int(PoolingType[pooling.upper()]),
            # llama.cpp refuses 0, also for a model without the table.
            Keys.Tokenizer.TOKEN_TYPE_COUNT: max(1, types),
            **tokenizer.metadata(),
        }
        return ModelPlan(_ARCHITECTURE, hidden, pooling, metadata, tensors)


# --- sizes and tokenizer ------------------------------------------------------------------------------------------------


def _token_types(checkpoint: Checkpoint) -> int:
    count = checkpoint.config.get("type_vocab_size", 1)
    return 0 if count == 0 and not isinstance(count, bool) else checkpoint.positive_int("type_vocab_size")


def _padded(checkpoint: Checkpoint) -> int:
    """Return the units of the feed-forward network with the one for its bias; the rest are zeros that fill a block."""
    units = checkpoint.positive_int("intermediate_size")
    block = _PLAIN_BLOCK if units % MIXTURE_BLOCK else MIXTURE_BLOCK
    return (units // block + 1) * block


def _read_tokenizer(checkpoint: Checkpoint) -> WordPiece | Unigram:
    folder, rows = checkpoint.model_folder, checkpoint.positive_int("vocab_size")
    pieces = count_pieces(folder, rows)
    if model_type(folder) == "Unigram":
        return read_unigram(folder, pieces)
    return read_wordpiece(folder, pieces, lowercases_input=checkpoint.lowercases_input)


def _rotation(checkpoint: Checkpoint, head: int) -> Metadata:
    """Return the keys of the rotary positions. Raises ConversionError.

    The makers' NTK scaling by a factor f multiplies the base by f, and divides all frequencies by f ** (2 / head).
    """
    file, config = checkpoint.config_file, checkpoint.config
    plain = config.get("rope_parameters")
    plain = plain if isinstance(plain, dict) else {}
    base, scaling = config.get("rope_theta", plain.get("rope_theta")), config.get("rope_scaling")
    if plain.get("rope_type", "default") != "default":
        raise ConversionError(f"{file}: rope_parameters = {plain!r}: only the type default is supported")
    if not _is_positive(base):
        raise ConversionError(f"{file}: rope_theta = {base!r}; expected a positive number")
    if scaling is None:
        return {Keys.Rope.FREQ_BASE.format(arch=_KEYS): float(base)}
    factor = scaling.get("factor") if isinstance(scaling, dict) else None
    if not isinstance(scaling, dict) or scaling.get("type") != "ntk" or scaling.get("mixed_b") or not _is_positive(factor):
        raise ConversionError(f"{file}: rope_scaling = {scaling!r}: only the type ntk with a factor is supported")
    return {
        Keys.Rope.FREQ_BASE.format(arch=_KEYS): float(base) * float(factor),
        Keys.Rope.SCALING_TYPE.format(arch=_KEYS): "linear",
        Keys.Rope.SCALING_FACTOR.format(arch=_KEYS): float(factor) ** (2 / head),
    }


def _is_positive(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


# --- tensors ------------------------------------------------------------------------------------------------------------


def _place(name: str) -> str | None:
    plain = name.removeprefix("new.").removeprefix("gte.")
    return None if plain.startswith(_DROPPED) else plain


def _tensors(
    stored: StoredTensors, checkpoint: Checkpoint, vocabulary: int, types: int, feed_forward: int
) -> Iterator[PlannedTensor]:
    """Yield the tensors in the order of the computation."""
    hidden, units = checkpoint.positive_int("hidden_size"), checkpoint.positive_int("intermediate_size")
    words = stored.take("embeddings.word_embeddings.weight", checkpoint.positive_int("vocab_size"), hidden)
    yield PlannedTensor("token_embd.weight", row_range(words, 0, vocabulary))
    if types:
        yield stored.place("embeddings.token_type_embeddings.weight", "token_types.weight", types, hidden, keep_f32=True)
    for end in ("weight", "bias"):
        yield stored.place(f"embeddings.LayerNorm.{end}", f"token_embd_norm.{end}", hidden)
    for layer in range(checkpoint.positive_int("num_hidden_layers")):
        source, target = f"encoder.layer.{layer}", f"blk.{layer}"
        for name, short, rows in (("qkv_proj", "attn_qkv", 3 * hidden), ("o_proj", "attn_output", hidden)):
            yield stored.place(f"{source}.attention.{name}.weight", f"{target}.{short}.weight", rows, hidden)
            yield stored.place(f"{source}.attention.{name}.bias", f"{target}.{short}.bias", rows)
        norm = [stored.take(f"{source}.attn_ln.{end}", hidden) for end in ("weight", "bias")]
        yield PlannedTensor(f"{target}.attn_output_norm.weight", norm[0])
        yield PlannedTensor(f"{target}.attn_output_norm.bias", norm[1])
        one = _one(*norm)
        both = stored.take(f"{source}.mlp.up_gate_proj.weight", 2 * units, hidden)
        yield PlannedTensor(f"{target}.ffn_up.weight", _WithUnit(row_range(both, 0, units), one, feed_forward))
        yield PlannedTensor(f"{target}.ffn_gate.weight", _WithUnit(row_range(both, units, 2 * units), one, feed_forward))
        down = stored.take(f"{source}.mlp.down_proj.weight", hidden, units)
        bias = stored.take(f"{source}.mlp.down_proj.bias", hidden)
        yield PlannedTensor(f"{target}.ffn_down.weight", _WithBiasColumn(down, bias, feed_forward))
        for end in ("weight", "bias"):
            yield stored.place(f"{source}.mlp_ln.{end}", f"{target}.layer_output_norm.{end}", hidden)


def _one(weight: StoredTensor, bias: StoredTensor) -> Float32Array:
    """Return the row, shape (hidden,), whose product with every output of a layer norm is 1. Raises ConversionError."""
    scale, shift = (tensor.values().astype(np.float64) for tensor in (weight, bias))
    with np.errstate(divide="ignore", invalid="ignore"):
        row = 1 / scale
        total = float((shift * row).sum())
        close = not abs(total) >= _LEAST_CONSTANT * float(np.linalg.norm(row))
    if close or not np.isfinite(row).all():
        raise ConversionError(
            f"{weight.file}: no number is the same in all outputs of {weight.name}, so that llama.cpp's graph, which has no "
            "bias in the feed-forward network, cannot express that of this model"
        )
    one: Float32Array = (row / total).astype(np.float32)
    return one


@dataclass(frozen=True)
class _WithUnit(Derived):
    """A matrix with one more row, and rows of zeros up to `total`."""

    row: Float32Array
    total: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.total, self.source.shape[1])

    def rows(self) -> Iterator[Float32Array]:
        yield from self.source.rows()
        rest = np.zeros((self.total - self.source.shape[0], self.source.shape[1]), dtype=np.float32)
        rest[0] = self.row
        yield rest


@dataclass(frozen=True)
class _WithBiasColumn(Derived):
    """A matrix with a column that adds the bias if its unit is GELU(1), and columns of zeros up to `total`."""

    bias: StoredTensor
    total: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.source.shape[0], self.total)

    def rows(self) -> Iterator[Float32Array]:
        column = self.bias.values() / np.float32(_GELU_OF_1)
        at = 0
        for rows in self.source.rows():
            wide = np.zeros((len(rows), self.total), dtype=np.float32)
            wide[:, : rows.shape[1]] = rows
            wide[:, rows.shape[1]] = column[at : at + len(rows)]
            at += len(rows)
            yield wide
