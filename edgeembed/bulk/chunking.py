"""Cuts long texts into overlapping chunks of limited length, at the end of a paragraph or sentence where possible."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

CountTokens = Callable[[Sequence[str]], Sequence[int]]
"""Counts the tokens of each text in the model's vocabulary, without special tokens."""

# A piece that tokenizers do not join with its neighbours: a word with the white space before it, or some punctuation. The
# length of a word is limited so that scripts without spaces can be cut, too.
_PIECE = re.compile(r"\s*(?:\w{1,24}|[^\w\s]{1,8})")
_WHITE = re.compile(r"\s{0,8}")
_SENTENCE_END = ".!?…。！？"
_MAX_COUNTED_WORDS = 100_000


class ChunkRules(msgspec.Struct, frozen=True):
    """tokens: maximum length of a chunk. overlap: tokens that a chunk shares with the one before it."""

    tokens: int = 256
    overlap: int = 32


class Chunk(NamedTuple):
    """Part of a text. start, end: in characters. next: where the next chunk begins, or the length of the text."""

    start: int
    end: int
    next: int


class Chunker:
    """Cuts texts, and remembers how many tokens each word has."""

    def __init__(self, rules: ChunkRules, count: CountTokens) -> None:
        self._rules = rules
        self._count = count
        self._tokens_of_word: dict[str, int] = {}

    def chunks(self, text: str, start: int = 0) -> Iterator[Chunk]:
        """Yield the chunks from character `start` on. Starting at the `next` of a chunk yields the chunks that follow it.

        Lengths are sums over words; a tokenizer may need slightly fewer tokens for the whole chunk.
        """
        # White space behind the last word is in no piece: it would be read again from each of its characters.
        words_end = len(text.rstrip())
        while start < len(text):
            pieces = list(itertools.islice(_PIECE.finditer(text, start, words_end), self._rules.tokens + 1))
            if not pieces:
                return
            tokens = self._tokens_of([piece.group() for piece in pieces])
            totals = list(itertools.accumulate(tokens))
            fitting = max(sum(total <= self._rules.tokens for total in totals), 1)
            begin = pieces[0].end() - len(pieces[0].group().lstrip())
            if fitting == len(pieces) <= self._rules.tokens:
                yield Chunk(start=begin, end=pieces[-1].end(), next=len(text))
                return
            taken = _good_end(text, pieces, min(fitting, self._rules.tokens))
            again, room = taken, self._rules.overlap
            while again > 1 and tokens[again - 1] <= room:
                again -= 1
                room -= tokens[again]
            start = pieces[again].start()
            yield Chunk(start=begin, end=pieces[taken - 1].end(), next=start)

    def _tokens_of(self, words: Sequence[str]) -> list[int]:
        new = list({word for word in words if word not in self._tokens_of_word})
        if len(self._tokens_of_word) + len(new) > _MAX_COUNTED_WORDS:
            self._tokens_of_word.clear()
            new = list(set(words))
        if new:
            self._tokens_of_word.update(zip(new, self._count(new), strict=True))
        return [self._tokens_of_word[word] for word in words]


def _good_end(text: str, pieces: Sequence[re.Match[str]], fitting: int) -> int:
    """Return how many of the fitting pieces to take: to the end of a paragraph in the last third, else of a sentence."""
    sentence = line = 0
    for taken in range(fitting, fitting - fitting // 3, -1):
        end = pieces[taken - 1].end()
        gap = _white_behind(text, end)
        if gap.count("\n") > 1:
            return taken
        if not sentence and gap and text[end - 1] in _SENTENCE_END:
            sentence = taken
        if not line and "\n" in gap:
            line = taken
    return sentence or line or fitting


def _white_behind(text: str, end: int) -> str:
    found = _WHITE.match(text, end)
    return found.group() if found else ""
