"""LFM2.5-Embedding: LFM2 made bidirectional. Most layers mix each token with its neighbours, the others have attention.

Architecture: Liquid AI, "LFM2 Technical Report", 2025, and "LFM2.5 Retrievers", 2026: attention without a causal mask, and a
short convolution around each token instead of one over the tokens before it. Tensor names: those of the makers' class in
the checkpoint, llama.cpp's for `lfm2` in the GGUF file.
"""

from __future__ import annotations

from collections.abc import Iterator

from gguf import Keys, PoolingType

from edgeembed.errors import ConversionError
from edgeembed_convert.bpe import read_byte_bpe
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.families.decoder import plain_name
from edgeembed_convert.families.settings import check_fixed, positive_float, read_heads, rope_base
from edgeembed_convert.families.stored import StoredTensors
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.views import WithoutMiddle

_ARCHITECTURE = "lfm2"
_BIDIRECTIONAL = "Lfm2BidirectionalModel"
# The only values that the graph supports. They are also the defaults of transformers' Lfm2Config.
_FIXED = {"conv_bias": False}
_KINDS = {"conv", "full_attention"}


class Lfm2:
    """The LFM2 family."""

    architectures = (_BIDIRECTIONAL, "Lfm2Model")
    model_types = ("lfm2_bidirectional",)
    followed_code = (
        f"modeling_lfm2_bidirectional.{_BIDIRECTIONAL}",
        f"LiquidAI/LFM2.5-Embedding-350M--modeling_lfm2_bidirectional.{_BIDIRECTIONAL}",
    )

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a checkpoint of LFM2.5-Embedding and return the plan of its GGUF file. Raises ConversionError."""
        if checkpoint.config.get("architectures") == ["Lfm2Model"]:
            raise ConversionError(
                f"{checkpoint.config_file}: architectures = ['Lfm2Model']: causal models of LFM2 are not supported, because "
                "a prompt is computed once for many texts, which the state of their convolutions does not allow; expected "
                f"{_BIDIRECTIONAL}"
            )
        check_fixed(checkpoint, _FIXED, "LFM2")
        hidden = checkpoint.positive_int("hidden_size")
        vocabulary = checkpoint.positive_int("vocab_size")
        kinds = _layer_kinds(checkpoint)
        heads = read_heads(checkpoint, hidden)
        kv_heads = checkpoint.positive_int("num_key_value_heads")
        head = checkpoint.config.get("head_dim", hidden // heads)
        if head * heads != hidden or heads % kv_heads:
            raise ConversionError(
                f"{checkpoint.config_file}: {heads} heads of {head}, {kv_heads} for keys and values, do not fit hidden_size "
                f"{hidden}"
            )
        width = checkpoint.positive_int("conv_L_cache")
        if width % 2 == 0 or width < 3:
            raise ConversionError(f"{checkpoint.config_file}: conv_L_cache = {width}; expected an odd number from 3 on")
        pooling = checkpoint.pooling(hidden)
        feed_forward = _feed_forward(checkpoint)
        tokenizer = read_byte_bpe(checkpoint.model_folder, checkpoint.config, vocabulary)
        stored = StoredTensors(checkpoint, _place, "bidirectional LFM2")
        tensors = list(_tensors(stored, kinds, (vocabulary, hidden, kv_heads * head, head, feed_forward, width)))
        stored.check_all_placed()
        arch = _ARCHITECTURE
        metadata: Metadata = {
            Keys.LLM.BLOCK_COUNT.format(arch=arch): len(kinds),
            Keys.LLM.CONTEXT_LENGTH.format(arch=arch): checkpoint.positive_int("max_position_embeddings"),
            Keys.LLM.EMBEDDING_LENGTH.format(arch=arch): hidden,
            Keys.LLM.FEED_FORWARD_LENGTH.format(arch=arch): feed_forward,
            Keys.LLM.VOCAB_SIZE.format(arch=arch): vocabulary,
            Keys.Attention.HEAD_COUNT.format(arch=arch): heads,
            # llama.cpp takes layers without such heads for convolutions.
            Keys.Attention.HEAD_COUNT_KV.format(arch=arch): [kv_heads if kind != "conv" else 0 for kind in kinds],
            Keys.Attention.LAYERNORM_RMS_EPS.format(arch=arch): positive_float(checkpoint, "norm_eps"),
            Keys.Attention.CAUSAL.format(arch=arch): False,
            Keys.Rope.FREQ_BASE.format(arch=arch): rope_base(checkpoint, "rope_theta", "full_attention"),
            Keys.ShortConv.L_CACHE.format(arch=arch): width,
            Keys.LLM.POOLING_TYPE.format(arch=arch): int(PoolingType[pooling.upper()]),
            **tokenizer.metadata(),
        }
        return ModelPlan(arch, hidden, pooling, metadata, tensors, checkpoint.prompts)


def _layer_kinds(checkpoint: Checkpoint) -> list[str]:
    """Return what each layer is. Raises ConversionError."""
    layers, kinds = checkpoint.positive_int("num_hidden_layers"), checkpoint.config.get("layer_types")
    if kinds is None and isinstance(attention := checkpoint.config.get("full_attn_idxs"), list):
        kinds = ["full_attention" if number in attention else "conv" for number in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers or set(kinds) != _KINDS:
        raise ConversionError(
            f"{checkpoint.config_file}: layer_types = {kinds!r}; expected conv or full_attention for each of {layers} "
            "layers, and both kinds"
        )
    return kinds


def _feed_forward(checkpoint: Checkpoint) -> int:
    """Return the size of the layers between; the configured one is that of a layer without a gate.

    Raises ConversionError.
    """
    config = checkpoint.config
    size = checkpoint.positive_int("block_ff_dim" if "block_ff_dim" in config else "intermediate_size")
    if config.get("block_auto_adjust_ff_dim", True):
        size = int(2 * size / 3)
        if config.get("block_ffn_dim_multiplier", 1.0) is not None:
            factor = positive_float(checkpoint, "block_ffn_dim_multiplier") if "block_ffn_dim_multiplier" in config else 1.0
            multiple = checkpoint.positive_int("block_multiple_of", 256)
            size = -(-int(factor * size) // multiple) * multiple
    return size


def _place(name: str) -> str | None:
    return None if name == "lm_head.weight" else plain_name(name)


def _tensors(stored: StoredTensors, kinds: list[str], sizes: tuple[int, int, int, int, int, int]) -> Iterator[PlannedTensor]:
    """Yield the tensors in the order of the computation. sizes: vocabulary, hidden, keys, head, feed forward, window."""
    vocabulary, hidden, keys, head, feed_forward, width = sizes
    yield stored.place("embed_tokens.weight", "token_embd.weight", vocabulary, hidden)
    for layer, kind in enumerate(kinds):
        source, target = f"layers.{layer}", f"blk.{layer}"
        yield stored.place(f"{source}.operator_norm.weight", f"{target}.attn_norm.weight", hidden)
        if kind == "conv":
            yield stored.place(f"{source}.conv.in_proj.weight", f"{target}.shortconv.in_proj.weight", 3 * hidden, hidden)
            window = WithoutMiddle(stored.take(f"{source}.conv.conv.weight", hidden, 1, width))
            yield PlannedTensor(f"{target}.shortconv.conv.weight", window, keep_f32=True)
            yield stored.place(f"{source}.conv.out_proj.weight", f"{target}.shortconv.out_proj.weight", hidden, hidden)
        else:
            for part, rows in (("q", hidden), ("k", keys), ("v", keys)):
                yield stored.place(f"{source}.self_attn.{part}_proj.weight", f"{target}.attn_{part}.weight", rows, hidden)
            for part in "qk":
                yield stored.place(f"{source}.self_attn.{part}_layernorm.weight", f"{target}.attn_{part}_norm.weight", head)
            yield stored.place(f"{source}.self_attn.out_proj.weight", f"{target}.attn_output.weight", hidden, hidden)
        yield stored.place(f"{source}.ffn_norm.weight", f"{target}.ffn_norm.weight", hidden)
        yield stored.place(f"{source}.feed_forward.w1.weight", f"{target}.ffn_gate.weight", feed_forward, hidden)
        yield stored.place(f"{source}.feed_forward.w3.weight", f"{target}.ffn_up.weight", feed_forward, hidden)
        yield stored.place(f"{source}.feed_forward.w2.weight", f"{target}.ffn_down.weight", hidden, feed_forward)
    # llama.cpp's name of the last norm of this architecture.
    yield stored.place("embedding_norm.weight", "token_embd_norm.weight", hidden)
