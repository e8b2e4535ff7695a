"""White space that is a token of its own in a Unigram vocabulary (bge-m3's), where llama.cpp drops it.

SentencePiece's rules in the tokenizers library without WhitespaceSplit: each space begins a piece, so that one before no
word is a piece alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from edgeembed.engine.llama.vocabulary import Vocabulary

SPACES_KEY = "edgeembed.tokenizer.spaces"
_MARK = "\u2581"
_RUN = re.compile(f"[\\s\u200b{_MARK}]+")


class LooseSpaces:
    """Splits texts at white space that is a token."""

    def __init__(self, mark: int, *, each: bool) -> None:
        """mark: the token of a space. each: whether runs are kept, too, and not only what ends a text."""
        self._mark = mark
        self._each = each

    @classmethod
    def of(cls, metadata: Callable[[str], str | None], vocabulary: Vocabulary) -> LooseSpaces | None:
        """Return that of a file, or None if llama.cpp reads its white space. metadata: returns a value of the file."""
        kind = metadata(SPACES_KEY) if metadata("tokenizer.ggml.model") == "t5" else None
        if kind not in ("end", "each"):
            return None
        mark = next((id_ for id_, text in enumerate(vocabulary.spellings()) if text == _MARK), vocabulary.unknown)
        return cls(mark, each=kind == "each")

    def split(self, text: str) -> str | list[str | int]:
        """Return the text, or the tokens of its white space and the texts between them."""
        if not self._each and not _RUN.match(text[-1:]):
            return text  # nearly every text
        return list(self._split(text))

    def _split(self, text: str) -> Iterator[str | int]:
        done = 0
        for run in _RUN.finditer(text):
            begin, end = run.span()
            count = end - begin if self._each else 1
            if end < len(text):
                count = count - 1  # one belongs to the word behind it
            if count:
                if begin > done:
                    yield text[done:begin]
                yield from [self._mark] * count
                done = end
        if done < len(text):
            yield text[done:]
