"""Which texts share a forward pass. No model: a text has only a number and a length."""

from __future__ import annotations

from edgeembed.engine.interface import BULK
from edgeembed.engine.worker.batching import BatchQueue
from edgeembed.engine.worker.packing import SEARCH_DEPTH
from tests.engine.worker.queued import ids, text


def test_a_batch_takes_texts_in_order_up_to_the_budget() -> None:
    queue = BatchQueue[None](100, 50)
    queue.add([text(1, 40), text(2, 40), text(3, 40), text(4, 60)])
    assert ids(queue.take()) == [1, 2]
    assert ids(queue.take()) == [3, 4]
    assert len(queue) == 0


def test_a_shorter_text_fills_the_room_that_a_longer_one_leaves() -> None:
    queue = BatchQueue[None](100, 50)
    queue.add([text(1, 70), text(2, 80), text(3, 30), text(4, 20)])
    assert ids(queue.take()) == [1, 3]
    assert ids(queue.take()) == [2, 4]


def test_only_texts_near_the_head_fill_a_batch() -> None:
    queue = BatchQueue[None](100, 50)
    queue.add([text(1, 70), *(text(number, 80) for number in range(2, SEARCH_DEPTH + 1)), text(999, 10)])
    assert ids(queue.take()) == [1]


def test_a_text_longer_than_the_budget_has_a_batch_of_its_own() -> None:
    queue = BatchQueue[None](100, 50)
    queue.add([text(1, 500), text(2, 1), text(3, 500), text(4, 1)])
    assert ids(queue.take()) == [1]
    assert ids(queue.take()) == [2, 4]
    assert ids(queue.take()) == [3]


def test_a_batch_holds_no_more_texts_than_the_model_has_sequences() -> None:
    queue = BatchQueue[None](1000, 3)
    queue.add(text(number, 1) for number in range(5))
    queue.add([text(9, 1, BULK)])
    assert [ids(queue.take()) for _ in range(2)] == [[0, 1, 2], [3, 4, 9]]


def test_texts_with_other_outputs_share_no_batch_with_dense_ones() -> None:
    queue = BatchQueue[None](100, 50)
    queue.add([text(1, 10), text(2, 10, outputs=("tokens",)), text(3, 10), text(4, 10, outputs=("dense", "sparse"))])
    assert [ids(queue.take()) for _ in range(2)] == [[1, 3], [2, 4]]
