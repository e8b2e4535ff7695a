"""Tokens that a vocabulary defines as whole pieces of text: runs of spaces, tags, names of tools.

They are found in a text before anything else is tokenised: the first one, and the longest of those that begin there, as in
the tokenizers library. llama.cpp (0c1e57098) looks for one token after the other in a linked list: the time grows with the
square of what it finds, 27 s for 400,000 spaces. It finds none in a text that was split here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence


class DefinedTokens:
    """Splits texts at defined tokens."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        """ids: of the tokens, by their text."""
        self._ids = dict(ids)
        self._pattern = _compile(ids) if ids else None

    def split(self, text: str) -> str | list[str | int]:
        """Return the text if it has no defined token; otherwise the ids of its defined tokens and the texts between them."""
        if self._pattern is None or self._pattern.search(text) is None:
            return text
        return list(self._split(text))

    def _split(self, text: str) -> Iterator[str | int]:
        assert self._pattern is not None
        done = 0
        for match in self._pattern.finditer(text):
            if match.start() > done:
                yield text[done : match.start()]
            yield self._ids[match.group()]
            done = match.end()
        if done < len(text):
            yield text[done:]


def _compile(tokens: Iterable[str]) -> re.Pattern[str]:
    """Return a regular expression that matches the longest token at a place."""
    longest_first = sorted(tokens, key=len, reverse=True)
    try:
        # With tokens that have a common beginning the plain expression below is slow.
        return re.compile(_alternatives(longest_first))
    except RecursionError:
        return re.compile("|".join(map(re.escape, longest_first)))


def _alternatives(tokens: Sequence[str]) -> str:
    """Return an expression for the tokens that reads their common beginnings once."""
    by_letter: dict[str, list[str]] = {}
    for token in tokens:
        by_letter.setdefault(token[:1], []).append(token[1:])
    rests = [re.escape(letter) + _alternatives(rest) for letter, rest in by_letter.items() if letter]
    if not rests:
        return ""
    return f"(?:{'|'.join(rests)})" + ("?" if "" in by_letter else "")
