"""Isolated texts: batches that are a pure function of the texts they were sent with.

A row's last digits depend on which texts share its forward pass, in which order, and on whether it is filled up; lanes, the
number of threads and the moment make no difference. Where batches take whatever waits, they differ from run to run. The
texts of an isolated batch share passes with each other only, so that the same request gives the same bits each time. Only
texts that were computing when a worker died do not: they are tried again one by one.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from edgeembed.engine.ipc.messages import IsolatedBatch


class ReadText(Protocol):
    """A text whose tokens are known."""

    id: int

    @property
    def cost(self) -> int:
        """Tokens to compute."""
        ...


TextT = TypeVar("TextT", bound=ReadText)


def pack(texts: Sequence[TextT], budget: int, max_texts: int) -> list[list[TextT]]:
    """Divide texts among batches of at most `budget` tokens and `max_texts` texts; a longer text has one of its own.

    Each batch takes the longest text that is left, and then again and again the longest one that still fits. Of texts of one
    length the earlier one goes first.
    """
    by_cost: dict[int, list[TextT]] = {}
    for text in reversed(texts):
        by_cost.setdefault(text.cost, []).append(text)
    costs = sorted(by_cost, reverse=True)
    batches: list[list[TextT]] = []
    while costs:
        batch: list[TextT] = []
        room = budget
        for cost in costs:
            left = by_cost[cost]
            while left and len(batch) < max_texts and (cost <= room or not batch):
                batch.append(left.pop())
                room -= cost
        costs = [cost for cost in costs if by_cost[cost]]
        batches.append(batch)
    return batches


class IsolatedBatches(Generic[TextT]):
    """Collects the texts of each seal until the last one has been read. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: dict[int, tuple[int, list[TextT]]] = {}
        """By the seal's id: how many texts have come, and those of them that are computed."""

    def add(self, seal: IsolatedBatch, text: TextT | None) -> list[TextT] | None:
        """Note that a text of a seal was read, None when it is not computed.

        Gives all texts of the seal, in the order in which they were sent, when it was the last one.
        """
        with self._lock:
            count, texts = self._read.pop(seal.id, (0, []))
            if text is not None:
                texts.append(text)
            if count + 1 < seal.texts:
                self._read[seal.id] = count + 1, texts
                return None
        return sorted(texts, key=lambda each: each.id)
