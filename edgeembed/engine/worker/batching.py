"""Which texts share the next forward pass, and which lane computes it: packing by token budget, priority and load.

Only bookkeeping, without llama.cpp and threads of its own; the worker's reader adds and cancels texts, its lanes take them.

A lane is a thread with a context. The wide lane uses all processors, for the lowest latency of a query. Bulk lanes share the
processors, a few threads each, for the highest throughput; they yield to the wide lane. So:

- A single query, or a few that bulk lanes could not share evenly, go to the wide lane, whatever the bulk lanes compute.
- Many queries are a load like any other: the bulk lanes share them.
- Bulk texts go to bulk lanes; only those that are too long for one go to the wide lane.
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

SEARCH_DEPTH = 64
"""How many texts from the head of a queue are searched for one that still fits into the budget."""

STARVED_SECONDS = 2.0
"""After bulk texts have waited this long, one batch begins with them: a steady stream of queries never stops a bulk load,
and a bulk load never delays queries by more than one batch."""

WIDE_EFFICIENCY = 0.8
"""Throughput of the wide lane on a short batch, relative to that of bulk lanes with the same number of threads."""


@dataclass
class QueuedText(Generic[TokensT]):
    """A tokenised text that waits for its forward pass."""

    id: int
    tokens: TokensT
    count: int
    """Length in tokens."""
    priority: Priority
    alone: bool = False
    """Compute in a separate batch while nothing else computes, to find out whether this text crashes the worker."""
    retried: bool = False
    """Its first attempt gave no usable row."""
    own: int = 0
    """Tokens that it does not share with a prefix, which have to be computed; 0 for all."""
    batch: int = 0
    """Number of an isolated text's batch, which is taken whole and with no other texts; 0 for other texts."""
    queued_at: float = field(default=0.0)

    @property
    def cost(self) -> int:
        """Tokens to compute."""
        return self.own or self.count


@dataclass(frozen=True)
class _Running:
    """What a lane is computing."""

    queries: bool
    """At least one text is interactive."""
    alone: bool
    long: bool
    """A text that only the wide lane can compute."""


class _Size(NamedTuple):
    """Size of waiting texts: all tokens, tokens of the longest text, number of texts."""

    tokens: int
    longest: int
    texts: int


class BatchQueue(Generic[TokensT]):
    """A thread-safe queue of texts that hands out batches.

    budget: tokens of all texts together that a batch aims for; a longer text gets a separate batch.
    max_texts: the most texts in one batch.
    bulk_lanes: number of lanes besides the wide one. bulk_tokens: the longest text that they can compute.
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
        """Append texts to the queue of their priority."""
        now = self._clock()
        with self._lock:
            for text in texts:
                text.queued_at = now
                self._cancelled.discard(text.id)
                self._waiting.add(text.id)
                self._queues[text.priority].append(text)
            self._wake()

    def add_isolated(self, texts: Sequence[QueuedText[TokensT]]) -> None:
        """Queue texts that share batches only with each other; see `edgeembed.engine.worker.isolated_batches`."""
        batches = pack(texts, self._budget, self._max_texts)
        for batch in batches:
            for text in batch:
                text.batch = batch[0].id
        self.add(chain.from_iterable(batches))

    def cancel(self, ids: Iterable[int]) -> None:
        """Remove waiting texts; those that are already being computed are not affected."""
        with self._lock:
            for id_ in ids:
                if id_ in self._waiting:
                    self._waiting.discard(id_)
                    self._cancelled.add(id_)

    def close(self) -> None:
        """Make `take` return an empty batch from now on."""
        with self._lock:
            self._closed = True
            self._wide_turn.notify_all()
            self._bulk_turn.notify_all()

    def retire(self, lane: int, batch: Iterable[QueuedText[TokensT]]) -> None:
        """Remove a bulk lane, and put the batch that it cannot compute back at the head of the queue."""
        with self._lock:
            del self._running[lane]
            self._bulk_lanes -= 1
            for text in reversed(list(batch)):
                self._waiting.add(text.id)
                self._queues[text.priority].appendleft(text)
            self._wake()

    def take(self, lane: int = WIDE) -> list[QueuedText[TokensT]]:
        """Wait for texts for this lane and return them, the oldest of the first priority first; [] once the queue is closed.

        Calling it also ends the lane's previous batch.
        """
        turn = self._wide_turn if lane == WIDE else self._bulk_turn
        with self._lock:
            if self._running.pop(lane, None) is not None:
                self._wake()  # waiting texts may now be for another lane
            while not self._closed:
                self._drop_cancelled()
                bulk = self._queues[BULK]
                oldest = bulk[0] if bulk else None
                if batch := self._form(lane):
                    self._start(lane, batch)
                    # A short bulk text that fills a batch of queries must not make a longer, older one wait on.
                    if oldest is not None and (not bulk or bulk[0] is not oldest):
                        self._bulk_served_at = self._clock()
                    self._wake()
                    return batch
                turn.wait()
            return []

    def take_query(self, most: int) -> list[QueuedText[TokensT]]:
        """Return queries that the wide lane may compute between two pieces of a long text, possibly none. Never waits.

        most: the most tokens of each.
        """
        with self._lock:
            self._drop_cancelled()
            if self._closed or self._text_runs_alone() or self._next_is_alone() or not self._queries_are_few():
                return []
            batch = self._pack([self._queues[INTERACTIVE]], self._budget, most)
            self._waiting.difference_update(text.id for text in batch)
            return batch

    # --- choice of a lane ---------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Wake the lanes that can take texts now."""
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
        if self._next_is_alone():
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
        if self._next_is_alone():
            return not self._running  # after all other lanes have finished
        if self._text_runs_alone():
            return False
        if not self._bulk_lanes:
            return any(self._queues.values())
        return self._queries_are_few() or self._find_too_long() is not None or self._all_is_little()

    def _bulk_may_take(self) -> bool:
        if not self._bulk_lanes or self._text_runs_alone() or self._next_is_alone() or self._all_is_little():
            return False
        return any(self._size(queue).texts for queue in self._queues_for_bulk_lanes())

    def _for_bulk_lane(self) -> list[QueuedText[TokensT]]:
        queues = self._queues_for_bulk_lanes()
        waiting = sum(self._size(queue).tokens for queue in queues)
        return self._pack(queues, min(self._budget, -(-waiting // self._bulk_lanes)), most=self._bulk_tokens)

    def _queues_for_bulk_lanes(self) -> list[deque[QueuedText[TokensT]]]:
        wide = self._running.get(WIDE)
        share_queries = (
            (wide is not None and wide.long) or self._bulk_lanes_have_queries() or self._are_many(self._queues[INTERACTIVE])
        )
        return self._order() if share_queries else [self._queues[BULK]]

    def _queries_are_few(self) -> bool:
        """Whether there are queries for the wide lane: few, and not the rest of many."""
        queries = self._queues[INTERACTIVE]
        return bool(queries) and not self._bulk_lanes_have_queries() and not self._are_many(queries)

    def _find_too_long(self) -> tuple[deque[QueuedText[TokensT]], int] | None:
        """Return the queue and position of a text that only the wide lane can compute, or None."""
        for queue in self._queues.values():
            for position, text in enumerate(islice(queue, SEARCH_DEPTH)):
                if text.count > self._bulk_tokens and not text.alone and text.id not in self._cancelled:
                    return queue, position
        return None

    def _all_is_little(self) -> bool:
        """Whether nothing is being computed, and the wide lane alone would be the fastest with all waiting texts."""
        return not self._running and any(self._queues.values()) and not self._are_many(*self._queues.values())

    def _are_many(self, *queues: deque[QueuedText[TokensT]]) -> bool:
        """Whether bulk lanes that share these texts would be faster than the wide lane with all of them."""
        sizes = [self._size(queue) for queue in queues]
        longest = max(size.longest for size in sizes)
        return (
            sum(size.texts for size in sizes) > 1
            and sum(size.tokens for size in sizes) > WIDE_EFFICIENCY * self._bulk_lanes * longest
        )

    def _size(self, queue: deque[QueuedText[TokensT]]) -> _Size:
        """Return the size of those texts near the head of a queue that bulk lanes can compute."""
        costs = [
            text.cost
            for text in islice(queue, SEARCH_DEPTH)
            if text.count <= self._bulk_tokens and not text.alone and text.id not in self._cancelled
        ]
        return _Size(sum(costs), max(costs, default=0), len(costs))

    def _bulk_lanes_have_queries(self) -> bool:
        return any(running.queries for lane, running in self._running.items() if lane != WIDE)

    def _text_runs_alone(self) -> bool:
        return any(running.alone for running in self._running.values())

    def _next_is_alone(self) -> bool:
        """Whether the next text has to be computed alone."""
        first = next((queue for queue in self._order() if queue), None)
        return first is not None and first[0].alone

    # --- packing ------------------------------------------------------------------------------------------------------

    def _pack(
        self, queues: Iterable[deque[QueuedText[TokensT]]], budget: int, most: int | None = None
    ) -> list[QueuedText[TokensT]]:
        """Take texts up to the budget; the first one may exceed it, but no text may exceed `most` tokens."""
        batch: list[QueuedText[TokensT]] = []
        room = budget
        for queue in queues:
            taken = []
            for position, text in enumerate(islice(queue, SEARCH_DEPTH)):
                if len(batch) >= self._max_texts:
                    break
                # The first text is always taken, however long: waiting would not make it fit.
                fits = (text.cost <= room or not batch) and (most is None or text.count <= most)
                if text.batch and batch:
                    continue
                if fits and not text.alone and text.id not in self._cancelled:
                    if text.batch:
                        return self._take_isolated(queue, position)
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

    def _take_isolated(self, queue: deque[QueuedText[TokensT]], first: int) -> list[QueuedText[TokensT]]:
        """Take the whole batch of an isolated text, whatever the budget is now. Its texts are consecutive in the queue."""
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
