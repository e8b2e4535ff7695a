"""Which lane computes which text. No model: a text has only a number and a length."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable

import pytest

from edgeembed.engine.interface import BULK, INTERACTIVE, Priority
from edgeembed.engine.worker.batching import STARVED_SECONDS, WIDE, BatchQueue
from edgeembed.engine.worker.packing import QueuedText
from tests.engine.worker.hand_over import Lanes
from tests.engine.worker.queued import ids, text


def bulk(numbers: Iterable[int], count: int) -> list[QueuedText[None]]:
    return [text(number, count, BULK) for number in numbers]


def test_a_single_query_goes_to_the_wide_lane_while_bulk_lanes_compute() -> None:
    lanes = Lanes()
    lanes.add(*bulk(range(10), 50))
    assert lanes.take(1) == [0, 1]
    assert lanes.take(2) == [2, 3]
    assert lanes.take(WIDE) is None
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
    assert lanes.take(WIDE) is None, "the rest of many queries stays with the bulk lanes"
    assert lanes.take(1) == [7]
    assert lanes.take(2) == [8]
    assert lanes.take(1) is None


def test_queries_that_lanes_cannot_share_evenly_use_all_threads() -> None:
    lanes = Lanes()
    lanes.add(text(0, 180), text(1, 20))
    assert lanes.take(1) is None
    assert lanes.take(WIDE) == [0]
    assert lanes.take(WIDE) == [1]


def test_little_work_on_an_idle_machine_uses_all_threads() -> None:
    lanes = Lanes()
    lanes.add(*bulk([0], 50))
    assert lanes.take(1) is None
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


def test_texts_with_other_outputs_share_no_batch_with_dense_ones() -> None:
    lanes = Lanes()
    lanes.add(*bulk(range(4), 50), *(text(number, 20, BULK, outputs=("sparse",)) for number in range(10, 16)))
    assert lanes.take(1) == [0, 1]
    assert lanes.take(2) == [2, 3]
    assert lanes.take(1) == [10, 11, 12]
    assert lanes.take(2) == [13]
    lanes.add(text(20, 12, outputs=("tokens",)))
    assert lanes.take_query(64) == [], "between two pieces, the context at hand computes dense rows only"
    assert lanes.take(WIDE) == [20]


def test_texts_whose_head_needs_all_threads_go_to_the_wide_lane_together() -> None:
    lanes = Lanes()
    lanes.add(*bulk(range(6), 50))
    lanes.add(*(text(number, 20, BULK, outputs=("sparse",), only_wide=True) for number in range(10, 14)))
    assert lanes.take(1) == [0, 1]
    assert lanes.take(WIDE) == [10, 11, 12, 13]
    lanes.add(text(21, 12, outputs=("sparse",), only_wide=True))
    assert lanes.take(2) == [2, 3]
    assert lanes.take(WIDE) == [21]
    assert lanes.take(WIDE) is None


def test_a_text_too_long_for_bulk_lanes_goes_to_the_wide_lane_and_queries_to_any() -> None:
    lanes = Lanes()
    lanes.add(*bulk([0], 500), *bulk([1, 2], 100))
    assert lanes.take(1) == [1]
    assert lanes.take(WIDE) == [0]
    lanes.add(text(10, 12))
    assert lanes.take_query(64) == [10], "between two pieces of the long text"
    lanes.add(text(13, 65))
    assert lanes.take_query(64) == [], "only texts that need no pieces themselves"
    assert lanes.take(2) == [13]
    lanes.add(text(11, 12))
    assert lanes.take(2) == [11], "or on a bulk lane, if one is free first"
    lanes.add(text(12, 500))
    assert lanes.take(2) == [2]
    assert lanes.take(WIDE) == [12]


def test_while_a_text_is_alone_no_lane_computes_anything_else() -> None:
    lanes = Lanes()
    lanes.add(*bulk(range(4), 100), text(10, 12))
    assert lanes.take(1) == [0]
    assert lanes.take(WIDE) == [10]
    lanes.add(text(11, 12, alone=True), text(12, 12))
    assert lanes.take(2) is None
    assert lanes.take(WIDE) is None
    assert lanes.take(1) is None
    assert lanes.take(WIDE) == [11]
    assert lanes.take(1) is None
    assert lanes.take_query(64) == []
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


@pytest.mark.parametrize("only_wide", [text(0, 500, BULK), text(0, 20, BULK, outputs=("sparse",), only_wide=True)])
def test_an_endless_stream_of_queries_does_not_starve_a_text_for_the_wide_lane(only_wide: QueuedText[None]) -> None:
    lanes = Lanes()
    lanes.add(text(1, 12), only_wide)
    assert lanes.take(WIDE) == [1]
    waited = 0.0
    for number in range(2, 100):
        lanes.add(text(number, 12))
        if lanes.take(WIDE) == [0]:
            break
        lanes.clock.now += 0.1
        waited += 0.1
    assert waited == pytest.approx(STARVED_SECONDS, abs=0.2)
    assert lanes.take(WIDE) == [number], "one batch, then queries again"


def test_a_lane_without_memory_leaves_its_texts_to_the_others() -> None:
    lanes = Lanes()
    lanes.add(*bulk(range(4), 100))
    for lane, batch in ((1, [0]), (2, [1])):
        assert lanes.take(lane) == batch
    lanes.retire(1)
    assert lanes.take(2) == [0]
    lanes.retire(2)
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
