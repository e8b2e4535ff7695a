"""The frame of a model: the special tokens around a text, the pre-tokenizer, the pooling, the layers after it.

A file of another converter may state it wrong or not at all, and its vectors are then wrong without a sign. So the frame is
compared with that of the file's family (`families`): what llama.cpp lets us override is mended, the rest is refused. Files
of our converter have canary rows, which show more than a comparison; they are not compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from edgeembed.common.files import FileIdentity, describe_os_error
from edgeembed.engine import canary
from edgeembed.engine.answer_prompts import AnswerPrompt
from edgeembed.engine.classes import LABELS_KEY, Classes
from edgeembed.engine.classifier import CLASSIFIER_KEY
from edgeembed.engine.float_strings import encode_floats
from edgeembed.engine.interface import Float32Matrix
from edgeembed.engine.pair_template import INSTRUCTION_KEY, TEMPLATE_KEY
from edgeembed.engine.worker_options import MetadataValue
from edgeembed.errors import HubError, UnknownModelError
from edgeembed.hub.gguf.coarse import describe_coarse_weights
from edgeembed.hub.gguf.families import VOCABULARIES, ModelFrame, VocabularyFrame, model_of
from edgeembed.hub.gguf.file import GgufHead, GgufReader, Scalar, TensorInfo
from edgeembed.hub.gguf.frame_facts import POOLINGS, FrameFacts
from edgeembed.hub.gguf.frame_tokens import FrameTokens
from edgeembed.hub.gguf.header import RANK_POOLING, open_gguf
from edgeembed.hub.gguf.lm_head import read_head_rows
from edgeembed.hub.gguf.tensors import tensor_starts
from edgeembed.hub.gguf.vocabulary import SPLITTER_KEY

_POOLING_NUMBERS = {name: number for number, name in POOLINGS.items()}
_NORMALIZER_KEY = "edgeembed.tokenizer.normalizer"
_LOWERCASE_KEY = "tokenizer.ggml.normalizer.lowercase"
_RERANK_PROMPT_KEY = "tokenizer.chat_template.rerank"
_CONVERTER_KEY = "edgeembed.converter.version"
_INSTRUCT = re.compile(r"<Instruct>: (.+?)\n")
_ANSWERS = ("qwen3", "qwen3vl")
"""Architectures whose rerankers have two labels, the answers yes and no."""
_OFTEN_DENSE = ("gemma-embedding", "t5encoder")
_DECODERS = frozenset({"gemma", "gemma3", "llama", "qwen2", "qwen3"})
_NEVER_CAUSAL = frozenset({"gemma-embedding"})
"""Architectures whose graph in llama.cpp ignores the file's key for it."""
_OBEYS_CAUSAL = frozenset({"llama", "llama-embed", "qwen2"})
"""Architectures whose graph obeys that key, which llama.cpp's converter often leaves out: causal is the default."""
_OTHER_SPLITTERS = {
    "gpt-2": ("modern-bert",),
    "roberta-bpe": ("gpt-2", "jina-v1-en", "jina-v2-de", "jina-v2-es", "jina-v2-code", "jina-de", "jina-es"),
    "llama-bpe": ("jina-v5-nano",),
    "lfm2": ("llama-bpe", "dbrx"),
}
"""Other names of a pre-tokenizer with the same pattern."""
_CASED_SHARE = 0.01
"""A vocabulary of lower-cased texts has no capitals, apart from the names of special tokens."""


@dataclass(frozen=True)
class Frame:
    """The frame of a file, mended where it had to be."""

    family: str | None
    """The model or the vocabulary that it was recognised by; None if neither is known."""
    pooling: str | None
    before: str | None
    """The special token before a text; None if there is none, or its name is not known."""
    after: str | None
    splitter: str | None
    """llama.cpp's name of the pre-tokenizer."""
    dense: int
    """How many dense layers follow the pooling."""
    proven: bool
    """Whether canary rows in the file show that it is right."""
    mends: Mapping[str, MetadataValue] = field(default_factory=dict)
    """Metadata to use instead of the file's."""
    mended: tuple[str, ...] = ()
    """The same for people."""
    unchecked: tuple[str, ...] = ()
    """What could not be compared with anything."""
    refusal: str | None = None
    """Why its vectors would be wrong, if that cannot be mended."""
    coarse: str | None = None
    """What it costs that most of its weights have less than four bits."""


def read_frame(path: Path) -> Frame:
    """Return the frame of a GGUF file. Raises UnknownModelError or HubError as `read_header` does."""
    with open_gguf(path) as reader:
        head = reader.head()
        tensors = reader.tensors(head)
        return frame_of(reader, head, tensors, reader.position)


def frame_of(reader: GgufReader, head: GgufHead, tensors: Sequence[TensorInfo], end: int) -> Frame:
    """Return the frame of an open file. end: of the tensors' descriptions. Raises MalformedError."""

    def head_rows(numbers: Sequence[int]) -> Float32Matrix:
        return read_head_rows(
            reader, {tensor.name: tensor for tensor in tensors}, tensor_starts(head, tensors, end), numbers
        )

    shapes = {tensor.name: tensor.shape for tensor in tensors}
    frame = _Comparison(head, shapes, FrameTokens.of(reader, head), head_rows).frame()
    return replace(frame, coarse=describe_coarse_weights(tensors))


def frame_of_foreign(path: Path) -> Frame | None:
    """Return the frame of a file without canary rows; None for one that has them. Quick for that, and the second time.

    Raises UnknownModelError or HubError.
    """
    try:
        return _frame_of_foreign(path, FileIdentity.of(path))
    except FileNotFoundError as error:
        raise UnknownModelError(f"there is no file {path}") from error
    except OSError as error:
        raise HubError(f"cannot read {describe_os_error(error, path)}") from error


@lru_cache(256)
def _frame_of_foreign(path: Path, _identity: FileIdentity) -> Frame | None:
    with open_gguf(path) as reader:
        head = reader.head()
        if canary.ROWS_KEY in head.values:
            return None
        tensors = reader.tensors(head)
        return frame_of(reader, head, tensors, reader.position)


class _Comparison:
    """Compares one file with its family."""

    def __init__(
        self,
        head: GgufHead,
        shapes: Mapping[str, tuple[int, ...]],
        tokens: FrameTokens,
        head_rows: Callable[[Sequence[int]], Float32Matrix],
    ) -> None:
        """head_rows: returns the rows of the LM head for some tokens."""
        self._head_rows = head_rows
        self._file = FrameFacts(head.values, shapes, tokens)
        self._unchecked: list[str] = []
        self._refusal: str | None = None

    def frame(self) -> Frame:
        name = self._file.values.get("general.name")
        model = model_of(self._file.architecture, name) if isinstance(name, str) else None
        vocabulary = self._find_vocabulary()
        proven = canary.ROWS_KEY in self._file.values
        if not proven:
            self._compare_pooling(model)
            self._compare_vocabulary(vocabulary, model)
            self._compare_attention(model)
            self._compare_layers(model)
            self._compare_pairs(vocabulary, model)
        family = f"{self._file.architecture} with {vocabulary.name} vocabulary" if vocabulary else None
        if model is not None:
            family = model.name
        before, after = self._file.special_tokens()
        splitter = self._file.value(SPLITTER_KEY) if self._file.tokenizer == "gpt2" else None
        return Frame(
            family=family,
            pooling=self._file.pooling,
            before=before,
            after=after,
            splitter=str(splitter) if splitter is not None else None,
            dense=self._file.dense,
            proven=proven,
            mends=self._file.mends,
            mended=tuple(self._file.mended),
            unchecked=tuple(self._unchecked),
            refusal=self._refusal,
        )

    # --- parts --------------------------------------------------------------------------------------------------------

    def _compare_pooling(self, model: ModelFrame | None) -> None:
        key = f"{self._file.keys}.pooling_type"
        if self._file.is_cross_encoder and key not in self._file.values:
            self._file.expect(key, RANK_POOLING)
            self._file.expect(f"{self._file.keys}.attention.causal", False)
        elif self._file.pooling == "rank":
            return
        elif model is not None:
            self._file.expect(key, _POOLING_NUMBERS[model.pooling])
        elif self._file.pooling is not None:
            self._unchecked.append(f"the pooling, which the file says is {self._file.pooling}")

    def _compare_vocabulary(self, family: VocabularyFrame | None, model: ModelFrame | None) -> None:
        if self._file.architecture in ("bert", "nomic-bert") and self._file.tokenizer == "bert" and self._file.is_unigram:
            self._refuse(
                "its vocabulary is one of SentencePiece (Unigram) that was written as WordPiece, so that texts "
                "get other tokens than the model was trained with; convert the checkpoint again with edgeembed convert"
            )
            return
        if family is None:
            self._unchecked.append("the special tokens around a text, and how the tokenizer splits it")
            return
        if family.splitter is not None and self._file.values.get(SPLITTER_KEY) in (None, "", "default"):
            self._file.expect(SPLITTER_KEY, family.splitter)
        if family.normalizer is not None and _NORMALIZER_KEY not in self._file.values:
            self._file.mends[_NORMALIZER_KEY] = family.normalizer  # llama.cpp has no key for it, so no file is at fault
        for name, value in family.flags:
            self._file.expect(f"tokenizer.ggml.{name}", value)
        if family.unknown is not None:
            self._file.expect("tokenizer.ggml.unknown_token_id", self._file.tokens.ids[family.unknown])
        cased = self._file.tokens.capitals > _CASED_SHARE * self._file.tokens.count
        if family.model == "bert" and _LOWERCASE_KEY not in self._file.values and cased:
            self._file.expect(_LOWERCASE_KEY, False)
        self._compare_special_tokens(family, model)

    def _compare_special_tokens(self, family: VocabularyFrame, model: ModelFrame | None) -> None:
        if family.before is not None:
            self._file.expect("tokenizer.ggml.bos_token_id", self._file.tokens.ids[family.before])
            if family.model != "bert":  # llama.cpp adds it to WordPiece in any case
                self._file.expect("tokenizer.ggml.add_bos_token", True)
        decodes = self._file.architecture in _DECODERS
        if family.before is None and family.after is None:
            self._unchecked.append("the special tokens around a text")
        if family.after is None or (decodes and self._file.pooling != "last"):
            return
        id_key, flag_key = f"tokenizer.ggml.{family.after_role}_token_id", "tokenizer.ggml.add_eos_token"
        # A decoder's last token belongs to the model: others were trained without it, or with the end of a turn.
        if decodes and model is None and (flag_key in self._file.values or self._file.architecture == "llama"):
            adds = "one is added" if self._file.value(flag_key) is True else "none is added"
            self._unchecked.append(f"the special token after a text: the file says that {adds}")
            return
        self._file.expect(id_key, self._file.tokens.ids[family.after])
        if family.model != "bert":
            self._file.expect(flag_key, True)

    def _compare_attention(self, model: ModelFrame | None) -> None:
        key = f"{self._file.keys}.attention.causal"
        if self._file.architecture == "llama-embed" and key not in self._file.values:
            self._file.expect(key, False)
        elif model is not None and model.causal is not None and self._file.architecture in _OBEYS_CAUSAL:
            self._file.expect(key, model.causal)

    def _compare_layers(self, model: ModelFrame | None) -> None:
        if model is not None and model.causal and self._file.architecture in _NEVER_CAUSAL:
            self._refuse(
                f"{model.name} is a causal model, but attention of the architecture {self._file.architecture}, which "
                "llama.cpp's converter gives it, is not causal; convert the checkpoint with edgeembed convert"
            )
        if self._file.architecture == "neo-bert" and _CONVERTER_KEY not in self._file.values:
            self._refuse(
                "its joint matrices of queries, keys and values are those of the checkpoint, head by head, which "
                "llama.cpp's converter does not reorder as its graph needs; convert the checkpoint with edgeembed convert"
            )
        if model is not None and self._file.architecture == "jina-bert-v3":
            self._unchecked.append(
                "the task, whose adapter llama.cpp's converter leaves in a file of its own: without it, vectors are those "
                "of no task"
            )
        # With norms of queries and keys, the code's gate is the second half of the joint matrix; the graph takes the first.
        normed, gated = (f"blk.0.{part}.weight" in self._file.shapes for part in ("attn_q_norm", "ffn_gate"))
        if self._file.architecture == "jina-bert-v2" and normed and not gated:
            self._refuse(
                "it is a jina-embeddings-v2-base-code whose feed-forward gate llama.cpp would take from the wrong half "
                "of a matrix (ffn_up), as llama.cpp's converter writes it; convert the checkpoint with edgeembed convert"
            )
        if self._file.dense:
            return
        if model is not None and model.dense:
            one = model.dense == 1
            self._refuse(
                f"it lacks the {'dense layer' if one else 'two dense layers'} that {'follows' if one else 'follow'} "
                f"{model.name}'s pooling; convert the checkpoint with edgeembed convert"
                + ("" if one else ", or get a file with the tensors dense_2.weight and dense_3.weight")
            )
        elif self._file.architecture in _OFTEN_DENSE:
            self._unchecked.append("whether dense layers follow the pooling; the file has none")

    def _compare_pairs(self, family: VocabularyFrame | None, model: ModelFrame | None) -> None:
        """Find the template for pairs of a reranker that has none of ours."""
        if self._file.pooling != "rank" or {TEMPLATE_KEY, LABELS_KEY} & self._file.values.keys():
            return
        theirs = self._file.values.get(_RERANK_PROMPT_KEY)
        classifies = len(self._file.tokens.labels) > 1 and self._file.architecture not in _ANSWERS
        if classifies:
            self._add_classes()
        if model is not None and model.prompt is not None:
            self._add_classifier(model.prompt)
        elif self._file.architecture == "modern-bert" and not {"cls.weight", "cls.norm.weight"} <= self._file.shapes.keys():
            self._refuse(
                "it is a cross-encoder without the prediction head between the encoder and the classifier (cls.weight, "
                "cls.norm.weight); convert the checkpoint with edgeembed convert"
            )
        elif self._file.architecture == "bert" and not {"cls.weight", "cls.output.weight"} <= self._file.shapes.keys():
            self._refuse(
                "it is a cross-encoder without the pooler between the encoder and the classifier (cls.weight), which "
                "llama.cpp's converter leaves out of BERT; convert the checkpoint with edgeembed convert"
            )
        elif self._file.architecture == "bert" and "token_types.weight" not in self._file.shapes:
            self._refuse(
                "it is a DistilBERT with a classifier, which has ReLU between its layers, where llama.cpp's graph computes "
                "tanh; convert the checkpoint with edgeembed convert"
            )
        elif isinstance(theirs, str) and "{query}" in theirs and "{document}" in theirs:
            self._file.mends.update(_pair_template(theirs))
            self._file.mended.append(f"the template for pairs is that of {_RERANK_PROMPT_KEY}")
        elif family is not None and family.pair is not None:
            self._file.mends[TEMPLATE_KEY] = family.pair
            self._file.mended.append(f"the template for pairs is {family.pair}, that of {family.name} cross-encoders")
        elif not classifies:
            self._refuse(
                "it is a reranker without a template for pairs of query and document, and its family is not known; convert "
                "the checkpoint with edgeembed convert"
            )

    def _add_classes(self) -> None:
        """Take a file of several labels for a classifier, which a reranker's scores could not be read from."""
        labels = self._file.tokens.labels
        self._file.mends.update(Classes(labels).metadata())
        self._file.mended.append(f"it is a classifier, as it has {len(labels)} labels")
        self._unchecked.append("whether a text may belong to several of its classes; probabilities are made by a softmax")

    def _add_classifier(self, prompt: AnswerPrompt) -> None:
        """Make the classifier of a text generator that answers a prompt from its LM head."""
        missing = [answer for answer in prompt.answers if answer not in self._file.tokens.ids]
        if missing:
            self._refuse(f"its vocabulary lacks the answers of {prompt.name}: {', '.join(missing)}")
            return
        first, *others = self._head_rows([self._file.tokens.ids[answer] for answer in prompt.answers])
        weight = first - others[0] if others else first
        self._file.mends |= {CLASSIFIER_KEY: encode_floats(weight[None]), TEMPLATE_KEY: prompt.template}
        answers = " and ".join(repr(answer) for answer in prompt.answers)
        self._file.mended.append(
            f"the template for pairs is that of {prompt.name}; scores come from the logits of {answers}"
        )

    def _find_vocabulary(self) -> VocabularyFrame | None:
        for family in VOCABULARIES:
            if (
                self._file.architecture in family.architectures
                and self._file.tokenizer == family.model
                and all(mark in self._file.tokens.ids for mark in family.marks)
                and (family.most_tokens is None or self._file.tokens.count <= family.most_tokens)
                and _may_have(family, self._file.values.get(SPLITTER_KEY))
            ):
                return family
        return None

    def _refuse(self, reason: str) -> None:
        self._refusal = self._refusal or reason


def _may_have(family: VocabularyFrame, splitter: Scalar | None) -> bool:
    """Return whether a file with this vocabulary may name this pre-tokenizer: another one is another vocabulary's."""
    allowed = (None, "", "default", family.splitter, *_OTHER_SPLITTERS.get(family.splitter or "", ()))
    return family.model != "gpt2" or splitter in allowed


def _pair_template(theirs: str) -> dict[str, MetadataValue]:
    """Return our keys for a template in which llama.cpp's server replaces {query} and {document}."""
    instruction = _INSTRUCT.search(theirs)
    parts = [theirs] if instruction is None else [theirs[: instruction.start(1)], theirs[instruction.end(1) :]]
    template = "{instruction}".join(part.replace("{", "{{").replace("}", "}}") for part in parts)
    for name in ("query", "document"):
        template = template.replace(f"{{{{{name}}}}}", f"{{{name}}}")
    found: dict[str, MetadataValue] = {TEMPLATE_KEY: template}
    return found | {INSTRUCTION_KEY: instruction[1]} if instruction else found
