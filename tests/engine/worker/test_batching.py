"""The order in which texts are computed. No model: a text has only a number and a length."""

from __future__ import annotations

import random
import threading

import pytest

from edgeembed.engine.interface import BULK, INTERACTIVE
from edgeembed.engine.worker.batching import STARVED_SECONDS, BatchQueue
from edgeembed.engine.worker.packing import QueuedText
from tests.engine.worker.queued import Clock, ids, text


def make(budget: int = 100, max_texts: int = 50) -> tuple[BatchQueue[None], Clock]:
    clock = Clock()
    return BatchQueue(budget, max_texts, clock), clock


def test_a_text_that_has_to_be_alone_shares_no_batch() -> None:
    queue, _ = make(100)
    queue.add([text(1, 10), text(2, 10, alone=True), text(3, 10), text(4, 10, BULK), text(5, 10, BULK, alone=True)])
    assert ids(queue.take()) == [1, 3, 4]
    assert ids(queue.take()) == [2]
    assert ids(queue.take()) == [5]


@pytest.mark.parametrize(("budget", "max_texts"), [(0, 1), (1, 0)])
def test_a_queue_that_could_never_form_a_batch_is_refused(budget: int, max_texts: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BatchQueue(budget, max_texts)


# --- priority ---------------------------------------------------------------------------------------------------------


def test_queries_overtake_a_bulk_load_and_bulk_texts_fill_the_rest() -> None:
    queue, _ = make(100)
    queue.add(text(number, 50, BULK) for number in range(4))
    queue.add([text(10, 50)])
    assert ids(queue.take()) == [10, 0]
    assert ids(queue.take()) == [1, 2]


def test_a_steady_stream_of_queries_never_stops_a_bulk_load() -> None:
    queue, clock = make(100)
    queue.add(text(number, 100, BULK) for number in range(3))
    taken: dict[int, float] = {}
    for number in range(100, 400):
        queue.add([text(number, 100)])
        for id_ in ids(queue.take()):
            taken[id_] = clock.now - 1000.0
        clock.now += 0.1
    assert [round(taken[number]) for number in range(3)] == [STARVED_SECONDS, 2 * STARVED_SECONDS, 3 * STARVED_SECONDS]
    assert len(taken) == 300, "queries lose one batch in two seconds"


def test_a_long_bulk_text_is_not_overtaken_forever() -> None:
    """Each batch of queries has room for a short bulk text, but not for the long one that is before it in the queue."""
    queue, clock = make(100)
    queue.add([text(1, 90, BULK)])
    waited = 0.0
    for number in range(100, 300):
        queue.add([text(number, 80), text(1000 + number, 10, BULK)])
        if 1 in ids(queue.take()):
            break
        clock.now += 0.1
        waited += 0.1
    assert waited == pytest.approx(STARVED_SECONDS, abs=0.2)


# --- cancelling -------------------------------------------------------------------------------------------------------


def test_a_cancelled_text_leaves_the_queue() -> None:
    queue, _ = make(100)
    queue.add([text(1, 50), text(2, 50), text(3, 50), text(4, 50, BULK)])
    queue.cancel([1, 3, 77])
    assert len(queue) == 2
    assert ids(queue.take()) == [2, 4]
    assert len(queue) == 0


def test_cancelling_a_text_that_is_being_computed_has_no_effect() -> None:
    """The text is queued again when its row was not usable; the earlier cancellation must not remove it then."""
    queue, _ = make(100)
    queue.add([text(1, 50)])
    taken = queue.take()
    queue.cancel([1])
    queue.add(taken)
    assert ids(queue.take()) == [1]


@pytest.mark.parametrize("seed", range(20))
def test_every_text_comes_out_once_and_no_batch_is_too_large(seed: int) -> None:
    rng = random.Random(seed)
    budget, max_texts = rng.randint(20, 200), rng.randint(1, 12)
    clock = Clock()
    queue: BatchQueue[None] = BatchQueue(budget, max_texts, clock)
    waiting: dict[int, QueuedText[None]] = {}
    came_out: list[int] = []
    next_id = 0
    for _ in range(400):
        clock.now += rng.choice([0.0, 0.05, 1.0])
        action = rng.random()
        if action < 0.5:
            new = []
            for _ in range(rng.randint(1, 8)):
                count = rng.choice([rng.randint(1, 30), rng.randint(1, 2 * budget)])
                new.append(text(next_id, count, rng.choice([INTERACTIVE, BULK]), alone=rng.random() < 0.05))
                next_id += 1
            waiting.update({queued.id: queued for queued in new})
            queue.add(new)
        elif action < 0.6:
            gone = rng.sample(sorted(waiting), min(len(waiting), 3))
            queue.cancel([*gone, -1])
            for id_ in gone:
                del waiting[id_]
        elif waiting:
            _take_and_check(queue, waiting, came_out, budget, max_texts)
        assert len(queue) == len(waiting)
    while waiting:
        _take_and_check(queue, waiting, came_out, budget, max_texts)
    assert len(came_out) == len(set(came_out)) > 100
    queue.close()
    assert queue.take() == []


def _take_and_check(
    queue: BatchQueue[None], waiting: dict[int, QueuedText[None]], came_out: list[int], budget: int, max_texts: int
) -> None:
    batch = queue.take()
    assert batch
    for queued in batch:
        assert waiting.pop(queued.id) is queued, "a text twice, or after it was cancelled"
    came_out += ids(batch)
    assert len(batch) == 1 or sum(queued.count for queued in batch) <= budget
    assert len(batch) == 1 or not any(queued.alone for queued in batch)
    assert len(batch) <= max_texts


# --- threads ----------------------------------------------------------------------------------------------------------


class Taker(threading.Thread):
    """Takes batches until the queue is closed."""

    def __init__(self, queue: BatchQueue[None]) -> None:
        super().__init__(daemon=True)
        self.queue = queue
        self.taken: list[int] = []
        self.some = threading.Event()

    def run(self) -> None:
        while batch := self.queue.take():
            self.taken += ids(batch)
            self.some.set()


def test_a_waiting_thread_wakes_for_texts_and_when_the_queue_closes() -> None:
    queue: BatchQueue[None] = BatchQueue(100, 10)
    taker = Taker(queue)
    taker.start()
    queue.add([text(1, 10)])
    assert taker.some.wait(30)
    queue.close()
    taker.join(30)
    assert not taker.is_alive()
    assert taker.taken == [1]
    queue.add([text(2, 10)])
    assert queue.take() == [], "a closed queue stays closed"


def test_texts_added_from_several_threads_are_all_taken() -> None:
    queue: BatchQueue[None] = BatchQueue(64, 10)
    taker = Taker(queue)
    taker.start()
    adders = [
        threading.Thread(target=lambda base=base: [queue.add([text(base + number, 5)]) for number in range(500)])
        for base in (0, 1000, 2000)
    ]
    for adder in adders:
        adder.start()
    for adder in adders:
        adder.join(30)
    last = threading.Event()
    while len(queue) and not last.wait(0.01):
        pass
    queue.close()
    taker.join(30)
    assert sorted(taker.taken) == [base + number for base in (0, 1000, 2000) for number in range(500)]


def test_a_lane_that_waits_for_some_seconds_comes_back_with_nothing_and_misses_no_text() -> None:
    queue = BatchQueue[None](100, 50, Clock(), bulk_lanes=1, bulk_tokens=100)
    queue.add([text(0, 10)])
    assert ids(queue.take()) == [0]  # the wide lane is busy from now on
    assert queue.take(1, seconds=0.001) == [] and not queue.closed
    queue.add([text(1, 10, BULK)])  # while the lane is not waiting
    assert ids(queue.take(1, seconds=0.001)) == [1]
    assert queue.take(1, seconds=0.001) == []
    taken: list[int] = []
    lane = threading.Thread(target=lambda: taken.extend(ids(queue.take(1, seconds=20))))
    lane.start()
    queue.add([text(2, 10, BULK)])
    lane.join(20)
    assert taken == [2]
    queue.close()
    assert queue.take(1, seconds=20) == [] and queue.closed
