"""Qwen3-Embedding and Qwen3-Reranker, and models fine-tuned from them.

Architecture: Qwen3 (Yang et al., "Qwen3 Technical Report", 2025), used as in Zhang et al., "Qwen3 Embedding", 2025: the
state of the last token is the vector; a reranker compares the logits of "yes" and "no" there. Tensor names: those of
transformers' Qwen3Model.

Embedders, rerankers and text generators have the same architecture, so the checkpoint's files or the caller must say which
one it is; see `_is_reranker`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from gguf import Keys, PoolingType

from edgeembed.errors import ConversionError
from edgeembed_convert.bpe import BytePairs, read_byte_bpe
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.classes import Outputs
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.families.decoder import (
    DecoderShape,
    as_classifier,
    check_reranker_modules,
    layer_projections,
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
from edgeembed_convert.tokenizer_json import is_id
from edgeembed_convert.views import SelectedRows, TensorSource, WithZeroRow
from edgeembed_convert.weights import StoredTensor

_ARCHITECTURE = "qwen3"
_CLASSIFIER = "Qwen3ForSequenceClassification"
# The only values that the graph supports. They are also the defaults of transformers' Qwen3Config.
_FIXED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "use_sliding_window": False,
    "is_causal": True,
}
LABELS = ("yes", "no")
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
# From Qwen3-Reranker's model card.
RERANK_TEMPLATE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
_SCAFFOLD = "Judge whether the Document meets the requirements based on the Query and the Instruct provided"
# From Qwen3-Embedding's model card: vectors may be truncated to any length in this range.
_MATRYOSHKA = re.compile(r"output dimensions ranging from (\d+) to (\d+)")


class Qwen3:
    """The Qwen3 family."""

    architectures = ("Qwen3Model", "Qwen3ForCausalLM", _CLASSIFIER)
    model_types = ()
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a Qwen3 checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        if outputs := read_class_outputs(checkpoint):
            return _plan(checkpoint, "last", outputs=outputs)[0]
        if not _is_reranker(checkpoint):
            hidden = checkpoint.positive_int("hidden_size")
            return plan_embedder(checkpoint, checkpoint.pooling(hidden), read_matryoshka(checkpoint, hidden))
        plan, tokenizer = _plan(checkpoint, "rank")
        arch, metadata = plan.architecture, dict(plan.metadata)
        check_reranker_modules(checkpoint)
        _check_scaffold(checkpoint)
        if tokenizer.adds_bos or tokenizer.adds_eos:
            raise ConversionError(
                f"{tokenizer.file}: the post-processor adds a token to each text, but a reranker's prompt must end where "
                "the answer begins"
            )
        metadata[Keys.Classifier.OUTPUT_LABELS.format(arch=arch)] = list(LABELS)
        # The name that llama.cpp's server uses; it does not support instructions.
        metadata[Keys.Tokenizer.CHAT_TEMPLATES] = ["rerank"]
        metadata[Keys.Tokenizer.CHAT_TEMPLATE_N.format(name="rerank")] = RERANK_TEMPLATE.replace(
            "{instruction}", INSTRUCTION
        )
        prompts = {"rerank": RERANK_TEMPLATE, "instruction": INSTRUCTION}
        return replace(plan, metadata=metadata, prompts=prompts)


def plan_embedder(
    checkpoint: Checkpoint,
    pooling: str,
    matryoshka: tuple[int, int] | None,
    place: Callable[[str], str | None] = plain_name,
) -> ModelPlan:
    """Return the plan for a model that computes vectors with this pooling. place: as in StoredTensors.

    Raises ConversionError.
    """
    return replace(_plan(checkpoint, pooling, place)[0], prompts=checkpoint.prompts, matryoshka=matryoshka)


def _plan(
    checkpoint: Checkpoint,
    pooling: str,
    place: Callable[[str], str | None] = plain_name,
    outputs: Outputs | None = None,
) -> tuple[ModelPlan, BytePairs]:
    """Return a plan without prompts, and the tokenizer. outputs: of a classifier."""
    check_fixed(checkpoint, _FIXED, "Qwen3")
    layer_types = checkpoint.config.get("layer_types")
    if layer_types is not None and set(layer_types) != {"full_attention"}:
        raise ConversionError(
            f"{checkpoint.config_file}: unsupported layer_types; llama.cpp's Qwen3 supports only full_attention"
        )
    shape = read_shape(checkpoint)
    tokenizer = read_byte_bpe(checkpoint.model_folder, checkpoint.config, shape.vocabulary)
    stored = StoredTensors(checkpoint, place, "Qwen3 model for vectors or scores")
    classifier = take_class_weights(stored, shape, outputs) if outputs else None
    tensors = list(_tensors(checkpoint, shape, stored, tokenizer, reranks=pooling == "rank"))
    arch = _ARCHITECTURE
    metadata: Metadata = {
        **shape.metadata(arch),
        Keys.Rope.FREQ_BASE.format(arch=arch): rope_base(checkpoint, "rope_theta", "full_attention"),
        Keys.Attention.CAUSAL.format(arch=arch): True,
        Keys.LLM.POOLING_TYPE.format(arch=arch): int(PoolingType[pooling.upper()]),
        **tokenizer.metadata(),
    }
    plan = ModelPlan(arch, shape.hidden, pooling, metadata, tensors)
    return as_classifier(checkpoint, plan, outputs, classifier) if outputs and classifier else plan, tokenizer


def _is_reranker(checkpoint: Checkpoint) -> bool:
    """Return whether the model scores pairs instead of computing vectors.

    Decided by, in this order: a classification head; the modules of sentence-transformers, where Pooling means vectors and
    LogitScore scores; the model card's pipeline_tag; the caller. Raises ConversionError if none of them says it: the
    checkpoint may be a text generator, whose vectors would be useless.
    """
    kinds = {kind for kind, _ in checkpoint.modules or []}
    tag = checkpoint.card_value("pipeline_tag")
    if checkpoint.config.get("architectures") == [_CLASSIFIER] or "LogitScore" in kinds:
        return True
    if checkpoint.modules is not None:
        return False
    if tag == "text-ranking" or checkpoint.task == "rerank":
        return True
    if checkpoint.task == "embed":
        return False  # without modules.json the missing pooling is reported
    raise ConversionError(
        f"{checkpoint.folder}: the purpose of this Qwen3 model is unknown: it has no modules.json, and its README.md has "
        f"pipeline_tag {tag!r}. If it is a reranker, add --task rerank"
    )


def _check_scaffold(checkpoint: Checkpoint) -> None:
    """Raise ConversionError unless the reranker uses Qwen3-Reranker's prompt; scores with another prompt are noise.

    The model card or the chat template contains the prompt, or the caller confirms it with the task.
    """
    if checkpoint.task != "rerank" and not checkpoint.mentions(_SCAFFOLD):
        raise ConversionError(
            f"{checkpoint.folder}: neither README.md nor the chat template contains Qwen3-Reranker's prompt, and "
            "other prompts are not supported. If the model uses that prompt, add --task rerank"
        )


def _tensors(
    checkpoint: Checkpoint, shape: DecoderShape, stored: StoredTensors, tokenizer: BytePairs, *, reranks: bool
) -> Iterator[PlannedTensor]:
    """Yield the tensors in the order of the computation. Raises ConversionError for missing, misshapen and extra ones.

    The LM head is omitted: neither vectors nor scores need it, and llama.cpp uses the token embeddings instead.
    """
    embeddings = stored.take("embed_tokens.weight", shape.vocabulary, shape.hidden)
    yield PlannedTensor("token_embd.weight", embeddings)
    for layer in range(shape.layers):
        source, target, size = f"layers.{layer}", f"blk.{layer}", shape.hidden
        yield stored.place(f"{source}.input_layernorm.weight", f"{target}.attn_norm.weight", size)
        yield from layer_projections(stored, shape, layer)
        for part in ("q_norm", "k_norm"):
            yield stored.place(f"{source}.self_attn.{part}.weight", f"{target}.attn_{part}.weight", shape.head)
        yield stored.place(f"{source}.post_attention_layernorm.weight", f"{target}.ffn_norm.weight", size)
    yield stored.place("norm.weight", "output_norm.weight", shape.hidden)
    tied = bool(checkpoint.config.get("tie_word_embeddings"))
    required = reranks and "score.weight" not in stored
    head = read_lm_head(checkpoint, stored, embeddings, tied=tied, required=required)
    if reranks:
        yield PlannedTensor("cls.output.weight", _classifier(checkpoint, stored, head, tokenizer, shape), keep_f32=True)
    stored.check_all_placed()


def _classifier(
    checkpoint: Checkpoint, stored: StoredTensors, head: StoredTensor, tokenizer: BytePairs, shape: DecoderShape
) -> TensorSource:
    """Return the two rows for the logits of yes and no, of which llama.cpp computes the softmax."""
    if checkpoint.config.get("architectures") == [_CLASSIFIER]:
        # softmax(s, 0) = sigmoid(s), the probability for a single score.
        return WithZeroRow(stored.take("score.weight", 1, shape.hidden))
    logit_score = [folder / "config.json" for kind, folder in checkpoint.modules or [] if kind == "LogitScore"]
    if logit_score:
        content = read_json(logit_score[0])
        file, named = logit_score[0], [content.get("true_token_id"), content.get("false_token_id")]
        if named != [tokenizer.id_of(label) for label in LABELS]:
            raise ConversionError(f"{file}: the scores use the tokens {named!r} instead of yes and no: not a Qwen3-Reranker")
    else:
        file, named = tokenizer.file, [tokenizer.id_of(label) for label in LABELS]
    numbers = tuple(number for number in named if is_id(number) and number < shape.vocabulary)
    if len(numbers) != 2:
        raise ConversionError(f"{file}: the tokens for yes and no have the invalid ids {named!r}")
    return SelectedRows(head, numbers)


def read_matryoshka(checkpoint: Checkpoint, hidden: int) -> tuple[int, int] | None:
    """Return the range of dimensions in the model card; None if it describes another size of the model."""
    match = _MATRYOSHKA.search(checkpoint.card)
    if match is None or int(match[2]) != hidden or not 0 < int(match[1]) <= hidden:
        return None
    return int(match[1]), hidden
