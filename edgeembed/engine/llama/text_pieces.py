"""Where a long text can be cut so that the tokens of its pieces, one after the other, are those of the whole.

llama.cpp's tokenizers take memory of 30 to 100 times a text's size, and some of its pre-tokenizers recurse for each
character of a run. So long texts are tokenised in pieces, cut before a space between two words where the vocabulary allows:

- WordPiece reads words one by one.
- Byte-level BPE: no pattern of the pre-tokenizers named below continues past a space that follows another character.
- Unigram and SentencePiece's BPE: no token has a space inside, so none crosses the cut. Unigram merges spaces.

A run without such a place is cut at its maximum length, wherever that is, which changes a token or two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from edgeembed.engine.llama.normalizer import WHOLE_LINES

PIECE_CHARACTERS = 65_536
"""A text up to this length is one piece."""
LONGEST_RUN = 262_144
"""A run of characters without a place to cut is cut behind this many."""
LONGEST_RECURSION = 16_384
"""The same for pre-tokenizers that recurse for each character: about 320 bytes of the thread's stack each."""

_SPLIT_BEFORE_SPACES = {
    "gpt-2", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "modern-bert", "jina-v1-en", "jina-v2-code",
    "roberta-bpe", "mpt", "olmo", "qwen2", "deepseek-r1-qwen", "qwen35", "llama-bpe", "llama3", "llama-v3", "dbrx",
    "smaug-bpe", "stablelm2", "chatglm-bpe", "glm4",
}  # fmt: skip
"""Pre-tokenizers of llama.cpp (0c1e57098) that are written by hand, as their patterns are: none recurses."""
_RECURSIVE_SPLIT_BEFORE_SPACES = {"gpt-4o", "llama4", "kanana2", "granite-embed-multi-97m", "tekken"}
_SPACE = "\u2581"


class TextPieces:
    """Cuts long texts.

    strips: whether the space at the beginning of each piece but the first is left out, as the tokenizer adds one to each.
    """

    def __init__(self, place: re.Pattern[str] | None, longest: int | None, *, strips: bool = False) -> None:
        """place: matches where a piece may begin. longest: of a piece, in characters; None for any length."""
        self._place = place
        self._longest = longest
        self.strips = strips

    @classmethod
    def of(
        cls, metadata: Callable[[str], str | None], spellings: Callable[[], Iterable[str]], defined: Iterable[str]
    ) -> TextPieces:
        """Return the pieces for a vocabulary. spellings: returns all tokens as the file has them."""
        model, splitter = metadata("tokenizer.ggml.model"), metadata("tokenizer.ggml.pre") or ""
        tokens = list(defined)
        if model == "bert":
            # Before white space, punctuation and ideographs. Words of any length are read.
            return cls._unless_crossed(r"[\s!-/:-@\[-`{-~\u3400-\u4dbf\u4e00-\u9fff]", None, tokens)
        if model == "t5":
            merges = all(
                metadata(f"tokenizer.ggml.{key}") == "true" for key in ("add_space_prefix", "remove_extra_whitespaces")
            )
            return cls._unless_crossed(_before_spaces(_before_inner_spaces(spellings())), LONGEST_RUN, tokens, exact=merges)
        if model == "llama" or splitter in WHOLE_LINES:
            strips = model == "llama" and metadata("tokenizer.ggml.add_space_prefix") != "false"
            place = _before_spaces(_before_inner_spaces(spellings()))
            return cls._unless_crossed(place, LONGEST_RUN, tokens, strips=strips)
        if splitter in _RECURSIVE_SPLIT_BEFORE_SPACES:
            return cls._unless_crossed(_before_spaces(""), LONGEST_RECURSION, tokens)
        return cls._unless_crossed(_before_spaces(""), LONGEST_RUN, tokens, exact=splitter in _SPLIT_BEFORE_SPACES)

    @classmethod
    def _unless_crossed(
        cls, place: str, longest: int | None, defined: Iterable[str], *, strips: bool = False, exact: bool = True
    ) -> TextPieces:
        """Return pieces that are cut at `place`, unless it may be inside a defined token. exact: whether it may be used."""
        pattern = re.compile(place)
        # A word follows, before which the token may end.
        crossed = any(
            (match := pattern.search(f"{token}a", 1)) is not None and match.start() < len(token) for token in defined
        )
        return cls(pattern if exact and not crossed else None, longest, strips=strips)

    def split(self, text: str) -> Iterator[str]:
        """Yield the pieces of a text, from its beginning."""
        begin = 0
        for end in self.ends(text):
            piece = text[begin:end]
            yield piece[1:] if self.strips and begin and piece[:1] == " " else piece
            begin = end

    def ends(self, text: str) -> Iterator[int]:
        """Yield the end of each piece."""
        begin, length = 0, len(text)
        while begin < length:
            begin = self._end(text, begin)
            yield begin

    def _end(self, text: str, begin: int) -> int:
        length, longest = len(text), self._longest or len(text)
        if length - begin <= min(PIECE_CHARACTERS, longest):
            return length
        furthest = min(length, begin + longest)
        # One character more: what follows the place decides, too.
        least = min(PIECE_CHARACTERS, longest // 2)
        found = self._place.search(text, begin + least, furthest + 1) if self._place else None
        return found.start() if found else furthest


def _before_spaces(excluded: str) -> str:
    """Return an expression for a space between two words. excluded: characters that it must not follow."""
    return rf"(?<=[^\s{re.escape(excluded)}]) (?=\w)"


def _before_inner_spaces(spellings: Iterable[str]) -> str:
    """Return the characters before a space inside of tokens."""
    return "".join(
        sorted({match.group(1) for spelling in spellings if _SPACE in spelling for match in _INNER.finditer(spelling)})
    )


_INNER = re.compile(f"([^{_SPACE}]){_SPACE}")
