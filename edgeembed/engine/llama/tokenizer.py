"""Tokenising with llama.cpp, and what is done before, so that the tokens are those that the model was trained with.

A text is cut into pieces, split at the tokens that the vocabulary defines as whole, and normalised; llama.cpp tokenises what
is left. None of it takes time that grows with more than the text's length.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np

from edgeembed.common.origins import Origins, compose_with_origins
from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.llama.cased_words import CasedWords
from edgeembed.engine.llama.defined_tokens import DefinedTokens
from edgeembed.engine.llama.library import ComputeError
from edgeembed.engine.llama.loose_spaces import LooseSpaces
from edgeembed.engine.llama.normalizer import choose_normalizer, is_composed
from edgeembed.engine.llama.text_pieces import LONGEST_RECURSION, TextPieces
from edgeembed.engine.llama.token_spans import Spans, Spelling, find_spans
from edgeembed.engine.llama.vocabulary import Vocabulary
from edgeembed.engine.llama.wordpiece import WORD_START, BertWords
from edgeembed.engine.reading import Tokens, special_around

_MOST_KEPT = 1 << 18
"""Tokens of a buffer that is kept for a thread's next text."""
_MOST_SEEN = 1024
_MOST_LETTERS = 16_384
_UNKNOWN = "\ufffd".encode()


class Tokenizer:
    """A model's tokenizer. Its methods may be called from any thread."""

    def __init__(self, vocabulary: Vocabulary, metadata: Callable[[str], str | None]) -> None:
        """metadata: returns a metadata value of the file as text, or None."""
        self._vocabulary = vocabulary
        self._metadata = metadata
        self._normalize = choose_normalizer(metadata)
        self._words = BertWords.of(metadata) if metadata("tokenizer.ggml.model") == "bert" else None
        defined = vocabulary.defined_tokens()
        self._names_of_defined = {id_: name for name, id_ in defined.items()}
        self._defined = DefinedTokens(defined)
        bare = partial(self._call, frame=False)
        self._splitter = LooseSpaces.of(metadata, vocabulary) or CasedWords.of(metadata, bare, vocabulary.spellings)
        self._buffers = threading.local()
        self._spelled_letter = lru_cache(_MOST_LETTERS)(self._spell_letter)
        if self._words and self._call(WORD_START, frame=False).tolist() != [vocabulary.unknown]:
            self._words.knows(WORD_START)

    def tokenize(self, text: str, *, frame: bool = True) -> Tokens:
        """Return the ids of a text. A special token's name inside it is read as plain text.

        frame: with the special tokens that the model adds around a text.
        """
        if len(text) <= LONGEST_RECURSION:
            parts = self._parts(text)
            if isinstance(parts, str):  # nearly every text
                return self._call(parts, frame=frame)
            found = list(self._ids(parts))
        else:
            found = list(self._ids_of_pieces(text))
        begin, end = self.frame if frame else (_NONE, _NONE)
        return np.concatenate([begin, *found, end])

    @cached_property
    def frame(self) -> tuple[Tokens, Tokens]:
        """The special tokens that the model adds before and after every text."""
        return special_around(partial(self._call, frame=True))

    def special(self, text: str) -> Tokens:
        """Return the ids of a text in which the names of special tokens are such."""
        return self._call(self._normalize(text), frame=False, special=True)

    def shorten(self, text: str, most: int, *, at_start: bool = False) -> str:
        """Return a part of the text with more than `most` tokens, or the whole text if it has no more than that.

        The part is the text's beginning, as short as its pieces allow; at_start: its end.
        """
        ends = list(self._pieces.ends(text))
        spans = list(zip([0, *ends], ends, strict=False))
        count = 0
        for begin, end in reversed(spans) if at_start else spans:
            count += len(self.tokenize(text[begin:end], frame=False))
            if count > most:
                return text[begin:] if at_start else text[:end]
        return text

    def spans(self, text: str, tokens: Tokens) -> Spans:
        """Return the part of the text that each of its tokens stands for, in characters; see `token_spans`."""
        special = self._vocabulary.is_special(tokens).tolist()
        pieces = [None if out else piece for piece, out in zip(self._vocabulary.pieces(tokens), special, strict=True)]
        return find_spans(self._spelling(text), pieces, (tokens == self._vocabulary.unknown).tolist())

    def _spelling(self, text: str) -> Spelling:
        if self._words is not None:
            return Spelling.of_words(self._spelled_words(text), words=True)
        if self._metadata("tokenizer.ggml.model") == "t5":
            return Spelling.of_words([self._spelled_letter(letter) for letter in self._normalize(text)], words=False)
        if is_composed(self._metadata):
            return Spelling.of_text(*compose_with_origins(text))
        return Spelling.of_text(self._normalize(text), Origins.same(len(text)))  # replaces characters one by one

    def _spelled_words(self, text: str) -> list[str]:
        """Return what becomes of each character of a text; defined tokens stay as they are, apart from the words."""
        assert self._words is not None
        parts = self._defined.split(text)
        if isinstance(parts, str):
            return self._words.spelled(parts)
        letters: list[str] = []
        for part in parts:
            if isinstance(part, int):
                name = self._names_of_defined[part]
                letters += [f" {name[0]}", *name[1:-1], f"{name[-1]} "] if len(name) > 1 else [f" {name} "]
            else:
                letters += self._words.spelled(part)
        return letters

    def _spell_letter(self, letter: str) -> str:
        """Return what the vocabulary's table of replacements makes of a character, with U+FFFD for what it does not know."""
        tokens = self._call(f"a{letter}a", frame=False)
        unknown, pieces = (tokens == self._vocabulary.unknown).tolist(), self._vocabulary.pieces(tokens)
        spelled = b"".join(_UNKNOWN if out else piece for piece, out in zip(pieces, unknown, strict=True)).decode()
        return spelled[2:-1] if spelled.startswith(" a") and spelled.endswith("a") else letter

    def _ids_of_pieces(self, text: str) -> Iterator[Tokens]:
        for piece in self._pieces.split(text):
            yield from self._ids(self._parts(piece))

    def _parts(self, text: str) -> str | list[str | int]:
        """Return a text as llama.cpp can read it, or ids and such texts in turns."""
        if self._words is None:
            parts = self._defined.split(self._normalize(text))
            return parts if self._splitter is None else _split_each(parts, self._splitter.split)
        return _split_each(self._defined.split(text), self._words_of)

    def _words_of(self, text: str) -> str | list[str | int]:
        assert self._words is not None
        segments = self._words.segments(text)
        if isinstance(segments, str):
            return segments
        return [self._vocabulary.unknown if segment is None else segment for segment in segments]

    def _ids(self, parts: str | list[str | int]) -> Iterator[Tokens]:
        if isinstance(parts, str):
            yield self._call(parts, frame=False)
            return
        seen: dict[str | int, Tokens] = {}  # a text with many defined tokens often has the same few words between them
        for part in parts:
            ids = seen.get(part)
            if ids is None:
                ids = np.array([part], dtype=np.int32) if isinstance(part, int) else self._call(part, frame=False)
                if len(seen) < _MOST_SEEN:
                    seen[part] = ids
            yield ids

    @cached_property
    def _pieces(self) -> TextPieces:
        return TextPieces.of(self._metadata, self._vocabulary.spellings, self._names_of_defined.values())

    def _call(self, text: str, *, frame: bool, special: bool = False) -> Tokens:
        encoded = text.encode("utf-8")
        capacity = len(encoded) + 16
        for _ in range(2):
            buffer, pointer = self._buffer(capacity)
            count = lib.llama_tokenize(self._vocabulary.handle, encoded, len(encoded), pointer, len(buffer), frame, special)
            if count >= 0:
                return buffer[:count].copy()
            capacity = -count
        raise ComputeError("llama.cpp cannot tokenise this text")

    def _buffer(self, capacity: int) -> tuple[Tokens, Any]:
        """Return this thread's buffer, grown to at least `capacity` tokens, and a pointer to it."""
        kept: tuple[Tokens, Any] | None = getattr(self._buffers, "value", None)
        if kept is not None and len(kept[0]) >= capacity:
            return kept
        buffer = np.empty(max(capacity, 4096), dtype=np.int32)
        made = buffer, buffer.ctypes.data_as(ctypes.POINTER(lib.llama_token))
        if capacity <= _MOST_KEPT:
            self._buffers.value = made
        return made


def _split_each(parts: str | list[str | int], split: Callable[[str], str | list[str | int]]) -> str | list[str | int]:
    """Return texts and ids with each text split further."""
    if isinstance(parts, str):
        return split(parts)
    found: list[str | int] = []
    for part in parts:
        smaller = part if isinstance(part, int) else split(part)
        found += smaller if isinstance(smaller, list) else [smaller]
    return found


_NONE: Tokens = np.empty(0, dtype=np.int32)
