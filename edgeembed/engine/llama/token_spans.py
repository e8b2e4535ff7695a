"""The part of a text that each of its tokens stands for.

llama.cpp returns ids only. So a text is spelled as the tokenizer reads it, with the place in the text that each byte of that
comes from, and the spellings of the tokens are found in it one after the other. Where a token's spelling is not found (the
table of replacements in a Unigram vocabulary differs from Unicode's NFKC in places), its part is all that lies between the
tokens that were found before and behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from edgeembed.common.origins import Origins

Spans = npt.NDArray[np.int32]
"""Begin and end of each token in characters, shape (tokens, 2); -1 for special tokens, which stand for no text."""

_SEARCHED_BYTES = 1024
"""As far from its expected place a token is searched for."""
_SLICE = 32_768
"""Characters or tokens that are handled at once: NumPy and Python's C functions keep all other threads waiting."""
_SPACE = ord(" ")
_NOWHERE, _LOST = (-1, -1), (-2, -2)
"""Places of special tokens, and of tokens that are not found yet."""


class Spelling:
    """A text as a tokenizer reads it: in UTF-8, with the place in the text that each byte comes from."""

    def __init__(self, parts: Iterable[tuple[str, Origins]], *, words: bool = False) -> None:
        """parts: of the spelling in a row, with the origins of their characters. words: an unknown token is a whole word."""
        made = [_bytes_of(part, origins) for part, origins in [("", Origins.same(0)), *parts]]
        self.bytes = b"".join([part for part, _ in made])
        self._begins = np.concatenate([origins.begins for _, origins in made])
        self._ends = np.concatenate([origins.ends for _, origins in made])
        self.words = words

    @classmethod
    def of_text(cls, text: str, origins: Origins) -> Spelling:
        """Return the spelling for a tokenizer that reads every character of a text. origins: of the characters."""
        begins, ends = origins.begins, origins.ends
        slices = (slice(at, at + _SLICE) for at in range(0, len(text), _SLICE))
        return cls((text[part], Origins(begins[part], ends[part])) for part in slices)

    @classmethod
    def of_words(cls, letters: Sequence[str], *, words: bool) -> Spelling:
        """Return the spelling for a tokenizer that reads words, each with a space in front, which counts to the word.

        letters: what the tokenizer makes of each character of the text, with spaces between words.
        """
        return cls(_words_of(letters), words=words)

    def spans(self, found: npt.NDArray[np.int64]) -> Spans:
        """Return the parts of the text that parts of the spelling stand for. found: begin and end of each in bytes; -1."""
        spans = np.full(found.shape, -1, dtype=np.int32)
        begins, ends = found[:, 0], found[:, 1]
        filled, empty = ends > begins, (ends == begins) & (begins >= 0)
        spans[filled, 0], spans[filled, 1] = self._begins[begins[filled]], self._ends[ends[filled] - 1]
        if empty.any():
            before = begins[empty] - 1
            spans[empty] = np.where(before >= 0, self._ends[before], 0)[:, None] if len(self._ends) else 0
        return spans


def _bytes_of(text: str, origins: Origins) -> tuple[bytes, Origins]:
    encoded = text.encode("utf-8", "replace")
    # Continuation bytes belong to the character before them.
    at = np.cumsum((np.frombuffer(encoded, dtype=np.uint8) & 0xC0) != 0x80) - 1
    return encoded, Origins(origins.begins[at], origins.ends[at])


def _words_of(letters: Sequence[str]) -> Iterator[tuple[str, Origins]]:
    """Yield slices of the words of a text, each with a space in front, and their origins; see `Spelling.of_words`."""
    inside = False
    for begin in range(0, len(letters), _SLICE):
        some = letters[begin : begin + _SLICE]
        codes = np.frombuffer("".join(some).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        if not len(codes):
            continue
        places = np.repeat(np.arange(begin, begin + len(some), dtype=np.int32), [*map(len, some)])
        kept = codes != _SPACE
        first = kept & ~np.concatenate([[inside], kept[:-1]])
        inside = bool(kept[-1])
        taken = np.repeat(np.arange(len(codes)), kept.astype(np.int64) + first)  # the first letter of a word twice
        spelled, places = codes[taken], places[taken]
        spelled[np.flatnonzero(first[taken])[::2]] = _SPACE
        yield spelled.tobytes().decode("utf-32-le", "surrogatepass"), Origins(places, places + 1)


def find_spans(spelling: Spelling, pieces: Sequence[bytes | None], unknown: Sequence[bool]) -> Spans:
    """Return the spans of tokens in the text that was spelled.

    pieces: what each token is spelled like; None for a special token. unknown: whether it is the token for unknown words.
    """
    found: list[tuple[int, int]] = []  # in bytes of the spelling
    at, lost = 0, 0
    for piece, is_unknown in zip(pieces, unknown, strict=True):
        if piece is None:
            found.append(_NOWHERE)
            continue
        if is_unknown:
            place = _unknown_word(spelling.bytes, at) if spelling.words else None
        else:
            place = _find(spelling.bytes, piece, at, skip=bool(lost))
        if place is None:
            lost += 1
            found.append(_LOST)
            continue
        if lost:
            _fill(found, (at, place[0]))
            lost = 0
        found.append(place)
        at = place[1]
    _fill(found, (at, len(spelling.bytes)))
    slices = (np.array(found[begin : begin + _SLICE], dtype=np.int64) for begin in range(0, len(found), _SLICE))
    return np.concatenate([np.empty((0, 2), dtype=np.int32), *map(spelling.spans, slices)])


def _fill(found: list[tuple[int, int]], between: tuple[int, int]) -> None:
    """Let the tokens that were not found stand for what is left between those before and behind them."""
    for index in range(len(found) - 1, -1, -1):
        if found[index] == _LOST:
            found[index] = between
        elif found[index] != _NOWHERE:
            break


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
