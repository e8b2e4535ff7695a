"""From a text to the tokens that are computed: prompt, special tokens, ids from the client, truncation.

Only the text itself, or a pair's document and query, are ever truncated: prompt and special tokens stay whole, because the
model was not trained on texts without them (and Qwen3 pools the last one). No llama.cpp here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import msgspec
import numpy as np

from edgeembed.common.trace import traced
from edgeembed.engine.interface import Limits, Pair, Prompted, Role, Text
from edgeembed.engine.reading import Reading, Tokens, common
from edgeembed.engine.text_sizes import COUNTED_CHARACTERS, characters_to_read

SCAFFOLDS_READ = 64
"""Prompts whose tokens are remembered."""
LONGEST_SCAFFOLD = 16_384
"""Characters of a prompt that is remembered; a client's instruction in it may have any length."""
_NO_LIMITS = Limits()


class TooLongError(Exception):
    """A text has more tokens than the limit, and must not be truncated. at_least: its tokens were not counted to the end."""

    def __init__(self, tokens: int, limit: int, *, at_least: bool = False) -> None:
        super().__init__(f"{tokens} tokens")
        self.tokens = tokens
        self.limit = limit
        self.at_least = at_least


class NoRoomError(Exception):
    """Prompt, query and special tokens leave no room for the text."""


class BadIdsError(Exception):
    """Token ids outside the model's vocabulary."""


class Tokenizer(Protocol):
    """The methods of a model that tokenise. They may be called from any thread."""

    def read(self, text: Text) -> Reading:
        """Return all tokens of a text, a prompted text or a pair."""
        ...

    def around(self, prefix: str, suffix: str, role: Role = "") -> tuple[Tokens, Tokens]:
        """Return the tokens before and after each text with this prompt, special tokens included."""
        ...

    def expanded(self, reading: Reading, role: Role) -> Reading:
        """Return a text as it is computed: a query with the tokens that expand it, which count for no limit."""
        ...

    def shorten(self, text: str, most: int, *, at_start: bool = False) -> str:
        """Return a part of the text with more than `most` tokens, or the whole text if it has no more.

        The part is the text's beginning, or with at_start its end; its tokens are tokens of the whole.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class CutReading(Reading):
    """A truncated text. full: its number of tokens before that, or of those that were counted of a giant one."""

    full: int = 0


def length_before_cut(reading: Reading) -> int:
    """Return how many tokens a text had before it was truncated; 0 for a whole one."""
    return reading.full if isinstance(reading, CutReading) else 0


class TextReader:
    """Tokenises texts and truncates them to their limits. Its methods may be called from any thread."""

    def __init__(self, model: Tokenizer, *, context_tokens: int, vocabulary: int) -> None:
        """context_tokens: the longest text that the model takes. vocabulary: its number of token ids."""
        self._model = model
        self._context_tokens = context_tokens
        self._vocabulary = vocabulary
        self._short_around = lru_cache(SCAFFOLDS_READ)(model.around)

    def read(self, text: Text, most: int | None = None) -> Reading:
        """Return the tokens of a text: all of them, or with `most` a few more than that many of a giant text.

        Raises BadIdsError, and what the model raises.
        """
        if most is not None:
            text, _ = self._shortened(text, most, at_start=False)
        if isinstance(text, Prompted) and text.ids is not None:
            return self._read_ids(text)
        return self._model.read(text)

    @traced(before="decode the frame", within="tokenise")
    def read_within(self, text: Text) -> Reading:
        """Return the tokens of a text as it is computed, truncated to its limits.

        Raises TooLongError, NoRoomError, BadIdsError, and what the model raises.
        """
        reading = self._read_within(text)
        role = _role_of(text)
        return self._model.expanded(reading, role) if role and len(reading.tokens) else reading

    def _read_within(self, text: Text) -> Reading:
        limits = _NO_LIMITS if isinstance(text, str) else text.limits or _NO_LIMITS
        at_start = limits.cut == "start"
        text, shorter = self._shortened(text, self._context_tokens, at_start=at_start)
        reading = self.read(text)
        count = len(reading.tokens)
        most = min(self._context_tokens, limits.most or self._context_tokens)
        if count <= most:  # if the whole is short enough, so is the text within it
            return reading
        if limits.cut == "none" and not limits.own:
            raise TooLongError(count, most, at_least=shorter)
        tokens = reading.tokens
        head, tail = self._kept(text, tokens)
        if isinstance(text, Pair) and limits.query and limits.cut != "none":
            document = tokens[len(head) :]
            head = self._with_short_query(text, head, tail, len(document) - len(tail))
            tokens = np.concatenate([head, document])
        if limits.own:
            most = min(self._context_tokens, len(head) + limits.most + len(tail))
            if count <= most:
                return reading
            if limits.cut == "none":
                raise TooLongError(count, most, at_least=shorter)
        if len(tokens) > most:
            tokens = _cut(tokens, head, tail, most, at_start=at_start)
        return CutReading(tokens, full=count)

    def _shortened(self, text: Text, most: int, *, at_start: bool) -> tuple[Text, bool]:
        """Return a giant text without the end, or the beginning, that is too far behind `most` tokens to matter.

        The second value says whether anything was left out. Counting tokens that nobody asked for would
        delay the texts of other clients.
        """
        if characters_to_read(text) <= COUNTED_CHARACTERS:
            return text, False

        def part(whole: str, *, at_start: bool = False) -> str:
            return self._model.shorten(whole, most, at_start=at_start) if len(whole) > COUNTED_CHARACTERS // 4 else whole

        match text:
            case str():
                found: Text = part(text, at_start=at_start)
            case Prompted(prefix, inner, suffix):
                found = replace(text, prefix=part(prefix), text=part(inner, at_start=at_start), suffix=part(suffix))
            case Pair(query, document, instruction):
                found = msgspec.structs.replace(
                    text,
                    query=part(query, at_start=at_start),
                    document=part(document, at_start=at_start),
                    instruction=part(instruction) if instruction else instruction,
                )
        return found, characters_to_read(found) < characters_to_read(text)

    def given_ids(self, text: Text) -> Tokens:
        """Return token ids that were sent in place of a text. Raises BadIdsError for one that the model does not have."""
        assert isinstance(text, Prompted) and text.ids is not None
        ids: Tokens = np.frombuffer(text.ids, dtype=np.int32)
        wrong = ids[(ids < 0) | (ids >= self._vocabulary)]
        if len(wrong):
            raise BadIdsError(f"there is no token {wrong[0]}: the model's ids are 0 to {self._vocabulary - 1}")
        return ids

    def _read_ids(self, text: Prompted) -> Reading:
        ids = self.given_ids(text)
        begin, end = self._around("", "")
        inner = ids[_length_if_first(begin, ids) : len(ids) - _length_if_first(end[::-1], ids[::-1])]
        if not len(inner):
            return Reading(np.empty(0, dtype=np.int32))
        head, tail = self._around(text.prefix, text.suffix, text.role)
        return Reading(np.concatenate([head, inner, tail]))

    def _kept(self, text: Text, tokens: Tokens) -> tuple[Tokens, Tokens]:
        """Return the tokens before and after the part that may be truncated."""
        match text:
            case str():
                return self._around("", "")
            case Prompted():
                return self._around(text.prefix, text.suffix, text.role)
            case Pair(query, _, instruction):
                scaffold = self._model.read(Pair(query, "", instruction)).tokens
                before = common(tokens, scaffold)
                behind = common(tokens[before:][::-1], scaffold[before:][::-1])
                return scaffold[:before], scaffold[len(scaffold) - behind :]

    def _with_short_query(self, pair: Pair, head: Tokens, tail: Tokens, document: int) -> Tokens:
        """Return the tokens before a pair's document, with the query truncated as far as the pair's limits require.

        As tokenizers do with pairs ("longest first"), the query is left at least half of the room that it shares with the
        document, and whatever the document leaves. head, tail: the tokens before and after the document. document: the
        number of its tokens. Raises NoRoomError.
        """
        limits = pair.limits or _NO_LIMITS
        empty = self._model.read(Pair("", "", pair.instruction)).tokens
        first = common(empty, self._model.read(Pair("a", "", pair.instruction)).tokens)
        before, between = empty[:first], empty[first : len(empty) - len(tail)]
        most = self._context_tokens if limits.own else min(self._context_tokens, limits.most or self._context_tokens)
        room = most - len(empty)
        kept = max(room - (min(document, limits.most) if limits.own else document), room // 2)
        length = len(before) + kept + len(between)
        return head if len(head) <= length else _cut(head, before, between, length, at_start=limits.cut == "start")

    def _around(self, prefix: str, suffix: str, role: Role = "") -> tuple[Tokens, Tokens]:
        """Return the tokens before and after a text with this prompt; those of a long one are not remembered."""
        short = len(prefix) + len(suffix) <= LONGEST_SCAFFOLD
        return self._short_around(prefix, suffix, role) if short else self._model.around(prefix, suffix, role)


def _cut(tokens: Tokens, head: Tokens, tail: Tokens, most: int, *, at_start: bool) -> Tokens:
    """Return `most` tokens, with all of head and tail. Raises NoRoomError when none of the text's own would be left.

    Byte-level BPE may join the last character of a prompt and the first one of the text to one token. Such a token counts as
    the text's own; where it is cut off, the prompt's own tokens replace it.
    """
    before = common(tokens, head)
    behind = common(tokens[before:][::-1], tail[::-1])
    own = tokens[before : len(tokens) - behind]
    front, back = (head, tokens[len(tokens) - behind :]) if at_start else (tokens[:before], tail)
    room = most - len(front) - len(back)
    if room < 1:
        raise NoRoomError(f"prompt and special tokens take {most - room} of {most} tokens and leave no room for the text")
    return np.concatenate([front, own[-room:] if at_start else own[:room], back])


def _role_of(text: Text) -> Role:
    return text.role if isinstance(text, Prompted) else ""


def _length_if_first(part: Tokens, tokens: Tokens) -> int:
    """Return the length of a part if the tokens begin with all of it, otherwise 0."""
    return len(part) if common(tokens, part) == len(part) else 0
