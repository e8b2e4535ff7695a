"""Llama, Mistral and Qwen2 as embedders: decoders without norms of queries and keys.

Architecture: Touvron et al., "LLaMA", 2023; Jiang et al., "Mistral 7B", 2023; Yang et al., "Qwen2 Technical Report", 2024.
Tensor names: those of transformers' LlamaModel, MistralModel and Qwen2Model, which are the same.

llama.cpp has three graphs for them. `llama` and `qwen2` keep keys and values, so that long texts are computed in pieces and
prompts only once: for causal models whose vector is that of the last token. `llama-embed` keeps none, may be causal or not,
and ends without the LM head, which for a vocabulary of 150,000 tokens takes 600 kB for each token, and in a model of 0.5
billion weights a quarter of the work: for all others. It also computes Qwen2, whose attention has biases, once the rows of
queries and keys are in Llama's order (`views.Interleaved`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from gguf import Keys, PoolingType

from edgeembed.errors import ConversionError
from edgeembed_convert.bpe import BytePairs, read_byte_bpe
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.families.decoder import DecoderShape, plain_layers, read_shape
from edgeembed_convert.families.prompted_reranker import Qwen2Reranker
from edgeembed_convert.families.settings import check_fixed, positive, rope_scaling, unscaled_rope_base
from edgeembed_convert.families.stored import StoredTensors
from edgeembed_convert.ignored import adds_by_flags, own_code
from edgeembed_convert.jsonfile import read_json
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.sentencepiece import SentencePieces, read_sentencepieces
from edgeembed_convert.tokenizer_json import has_byte_pieces
from edgeembed_convert.views import Constant
from edgeembed_convert.weights import Float32Array

BIDIRECTIONAL = "LlamaBidirectionalModel"
_EMBED = "llama-embed"
_LAYERS = "full_attention"
# The only values that the graphs support. They are also the defaults of transformers' configurations.
_FIXED = {"hidden_act": "silu", "mlp_bias": False, "use_sliding_window": False}
# Alibaba's code for gte-Qwen2, which attends in both directions.
_GTE_CODE = "modeling_qwen.Qwen2Model"
# Of NVIDIA's LlamaBidirectionalConfig (`pooling`), for checkpoints without sentence-transformers' modules.
_POOLING = {"avg": "mean", "cls": "cls", "last": "last"}


@dataclass(frozen=True)
class _Kind:
    """What distinguishes the three."""

    graph: str
    """Its name in messages."""
    causal_architecture: str
    """llama.cpp's architecture for causal models."""
    biases: tuple[str, ...] = ()
    """Projections of the attention that have a bias."""


class Llama:
    """Llama and Mistral, causal or not."""

    architectures = ("LlamaModel", "LlamaForCausalLM", BIDIRECTIONAL, "MistralModel", "MistralForCausalLM")
    model_types = ()
    followed_code = (
        f"llama_bidirectional_model.{BIDIRECTIONAL}",
        f"nvidia/llama-embed-nemotron-8b--llama_bidirectional_model.{BIDIRECTIONAL}",
        f"nvidia/llama-nemotron-embed-1b-v2--llama_bidirectional_model.{BIDIRECTIONAL}",
        f"nvidia/llama-3.2-nv-embedqa-1b-v2--llama_bidirectional_model.{BIDIRECTIONAL}",
    )

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        biases = ("q", "k", "v", "o") if checkpoint.config.get("attention_bias") else ()
        return _plan(checkpoint, _Kind("Llama", "llama", biases))


class Qwen2:
    """Qwen2 and Qwen2.5, causal or not. Checkpoints with an LM head and without a Pooling module are rerankers."""

    architectures = ("Qwen2Model", "Qwen2ForCausalLM")
    model_types = ()
    followed_code = (
        _GTE_CODE,
        f"Alibaba-NLP/gte-Qwen2-1.5B-instruct--{_GTE_CODE}",
        f"Alibaba-NLP/gte-Qwen2-7B-instruct--{_GTE_CODE}",
    )

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        _check_code(checkpoint)
        pools = any(kind == "Pooling" for kind, _ in checkpoint.modules or [])
        if checkpoint.config.get("architectures") == ["Qwen2ForCausalLM"] and not pools and checkpoint.task != "embed":
            return Qwen2Reranker().plan(checkpoint)
        return _plan(checkpoint, _Kind("Qwen2", "qwen2", ("q", "k", "v")))


def _plan(checkpoint: Checkpoint, kind: _Kind) -> ModelPlan:
    check_fixed(checkpoint, _FIXED, kind.graph)
    layer_types = checkpoint.config.get("layer_types")
    if layer_types is not None and set(layer_types) - {"full_attention", "sliding_attention"}:
        raise ConversionError(f"{checkpoint.config_file}: unsupported layer_types {sorted(set(layer_types))}")
    shape = read_shape(checkpoint, optional=True)
    if shape.head % 2:
        raise ConversionError(
            f"{checkpoint.config_file}: the heads have {shape.head} numbers; expected an even number, which RoPE needs"
        )
    causal, pooling = _is_causal(checkpoint), _pooling(checkpoint, shape.hidden)
    arch = kind.causal_architecture if causal and pooling == "last" else _EMBED
    tokenizer = _tokenizer(checkpoint, shape.vocabulary)
    metadata: Metadata = {
        **shape.metadata(arch),
        Keys.LLM.CONTEXT_LENGTH.format(arch=arch): _context(checkpoint, shape.context),
        Keys.Rope.FREQ_BASE.format(arch=arch): unscaled_rope_base(checkpoint, "rope_theta", _LAYERS),
        Keys.Rope.DIMENSION_COUNT.format(arch=arch): shape.head,
        Keys.Attention.CAUSAL.format(arch=arch): causal,
        Keys.LLM.POOLING_TYPE.format(arch=arch): int(PoolingType[pooling.upper()]),
        **tokenizer.metadata(),
    }
    tensors = list(_tensors(checkpoint, shape, kind, interleaved=arch != "qwen2"))
    return ModelPlan(arch, shape.hidden, pooling, metadata, tensors, checkpoint.prompts)


def _check_code(checkpoint: Checkpoint) -> None:
    """Raise ConversionError unless the settings of gte-Qwen2's code are clear: published versions contradict each other."""
    tokenizer_file = checkpoint.model_folder / "tokenizer_config.json"
    tokenizer = read_json(tokenizer_file) if tokenizer_file.is_file() else {}
    model_code = own_code(checkpoint.config, checkpoint.config_file)
    if model_code and checkpoint.config.get("is_causal") is not False:
        raise ConversionError(
            f"{checkpoint.config_file}: auto_map has {model_code[0]!r}, but is_causal is not false: some versions of this "
            "code attend in both directions, others only back. Set is_causal, or remove auto_map for a causal model"
        )
    if adds_by_flags(tokenizer) and not model_code:
        raise ConversionError(
            f"{tokenizer_file}: auto_map names code that adds other tokens to a text, but config.json names none, so it is "
            "unknown whether the model is used with it. If it is used without trust_remote_code, as KaLM v1 is, remove "
            "auto_map"
        )


def _is_causal(checkpoint: Checkpoint) -> bool:
    """Return whether a token attends only to those before it.

    NVIDIA's class never does that; transformers' classes and Alibaba's obey `is_causal`. Raises ConversionError for values
    that contradict the class.
    """
    config, file = checkpoint.config, checkpoint.config_file
    given = config.get("is_causal")
    if not isinstance(given, bool | None):
        raise ConversionError(f"{file}: is_causal = {given!r}; expected true or false")
    if config.get("architectures") != [BIDIRECTIONAL]:
        if config.get("use_bidirectional_attention") and given is not False:
            raise ConversionError(
                f"{file}: use_bidirectional_attention is set, which {config['architectures'][0]} does not read; if the "
                "model attends in both directions, set is_causal = false"
            )
        return given is not False
    if given or config.get("use_bidirectional_attention") is False:
        raise ConversionError(f"{file}: the settings say that {BIDIRECTIONAL} is causal, which it never is")
    return False


def _pooling(checkpoint: Checkpoint, hidden: int) -> str:
    if checkpoint.modules is None and checkpoint.config.get("architectures") == [BIDIRECTIONAL]:
        given = checkpoint.config.get("pooling", "avg")
        if isinstance(given, str) and given in _POOLING:
            return _POOLING[given]
        raise ConversionError(f"{checkpoint.config_file}: pooling = {given!r}; expected one of {', '.join(_POOLING)}")
    return checkpoint.pooling(hidden)


def _tokenizer(checkpoint: Checkpoint, vocabulary: int) -> BytePairs | SentencePieces:
    """Return the vocabulary: bytes as in GPT-2, or SentencePiece's with tokens for bytes."""
    if has_byte_pieces(checkpoint.model_folder):
        return read_sentencepieces(checkpoint.model_folder, vocabulary)
    return read_byte_bpe(checkpoint.model_folder, checkpoint.config, vocabulary)


def _context(checkpoint: Checkpoint, most: int) -> int:
    """Return the longest text that the graph computes as the model does: no longer than the sliding window."""
    if "use_sliding_window" in checkpoint.config or checkpoint.config.get("sliding_window") is None:
        return most
    return min(most, checkpoint.positive_int("sliding_window"))


def _tensors(checkpoint: Checkpoint, shape: DecoderShape, kind: _Kind, *, interleaved: bool) -> Iterator[PlannedTensor]:
    """Yield the tensors in the order of the computation. Raises ConversionError for missing, misshapen and extra ones."""
    stored = StoredTensors(checkpoint, _plain_name, f"{kind.graph} embedding model")
    yield stored.place("embed_tokens.weight", "token_embd.weight", shape.vocabulary, shape.hidden)
    if (factors := _rope_factors(checkpoint, shape.head)) is not None:
        yield PlannedTensor("rope_freqs.weight", Constant("rope_scaling", checkpoint.config_file, factors), keep_f32=True)
    yield from plain_layers(stored, shape, biases=kind.biases, interleaved=interleaved)
    stored.check_all_placed()


def _plain_name(name: str) -> str | None:
    """Return the name in the plain model; None for the LM head, and for frequencies that old checkpoints store."""
    plain = name.removeprefix("model.")
    return None if plain == "lm_head.weight" or plain.endswith("rotary_emb.inv_freq") else plain


def _rope_factors(checkpoint: Checkpoint, head: int) -> Float32Array | None:
    """Return what llama.cpp divides the frequencies of rotary positions by, shape (head / 2,); None for nothing.

    Llama 3.1's scaling for long texts: slow rotations are `factor` times slower, fast ones stay; smooth in between.
    Raises ConversionError for other scalings.
    """
    scaling = rope_scaling(checkpoint, _LAYERS)
    if scaling is None:
        return None
    if scaling["rope_type"] != "llama3":
        raise ConversionError(f"{checkpoint.config_file}: rope_scaling = {scaling!r} is not supported; only llama3 is")
    factor, low, high, trained = (
        positive(checkpoint, key, scaling.get(key))
        for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    if not low < high:
        raise ConversionError(f"{checkpoint.config_file}: low_freq_factor {low} is not below high_freq_factor {high}")
    base = unscaled_rope_base(checkpoint, "rope_theta", _LAYERS)
    length = 2 * math.pi * base ** (np.arange(0, head, 2) / head)
    smooth = np.clip((trained / length - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / factor + smooth), dtype=np.float32)
