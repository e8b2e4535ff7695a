"""Where the characters of a changed text come from in the original."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeembed.common.normal_forms import normalize, segments

Places = npt.NDArray[np.int32]

_MAY_CHANGE = re.compile("[\0-\u02ff]?[^\0-\u02ff]+")
"""Characters below U+0300 are in NFC, and join none before them."""

_AT_ONCE = 16_384
"""Parts that are handled at once, as NumPy keeps all other threads waiting."""


@dataclass(frozen=True)
class Origins:
    """For each character of a changed text, begin and end of the characters of the original that it stands for."""

    begins: Places
    ends: Places

    @classmethod
    def same(cls, length: int) -> Origins:
        """Return the origins of a text that was not changed."""
        begins = np.arange(length, dtype=np.int32)
        return cls(begins, begins + 1)

    @classmethod
    def joined(cls, parts: Iterable[tuple[int, int, int]]) -> Origins:
        """Return the origins of characters in a row. parts: how many of them stand for the original from begin to end."""
        begins, ends = [np.empty(0, dtype=np.int32)], [np.empty(0, dtype=np.int32)]
        left = iter(parts)
        while some := list(itertools.islice(left, _AT_ONCE)):
            rows = np.array(some, dtype=np.int32)
            begins.append(np.repeat(rows[:, 1], rows[:, 0]))
            ends.append(np.repeat(rows[:, 2], rows[:, 0]))
        return cls(np.concatenate(begins), np.concatenate(ends))

    def __len__(self) -> int:
        return len(self.begins)

    def without(self, indexes: list[int]) -> Origins:
        """Return the origins of a text that lacks the characters at these indexes."""
        return Origins(np.delete(self.begins, indexes), np.delete(self.ends, indexes)) if indexes else self

    def behind(self, others: Origins) -> Origins:
        """Return the origins in the text that `others` lead to, whose changed text is the original here."""
        return Origins(others.begins[self.begins], others.ends[self.ends - 1])

    def of(self, spans: Places) -> Places:
        """Return parts of the changed text as parts of the original; -1 stays.

        spans: begin and end of each, shape (parts, 2).
        """
        if not len(self):
            return spans
        begins, ends = spans[:, 0], spans[:, 1]
        found = np.stack([self.begins[np.minimum(begins, len(self) - 1)], self.ends[ends - 1]], axis=1)
        empty = begins == ends
        found[empty] = np.where(ends[empty] > 0, self.ends[ends[empty] - 1], 0)[:, None]
        found[begins < 0] = -1
        return found

    def within(self, before: int, length: int, behind: int) -> Origins:
        """Return the origins where unchanged characters stand before and behind the text. length: of the original."""
        shift = before + length
        front, back = np.arange(before, dtype=np.int32), np.arange(shift, shift + behind, dtype=np.int32)
        begins = np.concatenate([front, self.begins + np.int32(before), back])
        return Origins(begins, np.concatenate([front + 1, self.ends + np.int32(before), back + 1]))


def compose_with_origins(text: str) -> tuple[str, Origins]:
    """Return a text in NFC, as `normalize` makes it, and where its characters come from.

    What is composed or put into another order comes from all the characters that this needs together.
    """
    whole = normalize("NFC", text)
    if whole == text:
        return whole, Origins.same(len(text))
    found = Origins.joined(_composed_parts(text))
    return whole, found if len(found) == len(whole) else Origins.joined([(len(whole), 0, len(text))])


def _composed_parts(text: str) -> Iterator[tuple[int, int, int]]:
    """Yield the parts of a text that are composed by themselves; see `Origins.joined`."""
    done = 0
    for run in _MAY_CHANGE.finditer(text):
        yield from ((1, at, at + 1) for at in range(done, run.start()))
        yield from _composed(text, *run.span())
        done = run.end()
    yield from ((1, at, at + 1) for at in range(done, len(text)))


def _composed(text: str, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the parts of a run of characters that may be composed with each other; see `Origins.joined`."""
    for part_end in segments("NFC", text, begin, end):
        part = text[begin:part_end]
        composed = normalize("NFC", part)
        if composed == part:
            yield from ((1, at, at + 1) for at in range(begin, part_end))
        else:
            yield len(composed), begin, part_end
        begin = part_end
