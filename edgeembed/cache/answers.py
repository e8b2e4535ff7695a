"""Answers as they were written: what a request that comes again needs, and no more."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple

_OVERHEAD_BYTES = 900
"""What an entry costs besides its body: its name, the keys of a few rows, objects, places in the dictionary."""


class Answer(NamedTuple):
    """An answer, the keys of the rows that it was written from, and who may use it: whoever finds the same `version`."""

    body: bytes
    keys: tuple[bytes, ...]
    label: str
    model: tuple[str, str]
    version: int


class Answers:
    """Answers by name, bounded in bytes, least recently used ones leave first. Used on the event loop's thread only.

    Only what the hot tier answered gets here, so that a scan does not wash it out.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used_bytes = 0
        self._answers: OrderedDict[Hashable, Answer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, name: Hashable) -> Answer | None:
        """Give what is kept under a name, and mark it as used."""
        found = self._answers.get(name)
        if found is not None:
            self._answers.move_to_end(name)
        return found

    def put(self, name: Hashable, answer: Answer) -> None:
        """Keep an answer; others leave until it fits. The name holds all that the answer depends on, but for its version."""
        size = len(answer.body) + _OVERHEAD_BYTES
        if size > self.capacity:
            return
        old = self._answers.pop(name, None)
        if old is not None:
            self.used_bytes -= len(old.body) + _OVERHEAD_BYTES
        self._answers[name] = answer
        self.used_bytes += size
        while self.used_bytes > self.capacity:
            _, leaving = self._answers.popitem(last=False)
            self.used_bytes -= len(leaving.body) + _OVERHEAD_BYTES

    def clear(self) -> None:
        """Forget everything."""
        self._answers.clear()
        self.used_bytes = 0
