"""Long texts cut into chunks of so many tokens that overlap, at the end of a paragraph or a sentence where there is one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

Count = Callable[[Sequence[str]], Sequence[int]]
"""Gives the tokens of each text in the model's vocabulary, without the marks that stand around a whole text."""

# What a tokenizer does not join across: a word with the white space before it, or a few signs. Words have an end, so that
# scripts without spaces can be cut, too.
_PIECE = re.compile(r"\s*(?:\w{1,24}|[^\w\s]{1,8})")
_WHITE = re.compile(r"\s{0,8}")
_SENTENCE_END = ".!?…。！？"
_MOST_KNOWN = 100_000


class ChunkRules(msgspec.Struct, frozen=True):
    """tokens: of a chunk at most; overlap: of them that the chunk before it ends with."""

    tokens: int = 256
    overlap: int = 32


class Chunk(NamedTuple):
    """A part of a text. start, end: characters of the text; next: where the next chunk begins, or the text's length."""

    start: int
    end: int
    next: int


class Chunker:
    """Cuts texts; knows the tokens of words that it has met."""

    def __init__(self, rules: ChunkRules, count: Count) -> None:
        self._rules = rules
        self._count = count
        self._known: dict[str, int] = {}

    def chunks(self, text: str, start: int = 0) -> Iterator[Chunk]:
        """Give the chunks from a character on; the same ones come from the `next` of a chunk on as without a break.

        Tokens are added up by words: a tokenizer may need a few less for all of them together.
        """
        while start < len(text):
            pieces = list(itertools.islice(_PIECE.finditer(text, start), self._rules.tokens + 1))
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
        new = list({word for word in words if word not in self._known})
        if len(self._known) + len(new) > _MOST_KNOWN:
            self._known.clear()
            new = list(set(words))
        if new:
            self._known.update(zip(new, self._count(new), strict=True))
        return [self._known[word] for word in words]


def _good_end(text: str, pieces: Sequence[re.Match[str]], fitting: int) -> int:
    """Say how many of the fitting pieces to take: up to a paragraph's end in the last third, else a sentence's, else all."""
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
