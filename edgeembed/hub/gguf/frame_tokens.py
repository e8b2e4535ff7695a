"""The tokens of a file that show which vocabulary it has, and what is around a text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgeembed.engine.stand_ins import ARCHITECTURE_KEY, computed_as
from edgeembed.hub.gguf.families import MODELS, VOCABULARIES, WORD_START
from edgeembed.hub.gguf.file import GgufHead, GgufReader
from edgeembed.hub.gguf.vocabulary import TOKENS_KEY

_NAMES = {mark: mark for family in VOCABULARIES for mark in family.marks}
_NAMES |= {answer: answer for model in MODELS if model.prompt for answer in model.prompt.answers}
_NAMES |= {WORD_START + mark: mark for mark in ("<s>", "</s>", "<unk>", "<pad>")}
"""Tokens of which the id is noted; the last ones are those of a Unigram vocabulary that was written as WordPiece."""


@dataclass(frozen=True)
class FrameTokens:
    """What the tokens of a file show."""

    count: int
    ids: Mapping[str, int]
    """Of the tokens in `_NAMES`."""
    named: Mapping[int, str]
    """The names of the tokens that the file's keys mean, by id."""
    capitals: int
    """Tokens with a capital letter of ASCII, apart from special ones."""
    labels: tuple[str, ...] = ()
    """The names of what a reranker or classifier computes."""

    @classmethod
    def of(cls, reader: GgufReader, head: GgufHead) -> FrameTokens:
        array = head.arrays.get(TOKENS_KEY)
        if array is None:
            return cls(0, {}, {}, 0)
        key = f"{computed_as(str(head.values.get(ARCHITECTURE_KEY)))}.classifier.output_labels"
        outputs = head.arrays.get(key)
        labels = [label.decode("utf-8", "replace") for label in reader.strings(key, outputs)] if outputs else []
        names = {name.encode(): mark for name, mark in _NAMES.items()}
        asked = {head.values.get(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos", "seperator")}
        ids: dict[str, int] = {}
        named: dict[int, str] = {}
        capitals = 0
        for number, piece in enumerate(reader.strings(TOKENS_KEY, array)):
            if piece in names:
                ids.setdefault(names[piece], number)
            elif not piece.islower() and piece[:1] not in (b"[", b"<") and re.search(rb"[A-Z]", piece):
                capitals += 1
            if number in asked:
                named[number] = piece.decode("utf-8", "replace")
        return cls(array.count, ids, named, capitals, tuple(labels))
