"""Which texts share the next forward pass, and which lane computes it: packing by token budget, priority and load.

Pure bookkeeping, no llama.cpp and no threads of its own; the worker's reader adds and cancels, its lanes take.

A lane is a thread with a context. The wide lane has all processors and gives each query its shortest time. Bulk lanes share
the processors, a few threads each, and do the most work in all; they yield to the wide lane. So:

- A lone query, or a few that bulk lanes could not share out evenly, goes to the wide lane, whatever the bulk lanes compute.
- A crowd of queries is a load like any other: it is shared out among the bulk lanes.
- Bulk texts go to bulk lanes; only those too long for one go to the wide lane.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Generic, NamedTuple, TypeVar

from edgeembed.engine.interface import BULK, INTERACTIVE, Priority
from edgeembed.engine.worker.isolated_batches import pack

TokensT = TypeVar("TokensT")

WIDE = 0
"""The number of the wide lane; bulk lanes count from 1."""

LOOK_AHEAD = 64
"""How far behind the head of a queue a text may be found that still fits into the budget."""

STARVED_SECONDS = 2.0
"""When a lane has computed queries alone for this long, one of its batches begins with bulk texts: a steady stream of
queries never stops a bulk load, and a bulk load never holds up queries for more than a batch."""

WIDE_EFFICIENCY = 0.8
"""How much of its threads the wide lane makes good on a short batch, where bulk lanes make good all."""


@dataclass
class QueuedText(Generic[TokensT]):
    """A tokenised text that waits for its forward pass."""

    id: int
    tokens: TokensT
    count: int
    """Length in tokens."""
    priority: Priority
    alone: bool = False
    """Compute in a batch of its own while nothing else computes: whether it ends the worker must show."""
    retried: bool = False
    """Its first row was not usable."""
    own: int = 0
    """Tokens that it does not share with a prefix, what it costs to compute; 0 stands for all."""
    batch: int = 0
    """Of a isolated text, the number of its batch, which is taken whole and with nothing else; 0 otherwise."""
    queued_at: float = field(default=0.0)

    @property
    def cost(self) -> int:
        """Tokens to compute."""
        return self.own or self.count


@dataclass(frozen=True)
class _Running:
    """What a lane computes."""

    queries: bool
    """There is an interactive text among it."""
    alone: bool
    long: bool
    """It is a text that only the wide lane can hold."""


class _Size(NamedTuple):
    """Of texts that wait: tokens together, of the longest one, number."""

    tokens: int
    longest: int
    texts: int


class BatchQueue(Generic[TokensT]):
    """A thread-safe queue of texts that hands out batches.

    budget: tokens of all texts together that a batch aims at; a longer text gets a batch of its own.
    max_texts: sequences that one batch may hold.
    bulk_lanes: lanes beside the wide one. bulk_tokens: the longest text that they can compute.
    """

    def __init__(
        self,
        budget: int,
        max_texts: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        bulk_lanes: int = 0,
        bulk_tokens: int = 0,
    ) -> None:
        if budget < 1 or max_texts < 1:
            raise ValueError("budget and max_texts must be at least 1")
        self._budget = budget
        self._max_texts = max_texts
        self._clock = clock
        self._bulk_lanes = bulk_lanes
        self._bulk_tokens = bulk_tokens
        self._queues: dict[Priority, deque[QueuedText[TokensT]]] = {INTERACTIVE: deque(), BULK: deque()}
        self._cancelled: set[int] = set()
        self._waiting: set[int] = set()
        self._running: dict[int, _Running] = {}
        self._lock = threading.Lock()
        self._wide_turn = threading.Condition(self._lock)
        self._bulk_turn = threading.Condition(self._lock)
        self._closed = False
        self._bulk_served_at = 0.0
        """When the oldest bulk text was last taken."""

    def __len__(self) -> int:
        with self._lock:
            return len(self._waiting)

    def add(self, texts: Iterable[QueuedText[TokensT]]) -> None:
        """Queue texts behind those of their priority."""
        now = self._clock()
        with self._lock:
            for text in texts:
                text.queued_at = now
                self._cancelled.discard(text.id)
                self._waiting.add(text.id)
                self._queues[text.priority].append(text)
            self._wake()

    def add_sealed(self, texts: Sequence[QueuedText[TokensT]]) -> None:
        """Queue texts that share batches with each other alone; see `edgeembed.engine.worker.isolated_batches`."""
        batches = pack(texts, self._budget, self._max_texts)
        for batch in batches:
            for text in batch:
                text.batch = batch[0].id
        self.add(chain.from_iterable(batches))

    def cancel(self, ids: Iterable[int]) -> None:
        """Free the places of texts that nobody waits for; those already computing are not touched."""
        with self._lock:
            for id_ in ids:
                if id_ in self._waiting:
                    self._waiting.discard(id_)
                    self._cancelled.add(id_)

    def close(self) -> None:
        """Let `take` return an empty batch, now and ever after."""
        with self._lock:
            self._closed = True
            self._wide_turn.notify_all()
            self._bulk_turn.notify_all()

    def retire(self, lane: int, batch: Iterable[QueuedText[TokensT]]) -> None:
        """Go on without a bulk lane, and put the batch that it cannot compute back in front."""
        with self._lock:
            del self._running[lane]
            self._bulk_lanes -= 1
            for text in reversed(list(batch)):
                self._waiting.add(text.id)
                self._queues[text.priority].appendleft(text)
            self._wake()

    def take(self, lane: int = WIDE) -> list[QueuedText[TokensT]]:
        """Wait for texts that this lane shall compute and take them, oldest of the first priority in front.

        An empty list says that the queue is closed. The lane's batch before is over when it asks for the next one.
        """
        turn = self._wide_turn if lane == WIDE else self._bulk_turn
        with self._lock:
            if self._running.pop(lane, None) is not None:
                self._wake()  # what waits may now be for another lane
            while not self._closed:
                self._drop_cancelled()
                bulk = self._queues[BULK]
                oldest = bulk[0] if bulk else None
                if batch := self._form(lane):
                    self._start(lane, batch)
                    # A short bulk text that fills up a batch of queries must not make a long one in front of it wait on.
                    if oldest is not None and (not bulk or bulk[0] is not oldest):
                        self._bulk_served_at = self._clock()
                    self._wake()
                    return batch
                turn.wait()
            return []

    def take_query(self, most: int) -> list[QueuedText[TokensT]]:
        """Take queries that the wide lane may compute between two pieces of a long text, if any; never waits.

        most: tokens of each.
        """
        with self._lock:
            self._drop_cancelled()
            if self._closed or self._somebody_is_alone() or self._first_is_alone() or not self._queries_are_few():
                return []
            batch = self._pack([self._queues[INTERACTIVE]], self._budget, most)
            self._waiting.difference_update(text.id for text in batch)
            return batch

    # --- who takes what -----------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Wake the lanes that would take something now."""
        if not self._waiting:
            return
        if self._wide_may_take():
            self._wide_turn.notify()
        if self._bulk_may_take():
            self._bulk_turn.notify(min(len(self._waiting), self._bulk_lanes))

    def _form(self, lane: int) -> list[QueuedText[TokensT]]:
        if lane != WIDE:
            return self._for_bulk_lane() if self._bulk_may_take() else []
        if not self._wide_may_take():
            return []
        if self._first_is_alone():
            return [next(queue for queue in self._order() if queue).popleft()]
        if self._bulk_lanes and self._queries_are_few():
            return self._pack([self._queues[INTERACTIVE]], self._budget)
        if self._bulk_lanes and (too_long := self._find_too_long()):
            queue, position = too_long
            text = queue[position]
            del queue[position]
            return [text]
        return self._pack(self._order(), self._budget)

    def _wide_may_take(self) -> bool:
        if self._first_is_alone():
            return not self._running  # lanes that are busy run dry first
        if self._somebody_is_alone():
            return False
        if not self._bulk_lanes:
            return any(self._queues.values())
        return self._queries_are_few() or self._find_too_long() is not None or self._all_is_little()

    def _bulk_may_take(self) -> bool:
        if not self._bulk_lanes or self._somebody_is_alone() or self._first_is_alone() or self._all_is_little():
            return False
        return any(self._size(queue).texts for queue in self._queues_for_bulk_lanes())

    def _for_bulk_lane(self) -> list[QueuedText[TokensT]]:
        queues = self._queues_for_bulk_lanes()
        waiting = sum(self._size(queue).tokens for queue in queues)
        return self._pack(queues, min(self._budget, -(-waiting // self._bulk_lanes)), most=self._bulk_tokens)

    def _queues_for_bulk_lanes(self) -> list[deque[QueuedText[TokensT]]]:
        wide = self._running.get(WIDE)
        shared_out = (
            (wide is not None and wide.long) or self._bulk_lanes_have_queries() or self._is_crowd(self._queues[INTERACTIVE])
        )
        return self._order() if shared_out else [self._queues[BULK]]

    def _queries_are_few(self) -> bool:
        """Whether there are queries for the wide lane: no crowd, and no crowd's rest."""
        queries = self._queues[INTERACTIVE]
        return bool(queries) and not self._bulk_lanes_have_queries() and not self._is_crowd(queries)

    def _find_too_long(self) -> tuple[deque[QueuedText[TokensT]], int] | None:
        """Find a text that only the wide lane can compute."""
        for queue in self._queues.values():
            for position, text in enumerate(islice(queue, LOOK_AHEAD)):
                if text.count > self._bulk_tokens and not text.alone and text.id not in self._cancelled:
                    return queue, position
        return None

    def _all_is_little(self) -> bool:
        """Whether nothing computes, and the wide lane alone would be done first with all that waits."""
        return not self._running and any(self._queues.values()) and not self._is_crowd(*self._queues.values())

    def _is_crowd(self, *queues: deque[QueuedText[TokensT]]) -> bool:
        """Whether bulk lanes, each with its share of these texts, would be done sooner than the wide lane with all."""
        sizes = [self._size(queue) for queue in queues]
        longest = max(size.longest for size in sizes)
        return (
            sum(size.texts for size in sizes) > 1
            and sum(size.tokens for size in sizes) > WIDE_EFFICIENCY * self._bulk_lanes * longest
        )

    def _size(self, queue: deque[QueuedText[TokensT]]) -> _Size:
        """Measure the texts in front that bulk lanes can compute."""
        costs = [
            text.cost
            for text in islice(queue, LOOK_AHEAD)
            if text.count <= self._bulk_tokens and not text.alone and text.id not in self._cancelled
        ]
        return _Size(sum(costs), max(costs, default=0), len(costs))

    def _bulk_lanes_have_queries(self) -> bool:
        return any(running.queries for lane, running in self._running.items() if lane != WIDE)

    def _somebody_is_alone(self) -> bool:
        return any(running.alone for running in self._running.values())

    def _first_is_alone(self) -> bool:
        """Whether the next text in line wants nothing beside it."""
        first = next((queue for queue in self._order() if queue), None)
        return first is not None and first[0].alone

    # --- packing ------------------------------------------------------------------------------------------------------

    def _pack(
        self, queues: Iterable[deque[QueuedText[TokensT]]], budget: int, most: int | None = None
    ) -> list[QueuedText[TokensT]]:
        """Take texts up to the budget; the first one may be longer, but no text than `most`."""
        batch: list[QueuedText[TokensT]] = []
        room = budget
        for queue in queues:
            taken = []
            for position, text in enumerate(islice(queue, LOOK_AHEAD)):
                if len(batch) >= self._max_texts:
                    break
                # The very first text always goes, however long: waiting would not make it fit.
                fits = (text.cost <= room or not batch) and (most is None or text.count <= most)
                if text.batch and batch:
                    continue
                if fits and not text.alone and text.id not in self._cancelled:
                    if text.batch:
                        return self._take_sealed(queue, position)
                    batch.append(text)
                    taken.append(position)
                    room -= text.cost
                    if room <= 0:
                        break
            for position in reversed(taken):
                del queue[position]
            if room <= 0 or len(batch) >= self._max_texts:
                break
        return batch

    def _take_sealed(self, queue: deque[QueuedText[TokensT]], first: int) -> list[QueuedText[TokensT]]:
        """Take the batch of a isolated text, whatever the budget is now: it stands together in the queue."""
        number = queue[first].batch
        end = first
        while end < len(queue) and queue[end].batch == number:
            end += 1
        batch = [queue[position] for position in range(first, end) if queue[position].id not in self._cancelled]
        for position in reversed(range(first, end)):
            self._cancelled.discard(queue[position].id)
            del queue[position]
        return batch

    def _start(self, lane: int, batch: list[QueuedText[TokensT]]) -> None:
        self._waiting.difference_update(text.id for text in batch)
        self._running[lane] = _Running(
            queries=any(text.priority == INTERACTIVE for text in batch),
            alone=batch[0].alone,
            long=lane == WIDE and any(text.count > self._bulk_tokens for text in batch),
        )

    def _order(self) -> list[deque[QueuedText[TokensT]]]:
        interactive, bulk = self._queues[INTERACTIVE], self._queues[BULK]
        if bulk and self._clock() - max(bulk[0].queued_at, self._bulk_served_at) > STARVED_SECONDS:
            return [bulk, interactive]
        return [interactive, bulk]

    def _drop_cancelled(self) -> None:
        for queue in self._queues.values():
            while queue and queue[0].id in self._cancelled:
                self._cancelled.discard(queue.popleft().id)
