"""Encoders that score pairs: cross-encoders on BERT (ms-marco-MiniLM), RoBERTa (stsb-distilroberta-base), XLM-RoBERTa
(bge-reranker-v2-m3, mmarco-mMiniLM, jina-reranker-v2) and ModernBERT (gte-reranker-modernbert-base).

Nogueira and Cho, "Passage Re-ranking with BERT", 2019: query and document are one input; the state of the first token goes
through a dense layer, tanh and a linear layer with one output. llama.cpp calls the two layers `cls` and `cls.output` and
returns the raw output; the metadata says which function turns it into a score. Tensor names: those of transformers'
BertForSequenceClassification (whose dense layer is the pooler), XLMRobertaForSequenceClassification and
ModernBertForSequenceClassification, which has GELU and a norm in place of tanh.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gguf import Keys, PoolingType

from edgeembed.engine.dense import DenseHead, DenseLayer
from edgeembed.engine.template_parts import is_special
from edgeembed.errors import ConversionError
from edgeembed_convert.bpe import BytePairs
from edgeembed_convert.checkpoint import Checkpoint, torch_class
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.families.bert_encoder import (
    ARCHITECTURE,
    LAYER_PARTS,
    EncoderShape,
    encoder_metadata,
    encoder_tensors,
    plain_name,
    read_shape,
    read_shape_after_padding,
    read_tokenizer,
)
from edgeembed_convert.families.distil_bert import LAYER_PARTS as DISTIL_BERT_PARTS
from edgeembed_convert.families.distil_bert import read_distil_bert
from edgeembed_convert.families.electra import read_electra
from edgeembed_convert.families.modern_bert import ARCHITECTURE as MODERN_BERT
from edgeembed_convert.families.modern_bert import read_modern_bert
from edgeembed_convert.families.roberta import frame_metadata, read_roberta_tokenizer
from edgeembed_convert.families.settings import check_fixed
from edgeembed_convert.families.stored import StoredTensors
from edgeembed_convert.families.xlm_roberta import read_xlm_roberta
from edgeembed_convert.jsonfile import read_json
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.segments import TwoSegments, add_second_segment
from edgeembed_convert.sentencepiece import SentencePieces
from edgeembed_convert.template import Template, read_segments, read_templates
from edgeembed_convert.tokenizer import WordPiece
from edgeembed_convert.tokenizer_json import read_tokenizer_files
from edgeembed_convert.unigram import Unigram

ACTIVATION_KEY = "edgeembed.rerank.activation"
"""The function that turns the output of the model into a score: "sigmoid" or "none"."""

# Class names, the last part of what sentence-transformers' CrossEncoder stores.
_ACTIVATIONS = {"Sigmoid": "sigmoid", "Identity": "none"}
_DROPPED = ("embeddings.position_ids", "embeddings.token_type_ids")
_FIXED_MODERN = {"classifier_activation": "gelu", "classifier_bias": False}
# What the code of jina-reranker-v2 can do besides; the values are its defaults.
_FIXED_JINA = {
    "emb_pooler": None,
    "fused_mlp": False,
    "last_layer_subset": False,
    "lora_adaptations": None,
    "pad_vocab_size_multiple": 1,
}
_JINA_PARTS = {
    "mixer.Wqkv": "attn_qkv",
    "mixer.out_proj": "attn_output",
    "norm1": "attn_output_norm",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
    "norm2": "layer_output_norm",
}
_BERT_HEAD = {"pooler.dense": "cls", "classifier": "cls.output"}
_ROBERTA_HEAD = {"classifier.dense": "cls", "classifier.out_proj": "cls.output"}


class BertCrossEncoder:
    """BERT with a classifier of one label."""

    architectures = ("BertForSequenceClassification",)
    model_types = ()
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a BERT cross-encoder and return the plan of its GGUF file. Raises ConversionError."""
        shape = read_shape(checkpoint)
        tokenizer = read_tokenizer(checkpoint, shape.vocabulary)
        return _plan(checkpoint, shape, tokenizer, _Names(_BERT_HEAD))


class RobertaCrossEncoder:
    """RoBERTa or CamemBERT with a classifier of one label."""

    architectures = ("RobertaForSequenceClassification", "CamembertForSequenceClassification")
    model_types = ()
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a RoBERTa cross-encoder and return the plan of its GGUF file. Raises ConversionError."""
        shape = read_shape_after_padding(checkpoint)
        tokenizer = read_roberta_tokenizer(checkpoint, shape.vocabulary)
        return _plan(checkpoint, shape, tokenizer, _Names(_ROBERTA_HEAD))


class XlmRobertaCrossEncoder:
    """XLM-RoBERTa with a classifier of one label."""

    architectures = ("XLMRobertaForSequenceClassification",)
    model_types = ()
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate an XLM-RoBERTa cross-encoder and return the plan of its GGUF file. Raises ConversionError."""
        shape, tokenizer = read_xlm_roberta(checkpoint)
        return _plan(checkpoint, shape, tokenizer, _Names(_ROBERTA_HEAD))


class JinaReranker:
    """jina-reranker-v2: XLM-RoBERTa in the makers' own code, which has other names and joint queries, keys and values."""

    architectures = ("XLMRobertaForSequenceClassification",)
    model_types = ()
    followed_code = tuple(
        f"{owner}modeling_xlm_roberta.{name}"
        for owner in ("", "jinaai/jina-reranker-v2-base-multilingual--")
        for name in ("XLMRobertaModel", "XLMRobertaForSequenceClassification")
    )

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a jina-reranker-v2 checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        check_fixed(checkpoint, _FIXED_JINA, "BERT")
        shape, tokenizer = read_xlm_roberta(checkpoint)
        return _plan(checkpoint, shape, tokenizer, _Names(_ROBERTA_HEAD, "encoder.layers", _JINA_PARTS))


class ElectraCrossEncoder:
    """ELECTRA with a classifier of one label, which has GELU in place of tanh."""

    architectures = ("ElectraForSequenceClassification",)
    model_types = ()
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate an ELECTRA cross-encoder and return the plan of its GGUF file. Raises ConversionError."""
        shape = read_electra(checkpoint)
        tokenizer = read_tokenizer(checkpoint, shape.vocabulary)
        return _plan(checkpoint, shape, tokenizer, _Names(_ROBERTA_HEAD, activation="gelu"))


class DistilBertCrossEncoder:
    """DistilBERT with a classifier of one label, which has ReLU in place of tanh."""

    architectures = ("DistilBertForSequenceClassification",)
    model_types = ()
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a DistilBERT cross-encoder and return the plan of its GGUF file. Raises ConversionError."""
        shape = read_distil_bert(checkpoint)
        tokenizer = read_tokenizer(checkpoint, shape.vocabulary)
        head = {"pre_classifier": "cls", "classifier": "cls.output"}
        return _plan(checkpoint, shape, tokenizer, _Names(head, "transformer.layer", DISTIL_BERT_PARTS, activation="relu"))


class ModernBertCrossEncoder:
    """ModernBERT with a prediction head and a classifier of one label."""

    architectures = ("ModernBertForSequenceClassification",)
    model_types = ()
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a ModernBERT cross-encoder and return the plan of its GGUF file. Raises ConversionError."""
        check_fixed(checkpoint, _FIXED_MODERN, "ModernBERT classifier")
        pooling = checkpoint.config.get("classifier_pooling", "cls")
        if pooling not in ("cls", "mean"):
            raise ConversionError(
                f"{checkpoint.config_file}: classifier_pooling = {pooling!r}; llama.cpp's ModernBERT supports only"
                " cls and mean"
            )
        parts = read_modern_bert(checkpoint, "rank", _modern_head)
        pair, _ = _read_pair(checkpoint, parts.tokenizer)  # the model has no token types
        metadata = {
            **parts.metadata,
            **_score_metadata(checkpoint, MODERN_BERT),
            f"{MODERN_BERT}.classifier.pooling_type": int(PoolingType[pooling.upper()]),
        }
        prompts = {"rerank": pair_template(pair, parts.tokenizer.pieces)}
        return ModelPlan(MODERN_BERT, parts.hidden, "rank", metadata, parts.tensors, prompts)


def read_activation(checkpoint: Checkpoint) -> str:
    """Return the function that turns the output into a score, as CrossEncoder of sentence-transformers chooses it.

    It is in CrossEncoder's own file, or else in config.json under the newer or the older key; the default is a sigmoid.
    Raises ConversionError for any other function.
    """
    file = checkpoint.folder / "config_sentence_transformers.json"
    newer = checkpoint.config.get("sentence_transformers")
    name = read_json(file).get("activation_fn") if file.is_file() else None
    if name is None and isinstance(newer, dict):
        name = newer.get("activation_fn")
    if name is None:
        name = checkpoint.config.get("sbert_ce_default_activation_function")
    if name is None:
        return "sigmoid"
    activation = _ACTIVATIONS.get(torch_class(name) or "")
    if activation is None:
        raise ConversionError(
            f"{checkpoint.config_file}: the activation {name!r} is not supported; expected Sigmoid or Identity"
        )
    return activation


def read_label(checkpoint: Checkpoint) -> list[str]:
    """Return the label in config.json, if there is one. Raises ConversionError for a classifier with several labels."""
    labels = checkpoint.config.get("id2label")
    if labels is None:
        return []
    if not isinstance(labels, dict) or len(labels) != 1:
        raise ConversionError(
            f"{checkpoint.config_file}: the classifier has the labels {labels!r}; a reranker must have one"
        )
    return [str(label) for label in labels.values()]


def check_modules(checkpoint: Checkpoint) -> None:
    """Raise ConversionError if modules.json contains more than the encoder."""
    kinds = [kind for kind, _ in checkpoint.modules or []]
    if kinds not in ([], ["Transformer"]):
        raise ConversionError(
            f"{checkpoint.folder / 'modules.json'}: unexpected modules {', '.join(kinds)}; expected only Transformer"
        )


def pair_template(pair: Template, pieces: Sequence[str]) -> str:
    """Return our template for a pair: the special tokens by name, "{query}" and "{document}". Raises ConversionError."""
    names = {"A": "{query}", "B": "{document}"}
    if unknown := [pieces[part] for part in pair if not isinstance(part, str) and not is_special(pieces[part])]:
        raise ConversionError(f"a reranker's template cannot have the special token {unknown[0]!r}")
    return "".join(names[part] if isinstance(part, str) else pieces[part] for part in pair)


def _score_metadata(checkpoint: Checkpoint, arch: str) -> Metadata:
    """Return what a file says of its scores. Raises ConversionError if the checkpoint does not compute one score."""
    check_modules(checkpoint)
    label = read_label(checkpoint)
    metadata: Metadata = {ACTIVATION_KEY: read_activation(checkpoint)}
    return {**metadata, Keys.Classifier.OUTPUT_LABELS.format(arch=arch): label} if label else metadata


@dataclass(frozen=True)
class _Names:
    """The names of a checkpoint's tensors."""

    head: Mapping[str, str]
    """The two layers of the classifier, and llama.cpp's names of them."""
    layers: str = "encoder.layer"
    parts: Mapping[str, str] = field(default_factory=lambda: LAYER_PARTS)
    activation: str | None = None
    """The function between the layers of the classifier, if it is not tanh as in llama.cpp's graph."""


def _plan(
    checkpoint: Checkpoint, shape: EncoderShape, tokenizer: WordPiece | Unigram | BytePairs, names: _Names
) -> ModelPlan:
    scores = _score_metadata(checkpoint, ARCHITECTURE)
    pair, segments = _read_pair(checkpoint, tokenizer)
    stored = StoredTensors(checkpoint, _place, "cross-encoder")
    tensors = list(encoder_tensors(stored, shape, layers=names.layers, parts=names.parts))
    if names.activation is None:
        tensors.extend(_head(stored, shape.hidden, names.head))
    else:
        scores |= _own_head(stored, shape.hidden, names.head, names.activation)
    stored.check_all_placed()
    frame = {} if isinstance(tokenizer, WordPiece) else frame_metadata(tokenizer)
    metadata: Metadata = {**encoder_metadata(shape, "rank", tokenizer), **frame, **scores}
    if segments and shape.token_types > 1:
        sources = {tensor.name: tensor.source for tensor in tensors}
        words = TwoSegments(sources["token_embd.weight"], sources["token_types.weight"])
        tensors = [PlannedTensor(tensor.name, words) if tensor.name == "token_embd.weight" else tensor for tensor in tensors]
        metadata = add_second_segment(metadata, ARCHITECTURE)
    prompts = {"rerank": pair_template(pair, tokenizer.pieces)}
    return ModelPlan(ARCHITECTURE, shape.hidden, "rank", metadata, tensors, prompts)


def _place(name: str) -> str | None:
    plain = plain_name(name.removeprefix("electra.").removeprefix("distilbert."))
    plain = plain.replace("emb_ln.", "embeddings.LayerNorm.")
    return None if plain.startswith(_DROPPED) else plain


def _head(stored: StoredTensors, hidden: int, head: Mapping[str, str]) -> Iterator[PlannedTensor]:
    for (source, target), outputs in zip(head.items(), (hidden, 1), strict=True):
        yield stored.place(f"{source}.weight", f"{target}.weight", outputs, hidden, keep_f32=True)
        yield stored.place(f"{source}.bias", f"{target}.bias", outputs)


def _own_head(stored: StoredTensors, hidden: int, head: Mapping[str, str], activation: str) -> Metadata:
    """Return the classifier as dense layers that our engine computes."""
    layers = []
    for source, outputs, function in zip(head, (hidden, 1), (activation, "identity"), strict=True):
        weight, bias = stored.take(f"{source}.weight", outputs, hidden), stored.take(f"{source}.bias", outputs)
        layers.append(DenseLayer(weight.values(), bias.values(), function))
    return dict(DenseHead(layers).metadata())


def _modern_head(stored: StoredTensors, hidden: int) -> Iterator[PlannedTensor]:
    yield stored.place("head.dense.weight", "cls.weight", hidden, hidden, keep_f32=True)
    yield stored.place("head.norm.weight", "cls.norm.weight", hidden)
    yield stored.place("classifier.weight", "cls.output.weight", 1, hidden, keep_f32=True)
    yield stored.place("classifier.bias", "cls.output.bias", 1)


def _read_pair(checkpoint: Checkpoint, tokenizer: WordPiece | Unigram | BytePairs | SentencePieces) -> tuple[Template, bool]:
    """Return the template for a pair, and whether everything from the second text on has token type 1."""
    folder = checkpoint.model_folder
    file = folder / "tokenizer.json"
    if file.is_file() or not (folder / "vocab.txt").is_file():
        file, content, _ = read_tokenizer_files(folder)
        _, pair = read_templates(content, file)
        segments = read_segments(content, file)
    else:  # vocab.txt: BERT's format
        special = tokenizer.special
        pair = [special["cls"], "A", special["sep"], "B", special["sep"]]
        segments = [0, 0, 0, 1, 1]
    if pair is None or [part for part in pair if isinstance(part, str)] != ["A", "B"]:
        raise ConversionError(f"{file}: the post-processor has no template for a pair of query and document")
    if any(isinstance(part, int) and part >= len(tokenizer.pieces) for part in pair):
        raise ConversionError(f"{file}: the post-processor adds tokens that are not in the vocabulary")
    config_file = folder / "tokenizer_config.json"
    inputs = read_json(config_file).get("model_input_names") if config_file.is_file() else None
    # If the tokenizer does not output token types, the model uses type 0 throughout.
    if not any(segments) or (isinstance(inputs, list) and "token_type_ids" not in inputs):
        return pair, False
    second = pair.index("B")
    if segments != [0] * second + [1] * (len(pair) - second):
        raise ConversionError(
            f"{file}: unsupported token types {segments} of a pair; expected 0 before the document, 1 from there on"
        )
    return pair, True
