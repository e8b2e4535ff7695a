"""Gemma 3: EmbeddingGemma, which is bidirectional with two Dense layers after mean pooling, and causal models as harrier.

Architecture: Gemma Team, "Gemma 3 Technical Report", 2025, and Vera et al., "EmbeddingGemma", 2025. Tensor names: those
of transformers' Gemma3TextModel in the checkpoint, in the GGUF file llama.cpp's for `gemma-embedding`, whose attention is
never causal, or `gemma3`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gguf import Keys, PoolingType

from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.dense import dense_modules
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.families.decoder import DecoderShape, layer_projections, plain_name, read_shape
from edgeembed_convert.families.settings import check_fixed, rope_base
from edgeembed_convert.families.stored import StoredTensors
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.sentencepiece import read_sentencepieces
from edgeembed_convert.views import Plus
from edgeembed_convert.weights import StoredTensor

_BIDIRECTIONAL, _CAUSAL = "gemma-embedding", "gemma3"
_LAYERS_27B = 62
"""A model with so many layers is taken for the one with 27 billion weights, which scales attention in its own way."""
# The only values that the graph supports. They are also the defaults of transformers' Gemma3TextConfig.
_FIXED = {
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}
_DEFAULT_SCALAR = 256  # Gemma3TextConfig's
# The model card: "Output embedding dimension size of 768, with smaller options available (512, 256, or 128) ..."
_MATRYOSHKA = re.compile(r"dimension size of (\d+), with smaller options available \(([\d, or]+)\)")


class Gemma:
    """The Gemma 3 family."""

    architectures = ("Gemma3TextModel", "Gemma3ForCausalLM")
    model_types = ("gemma3_text",)
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a Gemma 3 checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        check_fixed(checkpoint, _FIXED, "Gemma 3")
        causal = _is_causal(checkpoint)
        shape = read_shape(checkpoint)
        _check_scale(checkpoint, shape, causal=causal)
        pooling = checkpoint.pooling(shape.hidden)
        dense = {} if causal else _dense(checkpoint, shape.hidden)
        tokenizer = read_sentencepieces(checkpoint.model_folder, shape.vocabulary)
        tensors = [*_tensors(checkpoint, shape)]
        arch = _CAUSAL if causal else _BIDIRECTIONAL
        metadata: Metadata = {
            **shape.metadata(arch),
            Keys.Attention.SLIDING_WINDOW.format(arch=arch): checkpoint.positive_int("sliding_window"),
            Keys.Attention.SLIDING_WINDOW_PATTERN.format(arch=arch): _period(checkpoint, shape.layers),
            Keys.Attention.CAUSAL.format(arch=arch): causal,
            Keys.Rope.FREQ_BASE.format(arch=arch): rope_base(checkpoint, "rope_theta", "full_attention"),
            Keys.Rope.FREQ_BASE_SWA.format(arch=arch): rope_base(checkpoint, "rope_local_base_freq", "sliding_attention"),
            Keys.LLM.POOLING_TYPE.format(arch=arch): int(PoolingType[pooling.upper()]),
            **tokenizer.metadata(),
        }
        for name, tensor in dense.items():
            outputs, inputs = tensor.shape
            metadata[Keys.LLM.DENSE_FEAT_IN_SIZE.format(arch=arch, dense=name)] = inputs
            metadata[Keys.LLM.DENSE_FEAT_OUT_SIZE.format(arch=arch, dense=name)] = outputs
            tensors.append(PlannedTensor(f"{name}.weight", tensor))
        matryoshka = _matryoshka(checkpoint, shape.hidden)
        return ModelPlan(arch, shape.hidden, pooling, metadata, tensors, checkpoint.prompts, matryoshka)


def _is_causal(checkpoint: Checkpoint) -> bool:
    """Return whether a token attends to those before it only. Raises ConversionError."""
    bidirectional = checkpoint.config.get("use_bidirectional_attention") or False
    if not isinstance(bidirectional, bool):
        raise ConversionError(
            f"{checkpoint.config_file}: use_bidirectional_attention = {bidirectional!r}; expected true or false"
        )
    return not bidirectional


def _check_scale(checkpoint: Checkpoint, shape: DecoderShape, *, causal: bool) -> None:
    """Raise ConversionError unless attention is scaled as in llama.cpp's graph, which has no key for it."""
    largest = causal and shape.layers == _LAYERS_27B
    scalar = checkpoint.config.get("query_pre_attn_scalar", _DEFAULT_SCALAR)
    wanted = shape.hidden // shape.heads if largest else shape.head
    if scalar != wanted:
        raise ConversionError(
            f"{checkpoint.config_file}: query_pre_attn_scalar = {scalar!r}; llama.cpp supports only "
            f"{'hidden_size / num_attention_heads' if largest else 'head_dim'}, {wanted}"
        )


def _period(checkpoint: Checkpoint, layers: int) -> int:
    """Return n, where every n-th layer has full attention and the others a sliding window."""
    types = checkpoint.config.get("layer_types")
    if types is None:
        for key in ("_sliding_window_pattern", "sliding_window_pattern"):
            if key in checkpoint.config:
                return checkpoint.positive_int(key)
        return 6  # Gemma3TextConfig's
    full = isinstance(types, list) and "full_attention" in types
    period = types.index("full_attention") + 1 if full else layers + 1
    wanted = ["full_attention" if number % period == 0 else "sliding_attention" for number in range(1, layers + 1)]
    if types != wanted:
        raise ConversionError(
            f"{checkpoint.config_file}: unsupported layer_types; expected full_attention in every n-th of {layers} layers"
        )
    return period


def _place(name: str) -> str | None:
    return None if name == "lm_head.weight" else plain_name(name)


def _tensors(checkpoint: Checkpoint, shape: DecoderShape) -> Iterator[PlannedTensor]:
    """Yield the tensors in the order of the computation. Raises ConversionError for missing, misshapen and extra ones."""
    stored = StoredTensors(checkpoint, _place, "Gemma 3 model for vectors")

    def norm(source: str, target: str, size: int) -> PlannedTensor:
        # Gemma multiplies by 1 + weight, llama.cpp by the weight.
        return PlannedTensor(target, Plus(stored.take(source, size), 1.0))

    yield stored.place("embed_tokens.weight", "token_embd.weight", shape.vocabulary, shape.hidden)
    for layer in range(shape.layers):
        source, target = f"layers.{layer}", f"blk.{layer}"
        yield norm(f"{source}.input_layernorm.weight", f"{target}.attn_norm.weight", shape.hidden)
        yield from layer_projections(stored, shape, layer)
        yield norm(f"{source}.self_attn.q_norm.weight", f"{target}.attn_q_norm.weight", shape.head)
        yield norm(f"{source}.self_attn.k_norm.weight", f"{target}.attn_k_norm.weight", shape.head)
        yield norm(f"{source}.post_attention_layernorm.weight", f"{target}.post_attention_norm.weight", shape.hidden)
        yield norm(f"{source}.pre_feedforward_layernorm.weight", f"{target}.ffn_norm.weight", shape.hidden)
        yield norm(f"{source}.post_feedforward_layernorm.weight", f"{target}.post_ffw_norm.weight", shape.hidden)
    yield norm("norm.weight", "output_norm.weight", shape.hidden)
    stored.check_all_placed()


def _dense(checkpoint: Checkpoint, hidden: int) -> dict[str, StoredTensor]:
    """Return the weights of the two Dense modules under llama.cpp's names; empty if its graph cannot compute them.

    It computes hidden -> any size -> hidden, without bias and activation. Raises ConversionError.
    """
    modules = dense_modules(checkpoint, hidden)
    if len(modules) != 2 or not all(module.is_linear for module in modules) or modules[1].weight.shape[0] != hidden:
        return {}
    return {name: module.weight for name, module in zip(("dense_2", "dense_3"), modules, strict=True)}


def _matryoshka(checkpoint: Checkpoint, hidden: int) -> tuple[int, int] | None:
    """Return the smallest and largest dimensions in the model card; None if it describes another size of the model."""
    match = _MATRYOSHKA.search(checkpoint.card)
    if match is None or int(match[1]) != hidden:
        return None
    return min(int(number) for number in re.findall(r"\d+", match[2])), hidden
