"""Encoders with a classifier: BERT, DistilBERT, RoBERTa, XLM-RoBERTa, ELECTRA and ModernBERT.

Of one label they are cross-encoders, which score pairs (ms-marco-MiniLM, bge-reranker-v2-m3, jina-reranker-v2,
gte-reranker-modernbert-base); of several they classify texts (sentiment, languages, toxicity) or pairs (natural language
inference). See `edgeembed_convert.classes`.

Nogueira and Cho, "Passage Re-ranking with BERT", 2019: query and document are one input; the state of the first token goes
through a dense layer, tanh and a linear layer with an output for each label. llama.cpp calls the two layers `cls` and
`cls.output` and returns the bare outputs; the metadata says which function turns them into scores. Tensor names: those of
transformers' BertForSequenceClassification (whose dense layer is the pooler), XLMRobertaForSequenceClassification and
ModernBertForSequenceClassification, which has GELU and a norm in place of tanh.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gguf import PoolingType

from edgeembed.engine.classes import LABELS_KEY
from edgeembed.engine.dense import DenseHead, DenseLayer
from edgeembed.engine.template_parts import is_special
from edgeembed.errors import ConversionError
from edgeembed_convert.bpe import BytePairs
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.classes import Outputs, read_outputs
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
from edgeembed_convert.families.mpnet import MPNET, place_mpnet, read_mpnet
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
    """BERT with a classifier."""

    architectures = ("BertForSequenceClassification",)
    model_types = ()
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a BERT cross-encoder and return the plan of its GGUF file. Raises ConversionError."""
        shape = read_shape(checkpoint)
        tokenizer = read_tokenizer(checkpoint, shape.vocabulary)
        return _plan(checkpoint, shape, tokenizer, _Names(_BERT_HEAD))


class RobertaCrossEncoder:
    """RoBERTa or CamemBERT with a classifier."""

    architectures = ("RobertaForSequenceClassification", "CamembertForSequenceClassification")
    model_types = ()
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a RoBERTa cross-encoder and return the plan of its GGUF file. Raises ConversionError."""
        shape = read_shape_after_padding(checkpoint)
        tokenizer = read_roberta_tokenizer(checkpoint, shape.vocabulary)
        return _plan(checkpoint, shape, tokenizer, _Names(_ROBERTA_HEAD))


class XlmRobertaCrossEncoder:
    """XLM-RoBERTa with a classifier."""

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
    """ELECTRA with a classifier, which has GELU in place of tanh."""

    architectures = ("ElectraForSequenceClassification",)
    model_types = ()
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate an ELECTRA cross-encoder and return the plan of its GGUF file. Raises ConversionError."""
        shape = read_electra(checkpoint)
        tokenizer = read_tokenizer(checkpoint, shape.vocabulary)
        return _plan(checkpoint, shape, tokenizer, _Names(_ROBERTA_HEAD, activation="gelu"))


class DistilBertCrossEncoder:
    """DistilBERT with a classifier, which has ReLU in place of tanh."""

    architectures = ("DistilBertForSequenceClassification",)
    model_types = ()
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a DistilBERT cross-encoder and return the plan of its GGUF file. Raises ConversionError."""
        shape = read_distil_bert(checkpoint)
        tokenizer = read_tokenizer(checkpoint, shape.vocabulary)
        head = {"pre_classifier": "cls", "classifier": "cls.output"}
        return _plan(checkpoint, shape, tokenizer, _Names(head, "transformer.layer", DISTIL_BERT_PARTS, activation="relu"))


class MPNetCrossEncoder:
    """MPNet with a classifier."""

    architectures = ("MPNetForSequenceClassification",)
    model_types = ()
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate an MPNet classifier and return the plan of its GGUF file. Raises ConversionError."""
        stored = StoredTensors(checkpoint, place_mpnet, "MPNet classifier")
        outputs = read_outputs(checkpoint, _rows(stored, _ROBERTA_HEAD))
        parts = read_mpnet(checkpoint, stored, "rank")
        pair, _ = _read_pair(checkpoint, parts.tokenizer, required=LABELS_KEY not in outputs.metadata)
        tensors = [*parts.tensors, *_head(stored, parts.hidden, _ROBERTA_HEAD, outputs.count)]
        stored.check_all_placed()
        metadata = {**parts.metadata, **outputs.keys(ARCHITECTURE)}
        return ModelPlan(MPNET, parts.hidden, "rank", metadata, tensors, _prompts(pair, parts.tokenizer.pieces))


class ModernBertCrossEncoder:
    """ModernBERT with a prediction head and a classifier."""

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
        found: list[Outputs] = []

        def head(stored: StoredTensors, hidden: int) -> Iterator[PlannedTensor]:
            found.append(read_outputs(checkpoint, _rows(stored, ["classifier"])))
            return _modern_head(stored, hidden, found[0].count)

        parts = read_modern_bert(checkpoint, "rank", head)
        scores = found[0].keys(MODERN_BERT)
        pair, _ = _read_pair(checkpoint, parts.tokenizer, required=LABELS_KEY not in scores)  # without token types
        metadata = {
            **parts.metadata,
            **scores,
            f"{MODERN_BERT}.classifier.pooling_type": int(PoolingType[pooling.upper()]),
        }
        return ModelPlan(MODERN_BERT, parts.hidden, "rank", metadata, parts.tensors, _prompts(pair, parts.tokenizer.pieces))


def pair_template(pair: Template, pieces: Sequence[str]) -> str:
    """Return our template for a pair: the special tokens by name, "{query}" and "{document}". Raises ConversionError."""
    names = {"A": "{query}", "B": "{document}"}
    if unknown := [pieces[part] for part in pair if not isinstance(part, str) and not is_special(pieces[part])]:
        raise ConversionError(f"a reranker's template cannot have the special token {unknown[0]!r}")
    return "".join(names[part] if isinstance(part, str) else pieces[part] for part in pair)


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
    stored = StoredTensors(checkpoint, _place, "cross-encoder")
    outputs = read_outputs(checkpoint, _rows(stored, names.head))
    scores = outputs.keys(ARCHITECTURE)
    pair, segments = _read_pair(checkpoint, tokenizer, required=LABELS_KEY not in scores)
    tensors = list(encoder_tensors(stored, shape, layers=names.layers, parts=names.parts))
    if names.activation is None:
        tensors.extend(_head(stored, shape.hidden, names.head, outputs.count))
    else:
        scores |= _own_head(stored, shape.hidden, names, outputs.count)
    stored.check_all_placed()
    frame = {} if isinstance(tokenizer, WordPiece) else frame_metadata(tokenizer)
    metadata: Metadata = {**encoder_metadata(shape, "rank", tokenizer), **frame, **scores}
    if segments and shape.token_types > 1:
        sources = {tensor.name: tensor.source for tensor in tensors}
        words = TwoSegments(sources["token_embd.weight"], sources["token_types.weight"])
        tensors = [PlannedTensor(tensor.name, words) if tensor.name == "token_embd.weight" else tensor for tensor in tensors]
        metadata = add_second_segment(metadata, ARCHITECTURE)
    return ModelPlan(ARCHITECTURE, shape.hidden, "rank", metadata, tensors, _prompts(pair, tokenizer.pieces))


def _place(name: str) -> str | None:
    plain = plain_name(name.removeprefix("electra.").removeprefix("distilbert."))
    plain = plain.replace("emb_ln.", "embeddings.LayerNorm.")
    return None if plain.startswith(_DROPPED) else plain


def _rows(stored: StoredTensors, head: Iterable[str]) -> int:
    """Return the number of outputs of the last layer of a classifier."""
    *_, last = head
    return stored.shape(f"{last}.weight")[0]


def _prompts(pair: Template | None, pieces: Sequence[str]) -> dict[str, str]:
    return {} if pair is None else {"rerank": pair_template(pair, pieces)}


def _head(stored: StoredTensors, hidden: int, head: Mapping[str, str], labels: int) -> Iterator[PlannedTensor]:
    for (source, target), outputs in zip(head.items(), (hidden, labels), strict=True):
        yield stored.place(f"{source}.weight", f"{target}.weight", outputs, hidden, keep_f32=True)
        yield stored.place(f"{source}.bias", f"{target}.bias", outputs)


def _own_head(stored: StoredTensors, hidden: int, names: _Names, labels: int) -> Metadata:
    """Return the classifier as dense layers that our engine computes."""
    assert names.activation is not None
    layers = []
    for source, outputs, function in zip(names.head, (hidden, labels), (names.activation, "identity"), strict=True):
        weight, bias = stored.take(f"{source}.weight", outputs, hidden), stored.take(f"{source}.bias", outputs)
        layers.append(DenseLayer(weight.values(), bias.values(), function))
    return dict(DenseHead(layers).metadata())


def _modern_head(stored: StoredTensors, hidden: int, labels: int) -> Iterator[PlannedTensor]:
    yield stored.place("head.dense.weight", "cls.weight", hidden, hidden, keep_f32=True)
    yield stored.place("head.norm.weight", "cls.norm.weight", hidden)
    yield stored.place("classifier.weight", "cls.output.weight", labels, hidden, keep_f32=True)
    yield stored.place("classifier.bias", "cls.output.bias", labels)


def _read_pair(
    checkpoint: Checkpoint, tokenizer: WordPiece | Unigram | BytePairs | SentencePieces, *, required: bool
) -> tuple[Template | None, bool]:
    """Return the template for a pair, and whether everything from the second text on has token type 1.

    None for a tokenizer without one, unless it is required. Raises ConversionError.
    """
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
    if pair is None and not required:
        return None, False
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
