"""Text generators that score pairs by the answer to a prompt: mxbai-rerank-v2 on Qwen2, bge-reranker-v2-gemma on Gemma.

Sources: mixedbread-ai/mxbai-rerank, mxbai_rerank_v2.py: the logit of "1" minus that of "0" after the prompt; and
FlagOpen/FlagEmbedding, FlagLLMReranker: the logit of "Yes". Both tokenise the parts of their prompts by themselves. Of the
LM head only these rows are needed. llama.cpp's graphs of Qwen2 and Gemma have no classifier, so the metadata has it.
Architectures: Qwen Team, "Qwen2 Technical Report", 2024; Gemma Team, "Gemma: Open Models Based on Gemini Research and
Technology", 2024. Tensor names: those of transformers' Qwen2ForCausalLM and GemmaForCausalLM.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from gguf import Keys, PoolingType

from edgeembed.engine.answer_prompts import BGE_RERANKER_GEMMA, MXBAI_RERANK, AnswerPrompt
from edgeembed.engine.classifier import CLASSIFIER_KEY
from edgeembed.engine.float_strings import encode_floats
from edgeembed.errors import ConversionError
from edgeembed_convert.bpe import BytePairs, read_byte_bpe
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.families.decoder import (
    DecoderShape,
    as_classifier,
    check_reranker_modules,
    layer_projections,
    plain_layers,
    plain_name,
    read_class_outputs,
    read_lm_head,
    read_shape,
    take_class_weights,
)
from edgeembed_convert.families.settings import check_fixed, rope_base
from edgeembed_convert.families.stored import StoredTensors
from edgeembed_convert.jsonfile import read_json
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.sentencepiece import SentencePieces, read_sentencepieces
from edgeembed_convert.tokenizer_json import is_id
from edgeembed_convert.views import Plus, SelectedRows
from edgeembed_convert.weights import StoredTensor

_CLASSIFIER = "ForSequenceClassification"
# Texts of which the model card or a chat template has one.
_SIGNS = {
    MXBAI_RERANK: ("mxbai-rerank", "MxbaiRerankV2", "You are a search relevance expert"),
    BGE_RERANKER_GEMMA: ("FlagLLMReranker", "Given a query A and a passage B"),
}


class Qwen2Reranker:
    """Qwen2 as a reranker."""

    architectures = ("Qwen2ForCausalLM", f"Qwen2{_CLASSIFIER}")
    model_types = ()
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a Qwen2 reranker and return the plan of its GGUF file. Raises ConversionError."""
        check_purpose(checkpoint, MXBAI_RERANK)
        check_fixed(checkpoint, {"hidden_act": "silu", "use_sliding_window": False, "use_mrope": False}, "Qwen2")
        layer_types = checkpoint.config.get("layer_types")
        if layer_types is not None and set(layer_types) != {"full_attention"}:
            raise ConversionError(f"{checkpoint.config_file}: layer_types: llama.cpp's Qwen2 supports only full_attention")
        shape = read_shape(checkpoint, optional=True)
        if shape.heads * shape.head != shape.hidden:
            raise ConversionError(
                f"{checkpoint.config_file}: {shape.heads} heads of {shape.head} numbers are not hidden_size, "
                f"{shape.hidden}, as llama.cpp's Qwen2 requires"
            )
        tokenizer = read_byte_bpe(checkpoint.model_folder, checkpoint.config, shape.vocabulary)
        metadata: Metadata = {
            **shape.metadata("qwen2"),
            Keys.Rope.FREQ_BASE.format(arch="qwen2"): rope_base(checkpoint, "rope_theta", "full_attention"),
            **tokenizer.metadata(),
        }
        stored = StoredTensors(checkpoint, plain_name, "Qwen2 reranker")
        embeddings = stored.take("embed_tokens.weight", shape.vocabulary, shape.hidden)
        tensors = [PlannedTensor("token_embd.weight", embeddings), *plain_layers(stored, shape, biases=("q", "k", "v"))]
        return _plan(checkpoint, MXBAI_RERANK, "qwen2", shape, metadata, _Weights(stored, embeddings, tensors), tokenizer)


class GemmaReranker:
    """Gemma as a reranker."""

    architectures = ("GemmaForCausalLM", f"Gemma{_CLASSIFIER}")
    model_types = ()
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a Gemma reranker and return the plan of its GGUF file. Raises ConversionError."""
        check_purpose(checkpoint, BGE_RERANKER_GEMMA)
        config = checkpoint.config
        # transformers takes GELU by tanh, as llama.cpp does, where a file has the older key hidden_act = "gelu".
        for key in ("hidden_activation", "hidden_act"):
            if config.get(key) not in (None, "gelu_pytorch_tanh", *(["gelu"] if key == "hidden_act" else [])):
                raise ConversionError(
                    f"{checkpoint.config_file}: {key} = {config[key]!r}; llama.cpp's Gemma supports only 'gelu_pytorch_tanh'"
                )
        check_fixed(checkpoint, {"attention_bias": False, "use_bidirectional_attention": None}, "Gemma")
        shape = read_shape(checkpoint)
        tokenizer = read_sentencepieces(checkpoint.model_folder, shape.vocabulary)
        metadata: Metadata = {
            **shape.metadata("gemma"),
            Keys.Rope.FREQ_BASE.format(arch="gemma"): rope_base(checkpoint, "rope_theta", "full_attention"),
            **tokenizer.metadata(),
        }
        stored = StoredTensors(checkpoint, plain_name, "Gemma reranker")
        embeddings = stored.take("embed_tokens.weight", shape.vocabulary, shape.hidden)
        tensors = [PlannedTensor("token_embd.weight", embeddings), *_gemma_layers(stored, shape)]
        return _plan(
            checkpoint, BGE_RERANKER_GEMMA, "gemma", shape, metadata, _Weights(stored, embeddings, tensors), tokenizer
        )


def check_purpose(checkpoint: Checkpoint, prompt: AnswerPrompt) -> None:
    """Raise ConversionError unless the checkpoint is a classifier, or a reranker with this prompt.

    Others generate text, or have another prompt.
    """
    if checkpoint.task == "rerank" or read_class_outputs(checkpoint):
        return
    if checkpoint.task == "embed" or not any(map(checkpoint.mentions, _SIGNS[prompt])):
        raise ConversionError(
            f"{checkpoint.folder}: {checkpoint.config.get('architectures')} is converted as a reranker only, and neither "
            f"README.md nor the chat template shows that this is one with the prompt of {prompt.name}. If it is, add "
            "--task rerank"
        )


@dataclass(frozen=True)
class _Weights:
    """The tensors of a checkpoint: those that are not yet placed, the table of embeddings, the planned ones."""

    stored: StoredTensors
    embeddings: StoredTensor
    planned: list[PlannedTensor]


def _plan(
    checkpoint: Checkpoint,
    prompt: AnswerPrompt,
    arch: str,
    shape: DecoderShape,
    metadata: Metadata,
    weights: _Weights,
    tokenizer: BytePairs | SentencePieces,
) -> ModelPlan:
    if outputs := read_class_outputs(checkpoint):
        weight = take_class_weights(weights.stored, shape, outputs)
        weights.stored.check_all_placed()
        metadata[Keys.Attention.CAUSAL.format(arch=arch)] = True
        plan = ModelPlan(arch, shape.hidden, "last", metadata, weights.planned)
        return as_classifier(checkpoint, plan, outputs, weight)
    check_reranker_modules(checkpoint)
    rows = _classifier_rows(checkpoint, prompt, shape, weights, tokenizer)
    weights.stored.check_all_placed()
    metadata = {
        **metadata,
        Keys.Attention.CAUSAL.format(arch=arch): True,
        Keys.LLM.POOLING_TYPE.format(arch=arch): int(PoolingType.RANK),
        CLASSIFIER_KEY: encode_floats(rows),
    }
    return ModelPlan(arch, shape.hidden, "rank", metadata, weights.planned, {"rerank": prompt.template})


def _classifier_rows(
    checkpoint: Checkpoint,
    prompt: AnswerPrompt,
    shape: DecoderShape,
    weights: _Weights,
    tokenizer: BytePairs | SentencePieces,
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return the weights of the classifier, shape (1, hidden): a difference of rows of the LM head, or its own."""
    stored = weights.stored
    if str(checkpoint.config.get("architectures")).endswith(f"{_CLASSIFIER}']"):
        return stored.take("score.weight", 1, shape.hidden).values()
    tied = checkpoint.config.get("tie_word_embeddings", True)  # GemmaConfig's; Qwen2's files have the key
    head = read_lm_head(checkpoint, stored, weights.embeddings, tied=bool(tied))
    numbers = [tokenizer.pieces.index(answer) if answer in tokenizer.pieces else None for answer in prompt.answers]
    _check_logit_score(checkpoint, prompt, numbers)
    found = tuple(number for number in numbers if is_id(number))
    if len(found) != len(numbers):
        raise ConversionError(f"{tokenizer.file}: the vocabulary lacks one of the answers {', '.join(prompt.answers)}")
    rows = np.concatenate(list(SelectedRows(head, found).rows()))
    return rows[:1] if len(rows) == 1 else rows[:1] - rows[1:]


def _check_logit_score(checkpoint: Checkpoint, prompt: AnswerPrompt, numbers: list[int | None]) -> None:
    for folder in [folder for kind, folder in checkpoint.modules or [] if kind == "LogitScore"]:
        content = read_json(folder / "config.json")
        named = [content.get("true_token_id"), content.get("false_token_id")]
        if named != [*numbers, None][:2]:
            raise ConversionError(
                f"{folder / 'config.json'}: the scores use the tokens {named!r}, not those of {prompt.name}"
            )


def _gemma_layers(stored: StoredTensors, shape: DecoderShape) -> Iterator[PlannedTensor]:
    def norm(source: str, target: str) -> PlannedTensor:
        # Gemma multiplies by 1 + weight, llama.cpp by the weight.
        return PlannedTensor(target, Plus(stored.take(source, shape.hidden), 1.0))

    for layer in range(shape.layers):
        source, target = f"layers.{layer}", f"blk.{layer}"
        yield norm(f"{source}.input_layernorm.weight", f"{target}.attn_norm.weight")
        yield from layer_projections(stored, shape, layer)
        yield norm(f"{source}.post_attention_layernorm.weight", f"{target}.ffn_norm.weight")
    yield norm("norm.weight", "output_norm.weight")
