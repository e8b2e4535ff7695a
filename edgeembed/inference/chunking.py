"""Cuts long texts into overlapping chunks of limited length, at the end of a paragraph or sentence where possible.

Where a chunk ends is decided by the text around its ends, and not by how far they are from the text's beginning (as
content-defined chunking does, LBFS, Muthitacharoen et al. 2001). So after an insertion the next few chunks differ, and all
later ones are those of the text before: their rows are in the cache.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

CountTokens = Callable[[Sequence[str]], Sequence[int]]
"""Counts the tokens of each text in the model's vocabulary, without special tokens."""

_ENDS = ".!?…。！？．｡।॥؟۔։።။។៕"
_CLOSING = "\"'”’»›)\\]}」』】）〉》"
# A piece that tokenizers do not join with its neighbours: a word with the white space before it, or some punctuation. The
# length of a word is limited so that scripts without spaces can be cut, too.
_PIECE = re.compile(rf"\s*(?:\w{{1,24}}|[{_ENDS}]{{1,8}}[{_CLOSING}]{{0,8}}|[^\w\s{_ENDS}]{{1,8}})")
_WHITE = re.compile(r"\s{0,8}")
_SENTENCE_END = re.compile(rf"[{_ENDS}][{_CLOSING}]{{0,8}}\Z")
_ENDS_WITHOUT_SPACE = "。！？｡"
"""Sentences of scripts without spaces end with these alone."""
_ENDING_CHARACTERS = 9
_PARAGRAPH, _SENTENCE, _LINE, _SPACE, _ANYWHERE, _BAD = range(6)
"""How good an end is, best first."""
_JOINERS = "\u200d\ufe0e\ufe0f"
"""Zero-width joiner and variation selectors: a part of the character before them."""
_NEAR_CHARACTERS = 32
"""Before an end, by which it is chosen among others."""
_MAX_COUNTED_WORDS = 100_000
_COUNTED_CHARACTERS = 48
"""Of a piece, at its end: the rest is white space, of which there may be any amount."""


class ChunkRules(msgspec.Struct, frozen=True):
    """tokens: maximum length of a chunk. overlap: tokens that a chunk shares with the one before it."""

    tokens: int = 256
    overlap: int = 32


class Chunk(NamedTuple):
    """Part of a text. start, end: in characters. next: where the next chunk begins, or the length of the text."""

    start: int
    end: int
    next: int


class UnknownWordsError(Exception):
    """Nobody has counted the tokens of these words yet."""

    def __init__(self, words: Sequence[str]) -> None:
        super().__init__(f"{len(words)} words")
        self.words = words


class WordTokens:
    """How many tokens each word has."""

    def __init__(self, count: CountTokens | None = None) -> None:
        """count: counts words when they are first met; None if the caller counts those of UnknownWordsError."""
        self._count = count
        self._counted: dict[str, int] = {}

    def of(self, words: Sequence[str]) -> list[int]:
        """Return the tokens of words. Raises UnknownWordsError if there is nothing that counts them."""
        if new := self.unknown(words):
            if self._count is None:
                raise UnknownWordsError(new)
            if len(self._counted) + len(new) > _MAX_COUNTED_WORDS:
                self._counted.clear()
                new = list(dict.fromkeys(words))
            self.learn(new, self._count(new))
        return [self._counted[word] for word in words]

    def unknown(self, words: Sequence[str]) -> list[str]:
        """Return the words that were not counted yet, each once."""
        return list(dict.fromkeys(word for word in words if word not in self._counted))

    def unknown_in(self, text: str, start: int, end: int) -> list[str]:
        """Return the words between two characters of a text that were not counted yet."""
        # White space at the end is in no piece: it would be read again from each of its characters.
        pieces = _PIECE.findall(text, start, start + len(text[start:end].rstrip()))
        return self.unknown([piece[-_COUNTED_CHARACTERS:] for piece in pieces])

    def learn(self, words: Sequence[str], tokens: Sequence[int]) -> None:
        """Remember the tokens of words."""
        if len(self._counted) + len(words) > _MAX_COUNTED_WORDS:
            self._counted.clear()
        self._counted.update(zip(words, tokens, strict=True))


class Chunker:
    """Cuts texts by rules."""

    def __init__(self, rules: ChunkRules, words: WordTokens) -> None:
        self._rules = rules
        self._words = words

    def chunks(self, text: str, start: int = 0) -> Iterator[Chunk]:
        """Yield the chunks from character `start` on. Starting at the `next` of a chunk yields the chunks that follow it.

        Lengths are sums over words; a tokenizer may need slightly fewer tokens for the whole chunk. Raises
        UnknownWordsError as `WordTokens.of` does.
        """
        # White space behind the last word is in no piece: it would be read again from each of its characters.
        words_end = len(text.rstrip())
        while start < len(text):
            pieces = list(itertools.islice(_PIECE.finditer(text, start, words_end), self._rules.tokens + 1))
            if not pieces:
                return
            tokens = self._words.of([piece.group()[-_COUNTED_CHARACTERS:] for piece in pieces])
            totals = list(itertools.accumulate(tokens))
            fitting = max(bisect_right(totals, self._rules.tokens), 1)
            begin = pieces[0].end() - len(pieces[0].group().lstrip())
            if fitting == len(pieces) <= self._rules.tokens:
                yield Chunk(start=begin, end=pieces[-1].end(), next=len(text))
                return
            fitting = min(fitting, self._rules.tokens)
            ends = [piece.end() for piece in pieces[:fitting]]
            # At least half a chunk, and more than the one before it had already.
            short = max(self._rules.tokens // 2, self._rules.overlap)
            taken = _good_end(text, ends, min(bisect_right(totals, short), fitting - 1))
            start = pieces[self._overlap_begin(text, ends, tokens, taken)].start()
            yield Chunk(start=begin, end=ends[taken - 1], next=start)

    def _overlap_begin(self, text: str, ends: Sequence[int], tokens: Sequence[int], taken: int) -> int:
        """Return the first piece that the next chunk has, too: the first one of a sentence if that fits, else of a word."""
        begin = again = taken
        room = self._rules.overlap
        while again > 1 and tokens[again - 1] <= room:
            again -= 1
            room -= tokens[again]
            if _quality(text, ends[again - 1]) <= _LINE:
                begin = again
        return begin if begin < taken else again


def _good_end(text: str, ends: Sequence[int], first: int) -> int:
    """Return how many pieces to take, by where they end: more than `first`.

    The best ends are those of paragraphs, then of sentences, lines and words. Among equal ones the choice is arbitrary, but
    depends only on what is written before them.
    """
    qualities = [_quality(text, end) for end in ends[first:]]
    best = min(qualities)
    candidates = [first + index for index, quality in enumerate(qualities) if quality == best]
    return 1 + max(candidates, key=lambda index: (_number(text, ends[index]), index))


def _quality(text: str, end: int) -> int:
    """Return how well a chunk can end here; see `_PARAGRAPH`."""
    found = _WHITE.match(text, end)
    gap = found.group() if found else ""
    if gap.count("\n") > 1:
        return _PARAGRAPH
    last = text[end - 1]
    sentence = None if last.isalnum() else _SENTENCE_END.search(text, max(0, end - _ENDING_CHARACTERS), end)
    if sentence and (gap or sentence.group()[0] in _ENDS_WITHOUT_SPACE):
        return _SENTENCE
    if gap:
        return _LINE if "\n" in gap else _SPACE
    following = text[end : end + 1] or " "
    joined = following in _JOINERS or last == _JOINERS[0] or unicodedata.category(following).startswith("M")
    return _BAD if joined else _ANYWHERE


def _number(text: str, end: int) -> int:
    return zlib.crc32(text[max(0, end - _NEAR_CHARACTERS) : end].encode(errors="surrogatepass"))
