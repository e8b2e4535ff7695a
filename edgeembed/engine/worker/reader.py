"""From a text to the tokens that are computed: prompt, special tokens, ids that came ready, and what is cut off.

Only the text itself is ever cut, or a pair's document: prompt, query and special tokens stay whole, because a text without
them is not what the model was trained on (and Qwen3 pools the last one). No llama.cpp here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np

from edgeembed.engine.interface import Limits, Pair, Prompted, Text
from edgeembed.engine.reading import Reading, Tokens

SCAFFOLDS_READ = 64
"""Prompts whose tokens are remembered."""
_NO_LIMITS = Limits()


class TooLongError(Exception):
    """A text has more tokens than it may have, and must not be cut."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(f"{tokens} tokens")
        self.tokens = tokens
        self.limit = limit


class NoRoomError(Exception):
    """What stands around a text leaves no room for any of it."""


class BadIdsError(Exception):
    """Token ids that are none of the model's."""


class Model(Protocol):
    """What is needed of a model; every method may be called from any thread."""

    def read(self, text: Text) -> Reading:
        """Tokenise a text, a prompted text or a pair, whole."""
        ...

    def tokenize(self, text: str) -> Tokens:
        """Tokenise a text with its special tokens."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class CutReading(Reading):
    """A text of which something was cut off. full: its tokens before that."""

    full: int = 0


class TextReader:
    """Reads texts within their limits. Its methods may be called from any thread."""

    def __init__(self, model: Model, *, context_tokens: int, vocabulary: int) -> None:
        """Prepare. context_tokens: the longest text that the model takes. vocabulary: its number of token ids."""
        self._model = model
        self._context_tokens = context_tokens
        self._vocabulary = vocabulary
        self._around = lru_cache(SCAFFOLDS_READ)(self._read_around)

    def read(self, text: Text) -> Reading:
        """Give a text's tokens, however many they are. Raises BadIdsError, and what the model raises."""
        if isinstance(text, Prompted) and text.ids is not None:
            return self._read_ids(text)
        return self._model.read(text)

    def read_within(self, text: Text) -> Reading:
        """Give as many of a text's tokens as are computed.

        Raises TooLongError, NoRoomError, BadIdsError, and what the model raises.
        """
        reading = self.read(text)
        limits = _NO_LIMITS if isinstance(text, str) else text.limits or _NO_LIMITS
        count = len(reading.tokens)
        most = min(self._context_tokens, limits.most or self._context_tokens)
        if count <= most:  # what is whole is short enough for any of its parts
            return reading
        if limits.cut == "none" and not limits.own:
            raise TooLongError(count, most)
        head, tail = self._kept(text, reading.tokens)
        if limits.own:
            most = min(self._context_tokens, len(head) + limits.most + len(tail))
            if count <= most:
                return reading
            if limits.cut == "none":
                raise TooLongError(count, most)
        return CutReading(_cut(reading.tokens, head, tail, most, at_start=limits.cut == "start"), full=count)

    def _read_ids(self, text: Prompted) -> Reading:
        assert text.ids is not None
        ids: Tokens = np.frombuffer(text.ids, dtype=np.int32)
        wrong = ids[(ids < 0) | (ids >= self._vocabulary)]
        if len(wrong):
            raise BadIdsError(f"there is no token {wrong[0]}: the model's ids are 0 to {self._vocabulary - 1}")
        begin, end = self._frame
        inner = ids[_common(ids, begin, whole=True) : len(ids) - _common(ids[::-1], end[::-1], whole=True)]
        if not len(inner):
            return Reading(np.empty(0, dtype=np.int32))
        head, tail = self._around(text.prefix, text.suffix)
        return Reading(np.concatenate([head, inner, tail]))

    def _kept(self, text: Text, tokens: Tokens) -> tuple[Tokens, Tokens]:
        """Give the tokens in front of and behind what may be cut."""
        match text:
            case str():
                return self._frame
            case Prompted():
                return self._around(text.prefix, text.suffix)
            case Pair(query, _, instruction):
                scaffold = self._model.read(Pair(query, "", instruction)).tokens
                before = _common(tokens, scaffold)
                behind = _common(tokens[before:][::-1], scaffold[before:][::-1])
                return scaffold[:before], scaffold[len(scaffold) - behind :]

    @cached_property
    def _frame(self) -> tuple[Tokens, Tokens]:
        """The special tokens in front of and behind every text."""
        bare, filled = self._model.tokenize(""), self._model.tokenize("a")
        begin = _common(bare, filled)
        return bare[:begin], bare[begin:]

    def _read_around(self, prefix: str, suffix: str) -> tuple[Tokens, Tokens]:
        """Tokenise what a prompt puts around a text, special tokens included."""
        begin, end = self._frame
        before, behind = (self._model.tokenize(part) if part else np.concatenate(self._frame) for part in (prefix, suffix))
        return before[: len(before) - len(end)], behind[len(begin) :]


def _cut(tokens: Tokens, head: Tokens, tail: Tokens, most: int, *, at_start: bool) -> Tokens:
    """Keep `most` tokens, all of head and tail among them. Raises NoRoomError when none of the text's own would be left.

    Byte-level BPE may join the last character of what stands in front with the first one of what stands behind. Such a token
    counts as the text's own, and the prompt's own ones take its place where it is cut off.
    """
    before = _common(tokens, head)
    behind = _common(tokens[before:][::-1], tail[::-1])
    own = tokens[before : len(tokens) - behind]
    front, back = (head, tokens[len(tokens) - behind :]) if at_start else (tokens[:before], tail)
    room = most - len(front) - len(back)
    if room < 1:
        raise NoRoomError(f"{most - room} tokens stand around the text, and {most} are all that there may be")
    return np.concatenate([front, own[-room:] if at_start else own[:room], back])


def _common(one: Tokens, other: Tokens, *, whole: bool = False) -> int:
    """Count the first tokens that two lists share. whole: none unless it is all of the other."""
    most = min(len(one), len(other))
    different = np.flatnonzero(one[:most] != other[:most])
    shared = int(different[0]) if len(different) else most
    return shared if shared == len(other) or not whole else 0
