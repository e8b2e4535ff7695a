"""A batch queue with its lanes in one thread: every order in which threads could reach the queue can be tried.

A lane that waits is woken by the queue, and looks again when the test lets it: in between anything else may happen.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import cast

import pytest

from edgeembed.engine.interface import INTERACTIVE
from edgeembed.engine.worker.batching import WIDE, BatchQueue
from edgeembed.engine.worker.packing import QueuedText
from tests.engine.worker.queued import Clock

BULK_TOKENS = 200
"""The longest text of a bulk lane."""


class _Asleep(Exception):
    """Raised where a lane's thread would begin to wait."""


class _Turn:
    """Stands for a condition of the queue: knows which lanes wait, and which were notified."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes

    def wait(self, timeout: float | None = None) -> bool:
        raise _Asleep

    def notify(self, n: int = 1) -> None:
        # As `threading.Condition` does: it wakes those that have waited longest.
        for lane in self._waiting()[:n]:
            self._lanes.asleep.remove(lane)
            self._lanes.woken.append(lane)

    def notify_all(self) -> None:
        self.notify(len(self._lanes.asleep))

    def _waiting(self) -> list[int]:
        wide = self is self._lanes.wide_turn
        return [lane for lane in self._lanes.asleep if (lane == WIDE) == wide]


class Lanes:
    """The lanes of one worker. A lane computes, sleeps, has been woken, or has ended."""

    def __init__(self, bulk_lanes: int = 2, *, budget: int = 100, max_texts: int = 50) -> None:
        self.bulk_lanes = bulk_lanes
        self.clock = Clock()
        self.queue: BatchQueue[None] = BatchQueue(
            budget, max_texts, self.clock, bulk_lanes=bulk_lanes, bulk_tokens=BULK_TOKENS if bulk_lanes else 0
        )
        self.wide_turn, self.bulk_turn = _Turn(self), _Turn(self)
        self.queue._wide_turn = cast(threading.Condition, self.wide_turn)
        self.queue._bulk_turn = cast(threading.Condition, self.bulk_turn)
        self.waiting: list[QueuedText[None]] = []
        """What the queue should hold; texts of one priority are in its order."""
        self.computing: dict[int, list[QueuedText[None]]] = {}
        """The batch of each busy lane."""
        self.asleep: list[int] = []
        self.woken: list[int] = []
        self.lent = False
        """Whether the reader computes in the wide lane's place."""
        self.ended: set[int] = set()
        self.taken: list[int] = []
        """Ids of all texts that a lane has taken."""
        self.added = 0
        """Number of texts so far, without those that were queued again."""
        for lane in range(bulk_lanes + 1):
            self.take(lane)

    # --- what threads do ----------------------------------------------------------------------------------------------

    def add(self, *texts: QueuedText[None], isolated: bool = False) -> None:
        self.added += len(texts)
        self.waiting += texts
        if isolated:
            self.queue.add_isolated(texts)
        else:
            self.queue.add(texts)

    def add_at_once(self, *texts: QueuedText[None]) -> None:
        """The reader adds texts, and computes a batch of queries itself if the wide lane sleeps."""
        self.added += len(texts)
        self.waiting += texts
        batch = self.queue.take_at_once(texts, lambda batch: batch[0].priority == INTERACTIVE and not batch[0].alone)
        if batch:
            assert WIDE not in self.computing and WIDE not in self.ended
            self.lent = True
            self._taken(batch)
            self.computing[WIDE] = batch

    def give_back(self) -> None:
        """The reader has computed its batch."""
        self.lent = False
        del self.computing[WIDE]
        self.queue.give_back()

    def cancel(self, *ids: int) -> None:
        self.waiting = [text for text in self.waiting if text.id not in ids]
        self.queue.cancel(ids)

    def retry(self, lane: int) -> None:
        """A lane's batch has given no usable rows: each text is queued again, to be computed alone."""
        batch, self.computing[lane] = self.computing[lane], []
        for text in batch:
            text.retried, text.alone, text.batch = True, True, 0
            self.waiting.append(text)
            self.queue.add([text])

    def retire(self, lane: int) -> None:
        """A bulk lane has no memory for its context."""
        batch = self.computing.pop(lane)
        self.waiting = batch + self.waiting
        self.ended.add(lane)
        self.queue.retire(lane, batch)

    def take_query(self, most: int = 64) -> list[int]:
        """The wide lane computes queries between two pieces of a long text."""
        batch = self.queue.take_query(most)
        self._taken(batch)
        return [text.id for text in batch]

    def take(self, lane: int) -> list[int] | None:
        """A lane has finished its batch, or looks again; return what it computes next, None when it sleeps."""
        if self.lent and lane == WIDE:  # its thread looks, as after a wait with a time limit, while the reader computes
            with pytest.raises(_Asleep):
                self.queue.take(lane)
            if lane in self.woken:
                self.woken.remove(lane)
                self.asleep.append(lane)
            return None
        self.computing.pop(lane, None)
        for lanes in (self.woken, self.asleep):
            if lane in lanes:
                lanes.remove(lane)
        try:
            batch = self.queue.take(lane)
        except _Asleep:
            self.asleep.append(lane)
            return None
        if batch:
            self._taken(batch)
            self.computing[lane] = batch
        else:
            self.ended.add(lane)
        return [text.id for text in batch]

    def close(self) -> None:
        self.waiting.clear()
        self.queue.close()

    # --- what must hold -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check what holds at any time."""
        assert len(self.queue) == len(self.waiting) or not self.waiting
        alone = [lane for lane, batch in self.computing.items() if any(text.alone for text in batch)]
        assert not alone or len(self.computing) == 1, "a text that has to be alone is computed beside others"
        for lane, batch in self.computing.items():
            assert len(batch) == 1 or not any(text.alone for text in batch)
            assert lane == WIDE or all(text.count <= BULK_TOKENS and not text.only_wide for text in batch)
            assert len({text.is_dense for text in batch}) <= 1, "dense texts and others need different contexts"

    def settle(self) -> None:
        """Let the woken lanes look, one after the other, until all sleep or compute; then no lane may sleep wrongly.

        A lane that sleeps although the queue has a batch for it has missed its turn.
        """
        steps = 0
        while self.woken:
            self.take(self.woken[0])
            steps += 1
            assert steps < 1000, "lanes wake each other without end"
        self.check()
        assert self.computing or not self.waiting, f"all lanes sleep while {len(self.waiting)} texts wait"
        for lane in list(self.asleep):
            batch = self.take(lane)
            assert batch is None, f"lane {lane} slept while there were texts for it: {batch}"
            assert not self.woken, f"lanes {self.woken} slept while there was something for them"

    def drain(self) -> None:
        """Finish all work; every text is taken, and no lane misses its turn."""
        self.settle()
        while self.computing:
            lane = next(iter(self.computing))
            if self.lent and lane == WIDE:
                self.give_back()
            else:
                self.take(lane)
            self.settle()
        assert not self.waiting

    def _taken(self, batch: Iterable[QueuedText[None]]) -> None:
        for text in batch:
            assert any(text is waiting for waiting in self.waiting), "a text twice, or after it was cancelled"
            self.waiting = [waiting for waiting in self.waiting if waiting is not text]
            self.taken.append(text.id)
