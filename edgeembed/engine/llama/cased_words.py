"""Words that end where small letters become capitals, for byte-level BPE with the pattern of GPT-4o and Granite.

llama.cpp (0c1e57098) reads that pattern with the case of ASCII letters only: to it every other letter is both small and
capital, so that "МосСуд" is one word, and "MÜNCHEN" two. Texts in which that matters are split here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache

from edgeembed.engine.reading import Tokens

_PATTERNS = {"granite-embed-multi-97m"}
"""llama.cpp's names of the pre-tokenizers with this pattern."""
_MOST_PLACES = 64
"""Places at which one text is split. Each part takes a call of llama.cpp, which compiles the pattern each time: 0.7 ms. A
text with more places is left to llama.cpp."""
_MOST_WORDS = 4096
"""Words whose ids are remembered."""
_MARKS = ("\u1abe", "\ua670", "\u20dd", "\U0001e8d0")
"""Rare combining marks. llama.cpp does not split capitals with one behind them; no token joins such a mark to a letter."""


class CasedWords:
    """Splits texts into words where llama.cpp would split them otherwise."""

    def __init__(self, tokenize: Callable[[str], Tokens], spellings: Callable[[], Iterable[str]]) -> None:
        """tokenize: llama.cpp's, without special tokens. spellings: returns all tokens as the file has them."""
        self._tokenize = tokenize
        self._spellings = spellings
        self._kinds = _Kinds()
        self._whole: dict[str, int] | None = None
        self._read_capitals = lru_cache(_MOST_WORDS)(self._read_capitals_alone)

    @classmethod
    def of(
        cls,
        metadata: Callable[[str], str | None],
        tokenize: Callable[[str], Tokens],
        spellings: Callable[[], Iterable[str]],
    ) -> CasedWords | None:
        """Return that of a file, or None if it has another pattern. metadata: returns a metadata value of the file."""
        if metadata("tokenizer.ggml.model") != "gpt2" or metadata("tokenizer.ggml.pre") not in _PATTERNS:
            return None
        return cls(tokenize, spellings)

    def split(self, text: str) -> str | list[str | int]:
        """Return the text if llama.cpp reads it as its pattern does; otherwise its words, or their ids."""
        if text.isascii():
            return text
        kinds = text.translate(self._kinds)
        if _SUSPECT.search(kinds) is None:
            return text
        found: list[str | int] = []
        done = places = 0
        for match in _WORD.finditer(kinds):
            begin, end = match.span()
            capitals = _CAPITALS.fullmatch(match.group()) is not None
            if not capitals and (begin == 0 or _SUSPECT.match(kinds, begin - 1) is None):
                continue
            places += 1
            if places > _MOST_PLACES:
                return text
            if begin > done:
                found.append(text[done:begin])
            done = begin
            if capitals:
                found += self._read_capitals(text[begin:end])
                done = end
        if not found:
            return text
        return [*found, text[done:]] if done < len(text) else found

    def _read_capitals_alone(self, word: str) -> Sequence[str | int]:
        """Return the ids of capitals that llama.cpp would split, or the word if there is no way to get them."""
        if (whole := self._pieces().get(_spell(word))) is not None:
            return [whole]
        for mark in _MARKS:
            behind, ids = self._tokenize(mark).tolist(), self._tokenize(word + mark).tolist()
            if ids[-len(behind) :] == behind:
                return list(ids[: -len(behind)])
        return [word]

    def _pieces(self) -> dict[str, int]:
        """Return the ids of pieces that may be such a word; a word that is a piece is that token, whatever the merges."""
        if self._whole is None:
            numbered = enumerate(self._spellings())
            self._whole = {spelling: id_ for id_, spelling in numbered if _MAY_BE_CAPITALS.search(spelling)}
        return self._whole


_MAY_BE_CAPITALS = re.compile(r"[^\x00-\x7f].*[A-Z]$")

# --- the pattern, for texts in which one ASCII character stands for all of a kind -----------------------------------------

_UPPER, _LOWER, _LETTER, _MARK, _NUMBER, _SPACE, _OTHER = "\x01", "\x02", "\x03", "\x04", "\x05", "\x0b", "\x06"
_KIND_OF = {
    "Lu": _UPPER, "Lt": _UPPER, "Ll": _LOWER, "Lm": _LETTER, "Lo": _LETTER, "Mn": _MARK, "Mc": _MARK, "Me": _MARK,
    "Nd": _NUMBER, "Nl": _NUMBER, "No": _NUMBER,
}  # fmt: skip
_MOST_REMEMBERED = 16_384


class _Kinds(dict[int, str]):
    """What stands for each character, for `str.translate`; filled as characters are met."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        if code < 128:
            found = letter if letter.isprintable() or letter in "\t\n\x0b\x0c\r" else _OTHER
        else:
            found = _SPACE if letter.isspace() else _KIND_OF.get(unicodedata.category(letter), _OTHER)
        if len(self) < _MOST_REMEMBERED:
            self[code] = found
        return found


_EITHER = _LETTER + _MARK
_BEFORE = rf"[^\r\n0-9A-Za-z{_UPPER}{_LOWER}{_LETTER}{_NUMBER}]?"
_BEHIND = "(?:'[sStTmMdD]|'[rR][eE]|'[vV][eE]|'[lL][lL])?"
_WORD = re.compile(
    rf"{_BEFORE}[A-Z{_UPPER}{_EITHER}]*[a-z{_LOWER}{_EITHER}]+{_BEHIND}"
    rf"|{_BEFORE}[A-Z{_UPPER}{_EITHER}]+[a-z{_LOWER}{_EITHER}]*{_BEHIND}"
    rf"|[0-9{_NUMBER}]{{1,3}}| ?[^\s0-9A-Za-z{_UPPER}{_LOWER}{_LETTER}{_NUMBER}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SUSPECT = re.compile(rf"[{_UPPER}{_LOWER}{_LETTER}{_MARK}][A-Z{_UPPER}]|[A-Za-z]{_UPPER}")
"""Matches in texts that llama.cpp may split otherwise."""
_CAPITALS = re.compile(rf"{_BEFORE}[A-Z{_UPPER}]*{_UPPER}[A-Z]+")
"""Matches words that llama.cpp splits."""


@cache
def _byte_letters() -> list[str]:
    """Return the characters that stand for bytes in byte-level BPE (GPT-2): printable ones for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def _spell(word: str) -> str:
    """Return a word as the vocabulary of byte-level BPE spells it."""
    return "".join(_byte_letters()[byte] for byte in word.encode())
