"""Which lane computes which text. No model: a text has only a number and a length."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable

import pytest

from edgeembed.engine.interface import BULK, INTERACTIVE, Priority
from edgeembed.engine.worker.batching import STARVED_SECONDS, WIDE, BatchQueue, QueuedText
from tests.engine.worker.queued import Clock, ids, text


class Lanes:
    """A queue with a wide lane and two bulk lanes for texts up to 200 tokens, whose steps the test controls."""

    def __init__(self, budget: int = 100, lanes: int = 2) -> None:
        self.clock = Clock()
        self.queue: BatchQueue[None] = BatchQueue(budget, 50, self.clock, bulk_lanes=lanes, bulk_tokens=200)

    def add(self, *texts: QueuedText[None]) -> None:
        self.queue.add(texts)

    def take(self, lane: int) -> list[int]:
        """Take a batch, which has to be available."""
        found = self.offer(lane)
        assert found is not None
        return found

    def offer(self, lane: int) -> list[int] | None:
        """Take a batch for a lane that has finished its previous one; None when the lane would wait."""
        found: list[list[int]] = []
        done = threading.Event()

        def run() -> None:
            found.append(ids(self.queue.take(lane)))
            done.set()

        # `take` would block a lane that may take nothing, so ask first.
        self.queue._running.pop(lane, None)
        self.queue._drop_cancelled()
        if not (self.queue._wide_may_take() if lane == WIDE else self.queue._bulk_may_take()):
            return None
        threading.Thread(target=run, daemon=True).start()
        assert done.wait(10)
        return found[0]


def bulk(numbers: Iterable[int], count: int) -> list[QueuedText[None]]:
    return [text(number, count, BULK) for number in numbers]


def test_a_single_query_goes_to_the_wide_lane_while_bulk_lanes_compute() -> None:
    lanes = Lanes()
    lanes.add(*bulk(range(10), 50))
    assert lanes.take(1) == [0, 1]
    assert lanes.take(2) == [2, 3]
    assert lanes.offer(WIDE) is None
    lanes.add(text(100, 12))
    assert lanes.take(WIDE) == [100]
    assert lanes.take(1) == [4, 5], "bulk lanes continue with their load"


def test_bulk_lanes_share_many_queries() -> None:
    lanes = Lanes()
    lanes.add(text(0, 12))
    assert lanes.take(WIDE) == [0]
    lanes.add(*(text(number, 12) for number in range(1, 9)))
    assert lanes.take(1) == [1, 2, 3, 4]
    assert lanes.take(2) == [5, 6]
    assert lanes.offer(WIDE) is None, "the rest of many queries stays with the bulk lanes"
    assert lanes.take(1) == [7]
    assert lanes.take(2) == [8]
    assert lanes.offer(1) is None


def test_queries_that_lanes_cannot_share_evenly_use_all_threads() -> None:
    lanes = Lanes()
    lanes.add(text(0, 180), text(1, 20))
    assert lanes.offer(1) is None
    assert lanes.take(WIDE) == [0]
    assert lanes.take(WIDE) == [1]


def test_little_work_on_an_idle_machine_uses_all_threads() -> None:
    lanes = Lanes()
    lanes.add(*bulk([0], 50))
    assert lanes.offer(1) is None
    assert lanes.take(WIDE) == [0]
    lanes.add(*bulk([1], 50))
    assert lanes.take(1) == [1], "bulk lanes take it while the wide lane computes"


def test_bulk_lanes_share_texts_evenly() -> None:
    lanes = Lanes(budget=128)
    lanes.add(*bulk(range(6), 10))
    assert lanes.take(1) == [0, 1, 2]
    assert lanes.take(2) == [3]  # the first lane may need its half of the rest soon
    assert lanes.take(1) == [4]
    assert lanes.take(2) == [5]


def test_a_text_too_long_for_bulk_lanes_goes_to_the_wide_lane_and_queries_to_any() -> None:
    lanes = Lanes()
    lanes.add(*bulk([0], 500), *bulk([1, 2], 100))
    assert lanes.take(1) == [1]
    assert lanes.take(WIDE) == [0]
    lanes.add(text(10, 12))
    assert ids(lanes.queue.take_query(64)) == [10], "between two pieces of the long text"
    lanes.add(text(13, 65))
    assert lanes.queue.take_query(64) == [], "only texts that need no pieces themselves"
    assert lanes.take(2) == [13]
    lanes.add(text(11, 12))
    assert lanes.take(2) == [11], "or on a bulk lane, if one is free first"
    lanes.add(text(12, 500))
    assert lanes.offer(2) == [2]
    assert lanes.take(WIDE) == [12]


def test_while_a_text_is_alone_no_lane_computes_anything_else() -> None:
    lanes = Lanes()
    lanes.add(*bulk(range(4), 100), text(10, 12))
    assert lanes.take(1) == [0]
    assert lanes.take(WIDE) == [10]
    lanes.add(text(11, 12, alone=True), text(12, 12))
    assert lanes.offer(2) is None
    assert lanes.offer(WIDE) is None
    assert lanes.offer(1) is None
    assert lanes.take(WIDE) == [11]
    assert lanes.offer(1) is None
    assert lanes.queue.take_query(64) == []
    assert lanes.take(WIDE) == [12]
    assert lanes.take(1) == [1]


def test_an_endless_stream_of_queries_does_not_starve_a_bulk_load() -> None:
    lanes = Lanes()
    lanes.add(*bulk(range(3), 100))
    assert lanes.take(2) == [0]
    waited = 0.0
    for number in range(100, 10_000, 20):
        lanes.add(*(text(number + more, 20) for more in range(20)))
        if set(lanes.take(1)) & {1, 2}:
            break
        lanes.clock.now += 0.1
        waited += 0.1
    assert waited == pytest.approx(STARVED_SECONDS, abs=0.2)


def test_a_lane_without_memory_leaves_its_texts_to_the_others() -> None:
    lanes = Lanes()
    lanes.add(*bulk(range(4), 100))
    for lane, batch in ((1, [0]), (2, [1])):
        assert lanes.take(lane) == batch
    lanes.queue.retire(1, [text(0, 100, BULK)])
    assert lanes.take(2) == [0]
    lanes.queue.retire(2, [text(0, 100, BULK)])
    assert [lanes.take(WIDE) for _ in range(3)] == [[0], [2], [3]]
    assert len(lanes.queue) == 0


@pytest.mark.parametrize("seed", range(12))
def test_every_text_is_taken_once_whatever_the_lanes_do(seed: int) -> None:
    """Real threads: no lane sleeps while there are texts for it, and none takes a text that is too long for it."""
    rng = random.Random(seed)
    number, most = rng.randint(1, 3), 60
    queue: BatchQueue[None] = BatchQueue(rng.randint(20, 100), 8, bulk_lanes=number, bulk_tokens=most)
    lock = threading.Lock()
    came_out: list[int] = []
    wrong: list[str] = []
    computing: dict[int, list[QueuedText[None]]] = {}
    total = 600
    all_out = threading.Event()

    def lane(name: int) -> None:
        while batch := queue.take(name):
            with lock:
                computing[name] = batch
                if name != WIDE and any(queued.count > most for queued in batch):
                    wrong.append("a text that is too long for the lane")
                if any(queued.alone for queued in batch) and (len(batch) > 1 or len(computing) > 1):
                    wrong.append("not alone")
            with lock:
                came_out.extend(ids(batch))
                del computing[name]
            if len(came_out) == total:
                all_out.set()

    threads = [threading.Thread(target=lane, args=(name,), daemon=True) for name in range(number + 1)]
    for thread in threads:
        thread.start()
    next_id = 0
    while next_id < total:
        size = min(rng.randint(1, 20), total - next_id)
        priority: Priority = rng.choice([INTERACTIVE, BULK])
        queue.add(text(next_id + more, rng.choice([5, 30, 90]), priority, alone=rng.random() < 0.03) for more in range(size))
        next_id += size
    assert all_out.wait(30), f"{len(came_out)} of {total} came out"
    queue.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert sorted(came_out) == list(range(total))
    assert not wrong


@pytest.mark.parametrize("seed", range(20))
def test_no_text_waits_while_all_lanes_are_idle(seed: int) -> None:
    """When a lane finishes its batch, the remaining texts may be for another lane, which sleeps."""
    dice = random.Random(seed)
    lanes = dice.choice([1, 1, 2, 3])
    queue: BatchQueue[None] = BatchQueue(100, 16, bulk_lanes=lanes, bulk_tokens=300)
    taken: set[int] = set()

    def work(lane: int) -> None:
        while batch := queue.take(lane):
            time.sleep(0.0005 * dice.random())  # what a batch takes
            taken.update(text.id for text in batch)

    threads = [threading.Thread(target=work, args=(lane,), daemon=True) for lane in range(lanes + 1)]
    for thread in threads:
        thread.start()
    sent = 0
    for _ in range(12):
        count = dice.choice([1, 2, 8, 32])
        priority = dice.choice([INTERACTIVE, BULK])
        lengths = [dice.choice([5, 12, 40, 90, 250, 400]) for _ in range(count)]
        queue.add(
            [QueuedText(sent + at, None, length, priority, dice.random() < 0.05) for at, length in enumerate(lengths, 1)]
        )
        sent += count
        if dice.random() < 0.7:  # some texts arrive while lanes are busy, some while they are idle
            end = time.monotonic() + 10
            while len(taken) < sent and time.monotonic() < end:
                time.sleep(0.001)  # lanes are threads
            assert len(taken) == sent, f"{sent - len(taken)} texts wait although every lane is idle"
    queue.close()
    for thread in threads:
        thread.join(5)
