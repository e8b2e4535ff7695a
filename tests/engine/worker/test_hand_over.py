"""No order of what threads do leaves a text waiting while a lane sleeps that could compute it.

Everything that can happen is tried: in all orders with a few texts, by hypothesis with many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgeembed.engine.interface import BULK, INTERACTIVE, Priority
from edgeembed.engine.worker.batching import STARVED_SECONDS, WIDE
from edgeembed.engine.worker.packing import QueuedText
from tests.engine.worker.hand_over import BULK_TOKENS, Lanes
from tests.engine.worker.queued import text

Step = tuple[Any, ...]
"""The name of a step and its arguments."""

KINDS: dict[str, tuple[tuple[int, Priority, bool], ...]] = {
    "a query": ((12, INTERACTIVE, False),),
    "many queries": ((12, INTERACTIVE, False),) * 2,
    "a suspect query": ((12, INTERACTIVE, True),),
    "bulk texts": ((80, BULK, False),) * 2,
    "a suspect bulk text": ((80, BULK, True),),
    "a long text": ((BULK_TOKENS + 1, BULK, False),),
}


# --- all orders with a few texts --------------------------------------------------------------------------------------


def _steps(lanes: Lanes, most_texts: int) -> Iterator[Step]:
    """Yield what could happen next, with at most so many texts that wait or are computed."""
    for lane in (*lanes.computing, *lanes.woken):
        yield "take", lane
    if lanes.lent:
        yield "give back", WIDE
    for waiting in lanes.waiting:
        yield "cancel", waiting.id
    for lane, batch in lanes.computing.items():
        if batch and lane != WIDE:
            yield "retire", lane
        if batch and not any(queued.retried for queued in batch):
            yield "retry", lane
    if any(queued.count > BULK_TOKENS for queued in lanes.computing.get(WIDE, ())):
        yield "take query", 0
    if any(queued.priority == BULK for queued in lanes.waiting):
        yield "wait", STARVED_SECONDS + 1
    present = len(lanes.waiting) + sum(map(len, lanes.computing.values()))
    for name, kinds in KINDS.items():
        if present + len(kinds) <= most_texts:
            yield "add", name
            if not lanes.lent and len(kinds) == 1:  # while the reader computes it adds nothing
                yield "add at once", name


def _do(lanes: Lanes, step: Step) -> None:
    match step:
        case ("take", lane):
            lanes.take(lane)
        case ("cancel", id_):
            lanes.cancel(id_)
        case ("retire", lane):
            lanes.retire(lane)
        case ("retry", lane):
            lanes.retry(lane)
        case ("take query", _):
            lanes.take_query()
        case ("wait", seconds):
            lanes.clock.now += seconds
        case ("give back", _):
            lanes.give_back()
        case ("add at once", name):
            ((count, priority, alone),) = KINDS[name]
            lanes.add_at_once(text(lanes.added, count, priority, alone=alone))
        case ("add", name):
            lanes.add(*(text(lanes.added + number, *kind[:2], alone=kind[2]) for number, kind in enumerate(KINDS[name])))


def _state(lanes: Lanes) -> Hashable:
    """Return all that decides what can happen from now on; bulk lanes are alike."""

    def of(queued: QueuedText[None]) -> Hashable:
        return queued.priority, queued.count, queued.alone, queued.retried

    def starves(queued: QueuedText[None]) -> bool:
        since = max(queued.queued_at, lanes.queue._bulk_served_at)
        return queued.priority == BULK and lanes.clock.now - since > STARVED_SECONDS

    def lane(number: int) -> Hashable:
        return number in lanes.woken, number in lanes.ended, tuple(map(of, lanes.computing.get(number, ())))

    waiting = tuple((of(queued), starves(queued)) for queued in sorted(lanes.waiting, key=lambda queued: queued.priority))
    return lanes.lent, waiting, lane(WIDE), tuple(sorted(map(lane, range(1, lanes.bulk_lanes + 1)), key=repr))


def _after(steps: tuple[Step, ...], bulk_lanes: int) -> Lanes:
    lanes = Lanes(bulk_lanes)
    for step in steps:
        _do(lanes, step)
    return lanes


@pytest.mark.parametrize(
    ("bulk_lanes", "texts"), [(0, 3), (1, 2), (2, 2), *(pytest.param(lanes, 3, marks=pytest.mark.slow) for lanes in (1, 2))]
)
def test_no_state_of_a_few_texts_leaves_a_lane_asleep_for_nothing(bulk_lanes: int, texts: int) -> None:
    """From each state that can be reached, all work ends, and no lane misses its turn on the way."""
    seen: set[Hashable] = set()
    paths: deque[tuple[Step, ...]] = deque([()])
    while paths:
        path = paths.popleft()
        lanes = _after(path, bulk_lanes)
        state = _state(lanes)
        if state in seen:
            continue
        seen.add(state)
        paths += [(*path, step) for step in _steps(lanes, texts)]
        try:
            lanes.drain()
            lanes.close()
            assert not lanes.asleep, "a lane sleeps on after the end"
        except AssertionError as error:
            raise AssertionError(f"{error}, after {path}") from error
    assert len(seen) > 100


# --- many texts, by hypothesis ----------------------------------------------------------------------------------------

LENGTHS = st.one_of(st.integers(1, 2 * BULK_TOKENS), st.sampled_from([1, 12, BULK_TOKENS, BULK_TOKENS + 1]))
TEXTS = st.lists(st.tuples(LENGTHS, st.sampled_from([INTERACTIVE, BULK]), st.booleans()), min_size=1, max_size=8)


class HandOver(RuleBasedStateMachine):
    """The queue and its lanes."""

    lanes: Lanes

    @initialize(bulk_lanes=st.integers(0, 3), budget=st.integers(20, 300), max_texts=st.integers(1, 6))
    def start(self, bulk_lanes: int, budget: int, max_texts: int) -> None:
        self.lanes = Lanes(bulk_lanes, budget=budget, max_texts=max_texts)

    @rule(new=TEXTS)
    def add(self, new: list[tuple[int, Priority, bool]]) -> None:
        self.lanes.add(*(text(self.lanes.added + number, *kind[:2], alone=kind[2]) for number, kind in enumerate(new)))

    @precondition(lambda self: not self.lanes.lent)
    @rule(new=TEXTS)
    def add_at_once(self, new: list[tuple[int, Priority, bool]]) -> None:
        numbered = enumerate(new)
        self.lanes.add_at_once(*(text(self.lanes.added + number, *kind[:2], alone=kind[2]) for number, kind in numbered))

    @rule(lengths=st.lists(LENGTHS, min_size=1, max_size=8))
    def add_isolated(self, lengths: list[int]) -> None:
        new = [text(self.lanes.added + number, length, BULK) for number, length in enumerate(lengths)]
        self.lanes.add(*new, isolated=True)

    @rule(new=TEXTS, only_wide=st.booleans())
    def add_with_other_outputs(self, new: list[tuple[int, Priority, bool]], only_wide: bool) -> None:
        numbered = enumerate(new, self.lanes.added)
        self.lanes.add(
            *(text(id_, *kind[:2], alone=kind[2], outputs=("sparse",), only_wide=only_wide) for id_, kind in numbered)
        )

    @precondition(lambda self: self.lanes.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        ids = [waiting.id for waiting in self.lanes.waiting]
        self.lanes.cancel(*data.draw(st.sets(st.sampled_from(ids), min_size=1)))

    @precondition(lambda self: self.lanes.woken)
    @rule(data=st.data())
    def serve(self, data: st.DataObject) -> None:
        self.lanes.take(data.draw(st.sampled_from(self.lanes.woken)))

    @precondition(lambda self: self.lanes.computing)
    @rule(data=st.data(), end=st.sampled_from(["rows", "retry", "no memory"]))
    def finish(self, data: st.DataObject, end: str) -> None:
        lane = data.draw(st.sampled_from(sorted(self.lanes.computing)))
        batch = self.lanes.computing[lane]
        if end == "no memory" and lane != WIDE:
            self.lanes.retire(lane)
            return
        if end == "retry" and not any(queued.retried for queued in batch):
            self.lanes.retry(lane)
        if lane == WIDE and self.lanes.lent:
            self.lanes.give_back()
        else:
            self.lanes.take(lane)

    @rule(most=st.integers(1, 2 * BULK_TOKENS))
    def between_two_pieces(self, most: int) -> None:
        if any(queued.count > BULK_TOKENS for queued in self.lanes.computing.get(WIDE, ())):
            self.lanes.take_query(most)

    @rule(seconds=st.sampled_from([0.1, STARVED_SECONDS + 1]))
    def time_passes(self, seconds: float) -> None:
        self.lanes.clock.now += seconds

    @rule()
    def all_woken_lanes_take_what_they_can(self) -> None:
        self.lanes.settle()

    @invariant()
    def is_consistent(self) -> None:
        self.lanes.check()

    def teardown(self) -> None:
        self.lanes.drain()
        self.lanes.close()
        assert not self.lanes.asleep, "a lane sleeps on after the end"


TestHandOver = HandOver.TestCase
TestHandOver.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True, database=None)
