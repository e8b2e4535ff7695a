"""Which texts share the next forward pass: packing by token budget and priority.

Pure bookkeeping, no llama.cpp and no threads of its own; the worker's reader adds and cancels, its compute loop takes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

from edgeembed.engine.protocol import BULK, INTERACTIVE, Priority

TokensT = TypeVar("TokensT")

LOOK_AHEAD = 64
"""How far behind the head of a queue a text may be found that still fits into the budget."""

STARVED_SECONDS = 2.0
"""When queries alone were computed for this long, one batch begins with bulk texts: a steady stream of queries never stops
a bulk load, and a bulk load never holds up queries for more than a batch."""


@dataclass
class QueuedText(Generic[TokensT]):
    """A tokenised text that waits for its forward pass."""

    id: int
    tokens: TokensT
    count: int
    """Length in tokens."""
    priority: Priority
    alone: bool = False
    """Compute in a batch of its own."""
    retried: bool = False
    """Its first row was not usable."""
    queued_at: float = field(default=0.0)


class BatchQueue(Generic[TokensT]):
    """A thread-safe queue of texts that hands out batches.

    budget: tokens of all texts together that a batch aims at; a longer text gets a batch of its own.
    max_texts: sequences that one batch may hold.
    """

    def __init__(self, budget: int, max_texts: int, clock: Callable[[], float] = time.monotonic) -> None:
        if budget < 1 or max_texts < 1:
            raise ValueError("budget and max_texts must be at least 1")
        self._budget = budget
        self._max_texts = max_texts
        self._clock = clock
        self._queues: dict[Priority, deque[QueuedText[TokensT]]] = {INTERACTIVE: deque(), BULK: deque()}
        self._cancelled: set[int] = set()
        self._waiting: set[int] = set()
        self._condition = threading.Condition()
        self._closed = False
        self._bulk_served_at = 0.0
        """When the oldest bulk text was last taken."""

    def __len__(self) -> int:
        with self._condition:
            return len(self._waiting)

    def add(self, texts: Iterable[QueuedText[TokensT]]) -> None:
        """Queue texts behind those of their priority."""
        now = self._clock()
        with self._condition:
            for text in texts:
                text.queued_at = now
                self._cancelled.discard(text.id)
                self._waiting.add(text.id)
                self._queues[text.priority].append(text)
            self._condition.notify()

    def cancel(self, ids: Iterable[int]) -> None:
        """Free the places of texts that nobody waits for; those already computing are not touched."""
        with self._condition:
            for id_ in ids:
                if id_ in self._waiting:
                    self._waiting.discard(id_)
                    self._cancelled.add(id_)

    def close(self) -> None:
        """Let `take` return an empty batch, now and ever after."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def take(self) -> list[QueuedText[TokensT]]:
        """Wait for texts and take the next batch, oldest of the first priority in front; empty when closed."""
        with self._condition:
            while True:
                if self._closed:
                    return []
                for queue in self._queues.values():
                    self._drop_cancelled(queue)
                bulk = self._queues[BULK]
                oldest = bulk[0] if bulk else None
                batch = self._form()
                if batch:
                    self._waiting.difference_update(text.id for text in batch)
                    # A short bulk text that fills up a batch of queries must not make a long one in front of it wait on.
                    if oldest is not None and (not bulk or bulk[0] is not oldest):
                        self._bulk_served_at = self._clock()
                    return batch
                self._condition.wait()

    def _form(self) -> list[QueuedText[TokensT]]:
        batch: list[QueuedText[TokensT]] = []
        room = self._budget
        for queue in self._order():
            if queue and queue[0].alone:
                if not batch:
                    return [queue.popleft()]
                continue
            taken = []
            for position, text in enumerate(islice(queue, LOOK_AHEAD)):
                if len(batch) >= self._max_texts:
                    break
                # The very first text always goes, however long: waiting would not make it fit.
                fits = text.count <= room or not batch
                if fits and not text.alone and text.id not in self._cancelled:
                    batch.append(text)
                    taken.append(position)
                    room -= text.count
                    if room <= 0:
                        break
            for position in reversed(taken):
                del queue[position]
            if room <= 0 or len(batch) >= self._max_texts:
                break
        return batch

    def _order(self) -> list[deque[QueuedText[TokensT]]]:
        interactive, bulk = self._queues[INTERACTIVE], self._queues[BULK]
        if bulk and self._clock() - max(bulk[0].queued_at, self._bulk_served_at) > STARVED_SECONDS:
            return [bulk, interactive]
        return [interactive, bulk]

    def _drop_cancelled(self, queue: deque[QueuedText[TokensT]]) -> None:
        while queue and queue[0].id in self._cancelled:
            self._cancelled.discard(queue.popleft().id)
