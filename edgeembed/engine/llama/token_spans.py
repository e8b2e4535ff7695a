"""The part of a text that each of its tokens stands for.

llama.cpp returns ids only. So a text is spelled as the tokenizer reads it, with the place in the text that each byte of that
comes from, and the spellings of the tokens are found in it one after the other. Where a token's spelling is not found (the
table of replacements in a Unigram vocabulary differs from Unicode's NFKC in places), its part is all that lies between the
tokens that were found before and behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from edgeembed.common.origins import Origins

Spans = npt.NDArray[np.int32]
"""Begin and end of each token in characters, shape (tokens, 2); -1 for special tokens, which stand for no text."""

_SEARCHED_BYTES = 1024
"""As far from its expected place a token is searched for."""
_WORDS = re.compile(r"\S+")


class Spelling:
    """A text as a tokenizer reads it.

    origins: of its characters. words: an unknown token stands for what is left of a word.
    """

    def __init__(self, text: str, origins: Origins, *, words: bool = False) -> None:
        self.words = words
        self.bytes = text.encode("utf-8", "replace")
        # Bytes are counted by what their characters begin with: continuation bytes belong to the character before them.
        leading = (np.frombuffer(self.bytes, dtype=np.uint8) & 0xC0) != 0x80
        at = np.cumsum(leading) - 1
        self.begins, self.ends = origins.begins[at], origins.ends[at]

    @classmethod
    def of_words(cls, parts: Iterable[tuple[str, int, int]], *, words: bool) -> Spelling:
        """Return the spelling for a tokenizer that reads words, each with a space in front, which counts to the word.

        parts: what the tokenizer makes of the text from begin to end, in a row; white space separates words.
        """
        spelled, origins = [], []
        for part, begin, end in parts:
            spelled.append(part)
            origins.append((len(part), begin, end))
        whole, places = "".join(spelled), Origins.joined(origins)
        kept, begins, ends = [], [], []
        for match in _WORDS.finditer(whole):
            at, behind = match.span()
            kept.append(f" {match.group()}")
            begins += [places.begins[at : at + 1], places.begins[at:behind]]
            ends += [places.ends[at : at + 1], places.ends[at:behind]]
        if not kept:
            return cls("", Origins.same(0), words=words)
        return cls("".join(kept), Origins(np.concatenate(begins), np.concatenate(ends)), words=words)


def find_spans(spelling: Spelling, pieces: Sequence[bytes | None], unknown: Sequence[bool]) -> Spans:
    """Return the spans of tokens in the text that was spelled.

    pieces: what each token is spelled like; None for a special token. unknown: whether it is the token for unknown words.
    """
    spans = np.full((len(pieces), 2), -1, dtype=np.int32)
    at = 0
    lost: list[int] = []
    for index, (piece, is_unknown) in enumerate(zip(pieces, unknown, strict=True)):
        if piece is None:
            continue
        if is_unknown:
            found = _unknown_word(spelling.bytes, at) if spelling.words else None
        else:
            found = _find(spelling.bytes, piece, at, skip=bool(lost))
        if found is None:
            lost.append(index)
            continue
        begin, end = found
        if lost:
            _set(spans, spelling, lost, at, begin)
            lost = []
        _set(spans, spelling, [index], begin, end)
        at = end
    _set(spans, spelling, lost, at, len(spelling.bytes))
    return spans


def _set(spans: Spans, spelling: Spelling, indexes: Sequence[int], begin: int, end: int) -> None:
    """Let tokens stand for a part of the spelling, in bytes."""
    if not indexes:
        return
    if end > begin:
        spans[indexes] = spelling.begins[begin], spelling.ends[end - 1]
    else:
        place = spelling.ends[begin - 1] if begin else 0
        spans[indexes] = place, place


def _unknown_word(spelled: bytes, at: int) -> tuple[int, int]:
    end = spelled.find(b" ", at + 1)
    return at, end if end >= 0 else len(spelled)


def _find(spelled: bytes, piece: bytes, at: int, *, skip: bool) -> tuple[int, int] | None:
    """Return where a token's spelling is. skip: tokens that were not found stand for something before it."""
    if not skip:
        if spelled.startswith(piece, at):  # nearly always
            return at, at + len(piece)
        bare = piece.removeprefix(b" ")
        if spelled.startswith(bare, at):  # a space that the tokenizer adds
            return at, at + len(bare)
    begin = spelled.find(piece, at, at + _SEARCHED_BYTES + len(piece))
    return (begin, begin + len(piece)) if begin >= 0 else None
