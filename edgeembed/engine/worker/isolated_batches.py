"""Isolated batches: texts whose forward passes depend only on the texts that were sent together.

A row's last digits depend on which texts share its forward pass, in which order, and on padding; the lane, the number of
threads and the time make no difference. Ordinary batches take whatever waits, so they differ from run to run. The texts of
an isolated batch share passes only with each other, so that the same request returns the same bits each time. Texts that
were being computed when a worker crashed are computed again one by one, which finds out whether one of them is to blame:
their rows say so (`Row.alone`), and `edgeembed.inference.single_flight` has all texts of the request computed once more.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from edgeembed.engine.ipc.messages import IsolatedBatch


class ReadText(Protocol):
    """A text that has been tokenised."""

    id: int

    @property
    def cost(self) -> int:
        """Tokens to compute."""
        ...


TextT = TypeVar("TextT", bound=ReadText)


def pack(texts: Sequence[TextT], budget: int, max_texts: int) -> list[list[TextT]]:
    """Divide texts among batches of at most `budget` tokens and `max_texts` texts; a longer text gets one of its own.

    Each batch takes the longest text that is left, then repeatedly the longest that still fits; of equally long texts, the
    earlier one first.
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
    """Collects the texts of each isolated batch until all are tokenised. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: dict[int, tuple[int, list[TextT]]] = {}
        """By the batch's id: how many texts have been tokenised, and those of them that will be computed."""

    def add(self, batch: IsolatedBatch, text: TextT | None) -> list[TextT] | None:
        """Add a tokenised text of a batch; None for one that will not be computed.

        Returns all texts of the batch, in the order in which they were sent, when it was the last one; otherwise None.
        """
        with self._lock:
            count, texts = self._read.pop(batch.id, (0, []))
            if text is not None:
                texts.append(text)
            if count + 1 < batch.texts:
                self._read[batch.id] = count + 1, texts
                return None
        return sorted(texts, key=lambda each: each.id)
