"""T5 encoders: sentence-t5, gtr-t5.

Architecture: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", 2020: RMS
norms before each part, no biases, and a bias of attention by distance instead of positions, which the first layer has for
all. sentence-transformers uses the encoder alone. Tensor names: those of transformers' T5EncoderModel in the checkpoint,
llama.cpp's for `t5encoder` in the GGUF file.
"""

from __future__ import annotations

from collections.abc import Iterator

from gguf import Keys, PoolingType

from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.families.settings import check_fixed, read_epsilon
from edgeembed_convert.families.stored import StoredTensors
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.unigram import read_unigram

_ARCHITECTURE = "t5encoder"
# The only value that the graph supports. It is also T5Config's default.
_FIXED = {"relative_attention_max_distance": 128}
# T5Config's, if config.json has no value.
_DEFAULT_EPSILON = 1e-6
_DEFAULT_BUCKETS = 32
_DEFAULT_POSITIONS = 512
_DEFAULT_FEED_FORWARD = "relu"
# feed_forward_proj -> T5Config's dense_act_fn and is_gated_act, which llama.cpp follows by whether there is a gate.
_FEED_FORWARD = {"relu": ("relu", False), "gated-gelu": ("gelu_new", True)}
_LEAST_BUCKETS, _MOST_BUCKETS = 4, 508
# The decoder of checkpoints that have one.
_DROPPED = ("decoder.", "lm_head.")
_WORDS = ("shared.weight", "encoder.embed_tokens.weight")


class T5Encoder:
    """The T5 family."""

    architectures = ("T5EncoderModel", "T5Model", "T5ForConditionalGeneration")
    model_types = ("t5",)
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a T5 checkpoint and return the plan of its encoder's GGUF file. Raises ConversionError."""
        check_fixed(checkpoint, _FIXED, "T5")
        hidden, head = checkpoint.positive_int("d_model"), checkpoint.positive_int("d_kv")
        rows = checkpoint.positive_int("vocab_size")
        pooling = checkpoint.pooling(hidden)
        tokenizer = read_unigram(checkpoint.model_folder, rows)
        stored = StoredTensors(checkpoint, _place, "T5 encoder")
        tensors = list(_tensors(stored, checkpoint, gated=_is_gated(checkpoint)))
        stored.check_all_placed()
        arch = _ARCHITECTURE
        positions = checkpoint.positive_int("n_positions", _DEFAULT_POSITIONS)
        metadata: Metadata = {
            Keys.LLM.BLOCK_COUNT.format(arch=arch): checkpoint.positive_int("num_layers"),
            Keys.LLM.CONTEXT_LENGTH.format(arch=arch): positions,
            Keys.LLM.EMBEDDING_LENGTH.format(arch=arch): hidden,
            Keys.LLM.FEED_FORWARD_LENGTH.format(arch=arch): checkpoint.positive_int("d_ff"),
            Keys.LLM.VOCAB_SIZE.format(arch=arch): len(tokenizer.pieces),
            Keys.Attention.HEAD_COUNT.format(arch=arch): checkpoint.positive_int("num_heads"),
            Keys.Attention.KEY_LENGTH.format(arch=arch): head,
            Keys.Attention.VALUE_LENGTH.format(arch=arch): head,
            Keys.Attention.LAYERNORM_RMS_EPS.format(arch=arch): read_epsilon(
                checkpoint, "layer_norm_epsilon", _DEFAULT_EPSILON
            ),
            Keys.Attention.REL_BUCKETS_COUNT.format(arch=arch): _buckets(checkpoint),
            Keys.Attention.CAUSAL.format(arch=arch): False,
            Keys.LLM.POOLING_TYPE.format(arch=arch): int(PoolingType[pooling.upper()]),
            **tokenizer.metadata(),
        }
        return ModelPlan(arch, hidden, pooling, metadata, tensors)


def _is_gated(checkpoint: Checkpoint) -> bool:
    """Return whether the feed-forward network has a gate, as in T5 1.1. Raises ConversionError for other functions."""
    config = checkpoint.config
    kind = config.get("feed_forward_proj", _DEFAULT_FEED_FORWARD)
    wanted = _FEED_FORWARD.get(kind) if isinstance(kind, str) else None
    if wanted is None:
        raise ConversionError(
            f"{checkpoint.config_file}: feed_forward_proj = {kind!r}; llama.cpp's T5 supports only "
            f"{' and '.join(_FEED_FORWARD)}"
        )
    check_fixed(checkpoint, {"dense_act_fn": wanted[0], "is_gated_act": wanted[1]}, f"T5 with feed_forward_proj = {kind!r}")
    return wanted[1]


def _buckets(checkpoint: Checkpoint) -> int:
    key = "relative_attention_num_buckets"
    buckets = checkpoint.positive_int(key, _DEFAULT_BUCKETS)
    if not _LEAST_BUCKETS <= buckets <= _MOST_BUCKETS or buckets % 2:
        raise ConversionError(
            f"{checkpoint.config_file}: {key} = {buckets}; expected an even number from {_LEAST_BUCKETS} to {_MOST_BUCKETS}"
        )
    return buckets


def _place(name: str) -> str | None:
    return None if name.startswith(_DROPPED) else name


def _tensors(stored: StoredTensors, checkpoint: Checkpoint, *, gated: bool) -> Iterator[PlannedTensor]:
    """Yield the tensors in the order of the computation."""
    hidden, feed_forward = checkpoint.positive_int("d_model"), checkpoint.positive_int("d_ff")
    heads = checkpoint.positive_int("num_heads")
    inner = heads * checkpoint.positive_int("d_kv")
    # One table with two names; some checkpoints store it twice.
    words = [name for name in _WORDS if name in stored] or list(_WORDS[:1])
    for name in words:
        table = stored.place(name, "token_embd.weight", checkpoint.positive_int("vocab_size"), hidden)
        if name == words[0]:
            yield table
    for layer in range(checkpoint.positive_int("num_layers")):
        attention, network = f"encoder.block.{layer}.layer.0", f"encoder.block.{layer}.layer.1"
        target = f"enc.blk.{layer}"
        yield stored.place(f"{attention}.layer_norm.weight", f"{target}.attn_norm.weight", hidden)
        for part in "qkv":
            yield stored.place(f"{attention}.SelfAttention.{part}.weight", f"{target}.attn_{part}.weight", inner, hidden)
        if layer == 0:
            bias = f"{attention}.SelfAttention.relative_attention_bias.weight"
            yield stored.place(bias, f"{target}.attn_rel_b.weight", _buckets(checkpoint), heads, keep_f32=True)
        yield stored.place(f"{attention}.SelfAttention.o.weight", f"{target}.attn_o.weight", hidden, inner)
        yield stored.place(f"{network}.layer_norm.weight", f"{target}.ffn_norm.weight", hidden)
        if gated:
            yield stored.place(f"{network}.DenseReluDense.wi_0.weight", f"{target}.ffn_gate.weight", feed_forward, hidden)
        up = "wi_1" if gated else "wi"
        yield stored.place(f"{network}.DenseReluDense.{up}.weight", f"{target}.ffn_up.weight", feed_forward, hidden)
        yield stored.place(f"{network}.DenseReluDense.wo.weight", f"{target}.ffn_down.weight", hidden, feed_forward)
    yield stored.place("encoder.final_layer_norm.weight", "enc.output_norm.weight", hidden)
