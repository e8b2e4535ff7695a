"""jina-embeddings-v3: XLM-RoBERTa with rotary positions, and an adapter for each task.

Sturua et al., "jina-embeddings-v3: Multilingual Embeddings With Task LoRA", 2024. The makers' own code (XLMRobertaLoRA) and
transformers' JinaEmbeddingsV3Model compute the same; the adapters of the first are stored among the weights
(`task_adapters`), those of the second in folders (`adapters`). One of them is merged before, so one task makes one file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gguf import Keys, PoolingType

from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.families.settings import check_fixed, read_epsilon, read_heads, rope_base
from edgeembed_convert.families.stored import StoredTensors
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.prompts import template_of
from edgeembed_convert.unigram import read_unigram

_ARCHITECTURE = "jina-bert-v3"
_OWN = "JinaEmbeddingsV3Model"
_CODE = "modeling_lora.XLMRobertaLoRA"
_MODULE = "custom_st.Transformer"
# The only values that the graph supports. They are also the defaults of transformers' JinaEmbeddingsV3Config.
_FIXED = {
    "hidden_act": "gelu",
    "position_embedding_type": "rotary",
    "is_decoder": False,
    "add_cross_attention": False,
    "truncate_dim": None,
}
_DEFAULT_EPSILON = 1e-5
_DEFAULT_PAD = 1
# Buffers, the pooler and the prediction head.
_DROPPED = ("embeddings.position_ids", "embeddings.token_type_ids", "pooler.", "lm_head.")
# transformers' names -> those of the makers' code.
_RENAMED = (
    (re.compile(r"^embeddings\.LayerNorm\."), "emb_ln."),
    (re.compile(r"^layers\."), "encoder.layers."),
    (re.compile(r"\.self_attn\.o_proj\."), ".mixer.out_proj."),
    (re.compile(r"\.self_attn\."), ".mixer."),
    (re.compile(r"\.post_attention_layernorm\."), ".norm1."),
    (re.compile(r"\.post_mlp_layernorm\."), ".norm2."),
)
# What a request calls the tasks, for the prompts that belong to them. Names with "_", as those of peft's adapters.
_KINDS = {
    "retrieval_query": "query",
    "retrieval_passage": "document",
    "classification": "classification",
    "separation": "clustering",
    "text_matching": "similarity",
}


class JinaV3:
    """The family of jina-embeddings-v3."""

    architectures = ("XLMRobertaLoRA", "XLMRobertaModel", _OWN, "JinaEmbeddingsV3ForMaskedLM")
    model_types = ("jina_embeddings_v3",)
    followed_code = (_CODE, f"jinaai/xlm-roberta-flash-implementation--{_CODE}", _MODULE)

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        if checkpoint.config.get("model_type") not in self.model_types:
            _check_own_code(checkpoint)
        check_fixed(checkpoint, _FIXED, "jina-embeddings-v3")
        hidden = checkpoint.positive_int("hidden_size")
        vocabulary = checkpoint.positive_int("vocab_size")
        pooling = checkpoint.pooling(hidden, {_MODULE})
        tokenizer = read_unigram(checkpoint.model_folder, vocabulary)
        stored = StoredTensors(checkpoint, _place, "jina-embeddings-v3 encoder")
        tensors = list(_tensors(stored, checkpoint, hidden, vocabulary))
        stored.check_all_placed()
        arch = _ARCHITECTURE
        metadata: Metadata = {
            Keys.LLM.BLOCK_COUNT.format(arch=arch): checkpoint.positive_int("num_hidden_layers"),
            Keys.LLM.CONTEXT_LENGTH.format(arch=arch): _context(checkpoint),
            Keys.LLM.EMBEDDING_LENGTH.format(arch=arch): hidden,
            Keys.LLM.FEED_FORWARD_LENGTH.format(arch=arch): checkpoint.positive_int("intermediate_size"),
            Keys.LLM.VOCAB_SIZE.format(arch=arch): vocabulary,
            Keys.Attention.HEAD_COUNT.format(arch=arch): read_heads(checkpoint, hidden),
            Keys.Attention.LAYERNORM_EPS.format(arch=arch): read_epsilon(checkpoint, "layer_norm_eps", _DEFAULT_EPSILON),
            Keys.Attention.CAUSAL.format(arch=arch): False,
            Keys.Rope.FREQ_BASE.format(arch=arch): rope_base(checkpoint, "rotary_emb_base", "full_attention"),
            Keys.LLM.POOLING_TYPE.format(arch=arch): int(PoolingType[pooling.upper()]),
            Keys.Tokenizer.TOKEN_TYPE_COUNT: checkpoint.positive_int("type_vocab_size"),
            **tokenizer.metadata(),
        }
        return ModelPlan(arch, hidden, pooling, metadata, tensors, _prompts(checkpoint), _matryoshka(checkpoint, hidden))


def _check_own_code(checkpoint: Checkpoint) -> None:
    """Raise ConversionError if no adapter of a checkpoint for the makers' code is chosen, or for what its defaults are."""
    if checkpoint.task_adapter is None:
        raise ConversionError(
            f"{checkpoint.config_file}: lora_adaptations is missing, or another adapter is chosen; expected one of its names"
        )
    if checkpoint.config.get("position_embedding_type") is None:
        raise ConversionError(f"{checkpoint.config_file}: position_embedding_type is missing; expected 'rotary'")


def _context(checkpoint: Checkpoint) -> int:
    """Return the length of the longest text; as in XLM-RoBERTa, max_position_embeddings has two more."""
    pad = checkpoint.config.get("pad_token_id", _DEFAULT_PAD)
    positions = checkpoint.positive_int("max_position_embeddings")
    if type(pad) is not int or not 0 <= pad < positions - 1:
        raise ConversionError(f"{checkpoint.config_file}: pad_token_id = {pad!r} is not a token id")
    return positions - pad - 1


def _prompts(checkpoint: Checkpoint) -> dict[str, str] | None:
    """Return the prompt of the task whose adapter is merged; the checkpoint's own prompts for a model without an adapter."""
    task = checkpoint.adapter_name
    if task is None:
        return None
    instructions = checkpoint.config.get("task_instructions") or {}
    if not isinstance(instructions, dict) or not all(isinstance(text, str) for text in instructions.values()):
        raise ConversionError(f"{checkpoint.config_file}: task_instructions = {instructions!r}; expected texts by task")
    kind = _KINDS.get(_folded(task))
    if kind is None:
        return {}
    if text := next((text for name, text in instructions.items() if _folded(name) == _folded(task)), ""):
        return {kind: template_of(text)}
    return {kind: checkpoint.prompts[kind]} if not instructions and kind in checkpoint.prompts else {}


def _folded(task: str) -> str:
    return re.sub(r"[.-]", "_", task)


def _matryoshka(checkpoint: Checkpoint, hidden: int) -> tuple[int, int] | None:
    lengths = checkpoint.config.get("matryoshka_dimensions") or []
    if not isinstance(lengths, list) or not all(type(length) is int and 0 < length <= hidden for length in lengths):
        raise ConversionError(
            f"{checkpoint.config_file}: matryoshka_dimensions = {lengths!r}; expected lengths up to {hidden}"
        )
    return (min(lengths), max(lengths)) if lengths else None


def _place(name: str) -> str | None:
    plain = name.removeprefix("roberta.")
    for pattern, new in _RENAMED:
        plain = pattern.sub(new, plain)
    return None if plain.startswith(_DROPPED) else plain


def _tensors(stored: StoredTensors, checkpoint: Checkpoint, hidden: int, vocabulary: int) -> Iterator[PlannedTensor]:
    """Yield the tensors in the order of the computation."""
    feed_forward = checkpoint.positive_int("intermediate_size")
    types = checkpoint.positive_int("type_vocab_size")

    def linear(source: str, target: str, outputs: int, inputs: int) -> Iterator[PlannedTensor]:
        yield stored.place(f"{source}.weight", f"{target}.weight", outputs, inputs)
        yield stored.place(f"{source}.bias", f"{target}.bias", outputs)

    yield stored.place("embeddings.word_embeddings.weight", "token_embd.weight", vocabulary, hidden)
    yield stored.place("embeddings.token_type_embeddings.weight", "token_types.weight", types, hidden, keep_f32=True)
    for end in ("weight", "bias"):
        yield stored.place(f"emb_ln.{end}", f"token_embd_norm.{end}", hidden)
    for layer in range(checkpoint.positive_int("num_hidden_layers")):
        source, target = f"encoder.layers.{layer}", f"blk.{layer}"
        if f"{source}.mixer.Wqkv.weight" in stored:
            yield from linear(f"{source}.mixer.Wqkv", f"{target}.attn_qkv", 3 * hidden, hidden)
        else:
            for part in "qkv":
                yield from linear(f"{source}.mixer.{part}_proj", f"{target}.attn_{part}", hidden, hidden)
        yield from linear(f"{source}.mixer.out_proj", f"{target}.attn_output", hidden, hidden)
        yield from linear(f"{source}.mlp.fc1", f"{target}.ffn_up", feed_forward, hidden)
        yield from linear(f"{source}.mlp.fc2", f"{target}.ffn_down", hidden, feed_forward)
        for end in ("weight", "bias"):
            yield stored.place(f"{source}.norm1.{end}", f"{target}.attn_output_norm.{end}", hidden)
            yield stored.place(f"{source}.norm2.{end}", f"{target}.layer_output_norm.{end}", hidden)
