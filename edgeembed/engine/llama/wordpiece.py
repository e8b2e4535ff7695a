"""BERT's words: how a text is normalised and split before WordPiece, where llama.cpp's tokenizer does it differently.

llama.cpp (0c1e57098) has no limit for a word's length, where WordPiece makes one unknown token of a word of more than 100
characters: data URIs, keys and minified code get thousands of pieces that the model never saw. It decomposes only the first
letter of a Hangul syllable, strips every combining mark instead of the non-spacing ones, lower-cases one character to one,
and its categories are those of a newer Unicode. So it gets text that is already normalised, with spaces between the words,
and no word that it would read differently.
Source of the rules: the tokenizers library, BertNormalizer, BertPreTokenizer and WordPiece.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from itertools import groupby

from edgeembed.engine.llama.bert_characters import (
    IDEOGRAPHS,
    MARKS,
    MISREAD,
    PUNCTUATION,
    REMOVED,
    SPACES,
    CharacterSet,
)
from edgeembed.engine.text_sizes import may_hold_longer_word

STRIP_ACCENTS_KEY = "tokenizer.ggml.normalizer.strip_accents"
LOWERCASE_KEY = "tokenizer.ggml.normalizer.lowercase"
LONGEST_WORD_KEY = "edgeembed.tokenizer.longest_word"
WORD_START = "\u2581"
"""llama.cpp's mark of a word's beginning."""
LONGEST_WORD = 100
"""In characters after normalising; a longer word is one unknown token."""

_UNKNOWN = "\ue000"
"""Stands for a character that makes its word unknown. It is for private use, so it is removed from every text."""
_MOST_REMEMBERED = 16_384
_SLICE_CHARACTERS = 16_384


class BertWords:
    """Normalises texts and splits them into words that llama.cpp reads as BERT's tokenizer does."""

    def __init__(self, *, lowercase: bool, strip_accents: bool, longest_word: int = LONGEST_WORD) -> None:
        self._characters = _Characters(lowercase=lowercase, strip_accents=strip_accents)
        """What is done with each character."""
        self._longest_word = longest_word

    @classmethod
    def of(cls, metadata: Callable[[str], str | None]) -> BertWords:
        """Return the words of a file. metadata: returns a metadata value of the file as text, or None."""
        lowercase = metadata(LOWERCASE_KEY) != "false"
        strip, longest = metadata(STRIP_ACCENTS_KEY), metadata(LONGEST_WORD_KEY) or ""
        return cls(
            lowercase=lowercase,
            strip_accents=lowercase if strip is None else strip == "true",
            longest_word=int(longest) if longest.isdecimal() else LONGEST_WORD,
        )

    def knows(self, letter: str) -> None:
        """Let llama.cpp read a letter that the vocabulary turns out to have."""
        self._characters[ord(letter)] = letter

    def segments(self, text: str) -> str | list[str | None]:
        """Return the text as llama.cpp can read it; with unknown words, a list in which None stands for each of them."""
        # llama.cpp reads short words of ASCII as BERT's tokenizer does, except for control characters.
        if text.isascii() and _is_printable(text) and self._is_short(text):
            return text
        normalized = self._normalize(text)
        if _UNKNOWN not in normalized and self._is_short(normalized):
            return normalized
        return list(self._split(normalized))

    def spelled(self, text: str) -> list[str]:
        """Return what becomes of each character of a text."""
        return [self._characters[ord(letter)] for letter in text]

    def _normalize(self, text: str) -> str:
        # In slices, since Python keeps all other threads waiting meanwhile.
        if len(text) <= _SLICE_CHARACTERS:
            return text.translate(self._characters)
        begins = range(0, len(text), _SLICE_CHARACTERS)
        return "".join([text[begin : begin + _SLICE_CHARACTERS].translate(self._characters) for begin in begins])

    def _is_short(self, text: str) -> bool:
        """Return whether no run without white space is longer than a word may be."""
        if not may_hold_longer_word(text, self._longest_word):
            return True
        return max(map(len, text.split()), default=0) <= self._longest_word

    def _split(self, normalized: str) -> Iterator[str | None]:
        for unknown, words in groupby(normalized.split(), self._is_unknown):
            if unknown:
                for _ in words:
                    yield None
            else:
                yield " ".join(words)

    def _is_unknown(self, word: str) -> bool:
        return len(word) > self._longest_word or _UNKNOWN in word


def _is_printable(text: str) -> bool:
    return text.isprintable() or text.replace("\n", "").replace("\t", "").replace("\r", "").isprintable()


class _Characters(dict[int, str]):
    """What becomes of each character, for `str.translate`; filled as characters are met."""

    def __init__(self, *, lowercase: bool, strip_accents: bool) -> None:
        self._lowercase = lowercase
        self._strip_accents = strip_accents
        self._removed = CharacterSet(REMOVED, MARKS if strip_accents else "")
        self._spaces, self._alone = CharacterSet(SPACES), CharacterSet(IDEOGRAPHS, PUNCTUATION)
        self._misread = CharacterSet(MISREAD)

    def __missing__(self, code_point: int) -> str:
        found = self._normalize(code_point)
        if len(self) < _MOST_REMEMBERED:
            self[code_point] = found
        return found

    def _normalize(self, code_point: int) -> str:
        if code_point in self._spaces:
            return " "
        # Letter by letter: BERT does not handle the final sigma, and marks that stay keep their order.
        letters = unicodedata.normalize("NFD", chr(code_point)) if self._strip_accents else chr(code_point)
        kept = "".join(letter for letter in letters if ord(letter) not in self._removed)
        if self._lowercase:
            kept = "".join(letter.lower() for letter in kept)
        return "".join(map(self._spell, kept))

    def _spell(self, letter: str) -> str:
        if ord(letter) in self._misread:
            return _UNKNOWN
        return f" {letter} " if ord(letter) in self._alone else letter
