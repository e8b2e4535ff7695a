"""Which texts are computed next, and by which lane: by priority and load. How many of them share a pass: see `packing`.

Only bookkeeping, without llama.cpp and threads of its own; the worker's reader adds and cancels texts, its lanes take them.

A lane is a thread with a context. The wide lane uses all processors, for the lowest latency of a query. Bulk lanes share the
processors, a few threads each, for the highest throughput; they yield to the wide lane. So:

- A single query, or a few that bulk lanes could not share evenly, go to the wide lane, whatever the bulk lanes compute.
- Many queries are a load like any other: the bulk lanes share them.
- Bulk texts go to bulk lanes; only those that are too long for one go to the wide lane, behind queries unless they starve.
- Texts with other outputs than a dense row need another context of their lane. They share no batch with dense ones. Those
  whose head is computed by all threads go to the wide lane.

`BatchQueue._choose` alone decides what a lane computes next. A lane for which there is nothing sleeps. Each change of the
queue ends with `_wake`, which asks `_choose` on behalf of the sleeping lanes: none sleeps while there is something for it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Generic, NamedTuple, TypeVar

from edgeembed.common.trace import traced
from edgeembed.engine.interface import INTERACTIVE
from edgeembed.engine.worker.isolated_batches import pack
from edgeembed.engine.worker.packing import SEARCH_DEPTH, QueuedText, WaitingTexts, next_batch

TokensT = TypeVar("TokensT")

WIDE = 0
"""The number of the wide lane; bulk lanes count from 1."""
ANY_BULK = 1
"""Stands for each bulk lane: what one of them may compute, any of them may."""

STARVED_SECONDS = 2.0
"""After bulk texts have waited this long, one batch begins with them: a steady stream of queries never stops a bulk load,
and a bulk load never delays queries by more than one batch."""

WIDE_EFFICIENCY = 0.8
"""Throughput of the wide lane on a short batch, relative to that of bulk lanes with the same number of threads."""


@dataclass(frozen=True)
class _Running:
    """What a lane is computing."""

    queries: bool
    """At least one text is interactive."""
    alone: bool
    only_wide: bool
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
        self._queries: WaitingTexts[TokensT] = OrderedDict()
        self._bulk: WaitingTexts[TokensT] = OrderedDict()
        self._running: dict[int, _Running] = {}
        self._asleep: set[int] = set()
        """Lanes that wait for texts, or have been woken and have not looked yet."""
        self._lock = threading.Lock()
        self._wide_turn = threading.Condition(self._lock)
        self._bulk_turn = threading.Condition(self._lock)
        self._lent = False
        """Whether another thread computes in the wide lane's place; see `take_at_once`."""
        self._closed = False
        self._now = 0.0
        """Time at which the queue last changed; all lanes are chosen by this time."""
        self._bulk_served_at = 0.0
        """When the oldest bulk text was last taken."""

    def __len__(self) -> int:
        with self._lock:
            return len(self._queries) + len(self._bulk)

    @traced(within="queue")
    def add(self, texts: Iterable[QueuedText[TokensT]]) -> None:
        """Append texts to the queue of their priority."""
        with self._lock:
            self._append(texts)
            self._wake()

    def take_at_once(
        self, texts: Iterable[QueuedText[TokensT]], suits: Callable[[list[QueuedText[TokensT]]], bool]
    ) -> list[QueuedText[TokensT]]:
        """Append texts; if the wide lane sleeps and now has a batch that suits, return it: the caller computes in its place.

        It calls `give_back` afterwards. Meanwhile the wide lane takes nothing. Never waits; [] if the texts were only added.
        """
        with self._lock:
            self._append(texts)
            batch = self._choose(WIDE) if WIDE in self._asleep and not self._closed else []
            if batch and not suits(batch):
                batch = []
            if batch:
                self._asleep.discard(WIDE)
                self._lent = True
                self._start(WIDE, batch)
            self._wake()
            return batch

    def give_back(self) -> None:
        """End the batch that `take_at_once` returned."""
        with self._lock:
            self._now = self._clock()
            self._lent = False
            del self._running[WIDE]
            self._asleep.add(WIDE)
            self._wake()

    def _append(self, texts: Iterable[QueuedText[TokensT]]) -> None:
        self._now = self._clock()
        for text in texts:
            text.queued_at = self._now
            self._queue_of(text)[text.id] = text

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
            self._now = self._clock()
            for id_ in ids:
                self._queries.pop(id_, None)
                self._bulk.pop(id_, None)
            self._wake()  # the texts behind them may be for lanes that sleep

    @property
    def is_idle(self) -> bool:
        """Whether nothing is computed and nothing waits. Other threads may change that at any time."""
        return not (self._running or self._queries or self._bulk)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Make `take` return an empty batch from now on."""
        with self._lock:
            self._closed = True
            self._wide_turn.notify_all()
            self._bulk_turn.notify_all()

    def retire(self, lane: int, batch: Iterable[QueuedText[TokensT]]) -> None:
        """Remove a bulk lane, and put the batch that it cannot compute back at the head of the queue."""
        with self._lock:
            self._now = self._clock()
            del self._running[lane]
            self._bulk_lanes -= 1
            for text in reversed(list(batch)):
                queue = self._queue_of(text)
                queue[text.id] = text
                queue.move_to_end(text.id, last=False)
            self._wake()

    @traced(within="wake the lane")
    def take(self, lane: int = WIDE, seconds: float | None = None) -> list[QueuedText[TokensT]]:
        """Wait for texts for this lane and return them, the oldest of the first priority first.

        Returns [] once the queue is closed, or when there were none for `seconds` seconds. Calling it also ends the lane's
        previous batch.
        """
        waited = True
        with self._lock:
            if not self._is_lent(lane):
                self._running.pop(lane, None)
            while not self._closed:
                self._now = self._clock()
                self._asleep.discard(lane)
                lent = self._is_lent(lane)
                batch = [] if lent else self._choose(lane)
                if batch:
                    self._start(lane, batch)
                elif not lent:
                    self._asleep.add(lane)
                self._wake()  # what is left, or what this lane was woken for, may now be for another lane
                if batch:
                    return batch
                if not waited:  # and another look has found nothing: a wake-up at the last moment is not lost
                    self._asleep.discard(lane)
                    return []
                waited = (self._wide_turn if lane == WIDE else self._bulk_turn).wait(seconds)
            return []

    def _is_lent(self, lane: int) -> bool:
        return self._lent and lane == WIDE

    def take_query(self, most: int) -> list[QueuedText[TokensT]]:
        """Return queries that the wide lane may compute between two pieces of a long text, possibly none. Never waits.

        most: the most tokens of each.
        """
        with self._lock:
            self._now = self._clock()
            if self._closed or self._text_runs_alone() or self._next_alone() or not self._queries_are_few():
                return []
            batch = next_batch([self._queries], self._budget, self._max_texts, most, dense=True)
            self._remove(batch)
            self._wake()
            return batch

    def _queue_of(self, text: QueuedText[TokensT]) -> WaitingTexts[TokensT]:
        return self._queries if text.priority == INTERACTIVE else self._bulk

    def _remove(self, batch: Sequence[QueuedText[TokensT]]) -> None:
        oldest = next(iter(self._bulk), None)
        for text in batch:
            del self._queue_of(text)[text.id]
        # A short bulk text that fills a batch of queries must not make a longer, older one wait on.
        if oldest is not None and oldest not in self._bulk:
            self._bulk_served_at = self._now

    def _start(self, lane: int, batch: Sequence[QueuedText[TokensT]]) -> None:
        self._remove(batch)
        self._running[lane] = _Running(
            queries=any(text.priority == INTERACTIVE for text in batch),
            alone=batch[0].alone,
            only_wide=lane == WIDE and any(self._is_only_wide(text) for text in batch),
        )

    # --- choice of a lane ---------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Wake one sleeping lane of each kind if it has something to compute. It wakes the next one if it leaves any."""
        if WIDE in self._asleep and self._choose(WIDE):
            self._wide_turn.notify()
        if len(self._asleep) > (WIDE in self._asleep) and self._choose(ANY_BULK):
            self._bulk_turn.notify()

    def _choose(self, lane: int) -> list[QueuedText[TokensT]]:
        """Return what a lane that computes nothing should compute now; [] when it has to wait. Changes nothing."""
        if self._text_runs_alone():
            return []
        if alone := self._next_alone():
            # After all other lanes have finished.
            return [alone] if lane == WIDE and not self._running else []
        return self._choose_wide() if lane == WIDE else self._choose_bulk()

    def _choose_wide(self) -> list[QueuedText[TokensT]]:
        if not self._bulk_lanes:
            return next_batch(self._order(), self._budget, self._max_texts)
        starving = self._starving_only_wide()
        if starving is None and self._queries_are_few():
            return next_batch([self._queries], self._budget, self._max_texts)
        if text := starving or self._find_only_wide():
            return next_batch(self._order(), self._budget, self._max_texts, dense=False) if text.only_wide else [text]
        return next_batch(self._order(), self._budget, self._max_texts) if self._all_is_little() else []

    def _choose_bulk(self) -> list[QueuedText[TokensT]]:
        if not self._bulk_lanes or self._all_is_little():
            return []
        wide = self._running.get(WIDE)
        share_queries = (
            (wide is not None and wide.only_wide) or self._bulk_lanes_have_queries() or self._are_many(self._queries)
        )
        queues = self._order() if share_queries else [self._bulk]
        waiting = sum(self._size(queue).tokens for queue in queues)
        return next_batch(queues, min(self._budget, -(-waiting // self._bulk_lanes)), self._max_texts, self._bulk_tokens)

    def _queries_are_few(self) -> bool:
        """Whether there are queries for the wide lane: few, and not the rest of many."""
        return bool(self._queries) and not self._bulk_lanes_have_queries() and not self._are_many(self._queries)

    def _find_only_wide(self) -> QueuedText[TokensT] | None:
        """Return a text that only the wide lane can compute, or None."""
        for queue in (self._queries, self._bulk):
            for text in islice(queue.values(), SEARCH_DEPTH):
                if self._is_only_wide(text) and not text.alone:
                    return text
        return None

    def _starving_only_wide(self) -> QueuedText[TokensT] | None:
        """Return the oldest bulk text if it has waited for too long and only the wide lane can compute it, or None."""
        oldest = next(iter(self._bulk.values()), None)
        return oldest if oldest is not None and self._is_only_wide(oldest) and self._bulk_starves() else None

    def _is_only_wide(self, text: QueuedText[TokensT]) -> bool:
        return text.count > self._bulk_tokens or text.only_wide

    def _all_is_little(self) -> bool:
        """Whether nothing is being computed, and the wide lane alone would be the fastest with all waiting texts."""
        return not self._running and bool(self._queries or self._bulk) and not self._are_many(self._queries, self._bulk)

    def _are_many(self, *queues: WaitingTexts[TokensT]) -> bool:
        """Whether bulk lanes that share these texts would be faster than the wide lane with all of them."""
        if not self._bulk_lanes:
            return False
        sizes = [self._size(queue) for queue in queues]
        longest = max(size.longest for size in sizes)
        return (
            sum(size.texts for size in sizes) > 1
            and sum(size.tokens for size in sizes) > WIDE_EFFICIENCY * self._bulk_lanes * longest
        )

    def _size(self, queue: WaitingTexts[TokensT]) -> _Size:
        """Return the size of those texts near the head of a queue that bulk lanes can compute."""
        costs = [
            text.cost for text in islice(queue.values(), SEARCH_DEPTH) if not self._is_only_wide(text) and not text.alone
        ]
        return _Size(sum(costs), max(costs, default=0), len(costs))

    def _bulk_lanes_have_queries(self) -> bool:
        return any(running.queries for lane, running in self._running.items() if lane != WIDE)

    def _text_runs_alone(self) -> bool:
        return any(running.alone for running in self._running.values())

    def _next_alone(self) -> QueuedText[TokensT] | None:
        """Return the next text if it has to be computed alone; otherwise None.

        A query that has to be computed alone never waits for starving bulk texts: time alone makes them starve, and wakes no
        lane.
        """
        first = next(iter(self._queries.values()), None)
        if first is None or (not first.alone and self._bulk_starves()):
            first = next(iter(self._bulk.values()), None)
        return first if first is not None and first.alone else None

    def _order(self) -> list[WaitingTexts[TokensT]]:
        return [self._bulk, self._queries] if self._bulk_starves() else [self._queries, self._bulk]

    def _bulk_starves(self) -> bool:
        oldest = next(iter(self._bulk.values()), None)
        return oldest is not None and self._now - max(oldest.queued_at, self._bulk_served_at) > STARVED_SECONDS
