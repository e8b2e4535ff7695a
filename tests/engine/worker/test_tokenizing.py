"""Which texts wait for the tokens of others. No model: the test decides how long tokenising takes."""

from __future__ import annotations

import threading

import pytest

from edgeembed.engine.interface import BULK, INTERACTIVE, Limits, Priority, Prompted
from edgeembed.engine.ipc.messages import EmbedItem
from edgeembed.engine.worker.batching import BatchQueue
from edgeembed.engine.worker.packing import QueuedText
from edgeembed.engine.worker.tokenizing import LONG_CHARACTERS, Tokenizing


class Lanes:
    """A `Tokenizing` whose texts wait at a gate, unless they begin with "quick"."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.begun = threading.Semaphore(0)
        self.tokenized: list[int] = []
        self.queue: BatchQueue[None] = BatchQueue(1000, 1)
        self.tokenizing = Tokenizing(self._tokenize, self.queue)

    def _tokenize(self, item: EmbedItem) -> QueuedText[None] | None:
        self.begun.release()
        text = item.text.text if isinstance(item.text, Prompted) else item.text
        if not text.startswith("quick"):
            assert self.gate.wait(10)
        self.tokenized.append(item.id)
        return None if "bad" in text else QueuedText(item.id, None, 1, item.priority, item.alone)

    def take(self) -> int:
        return self.queue.take()[0].id


def item(id_: int, text: str, priority: Priority) -> EmbedItem:
    return EmbedItem(id_, text, priority, False)


@pytest.mark.parametrize(("text", "priority"), [("slow", BULK), ("x" * (LONG_CHARACTERS + 1), INTERACTIVE)])
def test_a_short_query_overtakes_a_text_that_is_being_tokenized(text: str, priority: Priority) -> None:
    lanes = Lanes()
    lanes.tokenizing.add([item(1, text, priority)])
    assert lanes.begun.acquire(timeout=10)
    lanes.tokenizing.add([item(2, "quick", INTERACTIVE)])
    assert lanes.take() == 2
    lanes.gate.set()
    assert lanes.take() == 1


def test_a_bulk_load_overtakes_a_long_text() -> None:
    lanes = Lanes()
    lanes.tokenizing.add([item(1, "x" * (LONG_CHARACTERS + 1), BULK), item(2, "quick", BULK)])
    assert lanes.take() == 2
    lanes.gate.set()
    assert lanes.take() == 1


def test_cancelled_texts_are_not_tokenized_and_never_queued() -> None:
    lanes = Lanes()
    lanes.tokenizing.add([item(number, "slow", BULK) for number in range(1, 4)])
    assert lanes.begun.acquire(timeout=10)  # the first one is with the tokenizer
    lanes.tokenizing.cancel([1, 2])
    lanes.gate.set()
    assert lanes.take() == 3
    assert lanes.tokenized == [1, 3]
    assert len(lanes.queue) == 0


def test_a_text_that_cannot_be_computed_is_skipped() -> None:
    lanes = Lanes()
    lanes.tokenizing.add([item(1, "quick bad", BULK), item(2, "quick bad", INTERACTIVE), item(3, "quick", BULK)])
    assert lanes.take() == 3


def test_a_text_that_is_cancelled_before_its_forward_pass_leaves_the_queue() -> None:
    lanes = Lanes()
    lanes.tokenizing.add([item(1, "quick", INTERACTIVE)])
    lanes.tokenizing.cancel([1])
    lanes.tokenizing.add([item(2, "quick", INTERACTIVE)])
    assert lanes.take() == 2


def test_counting_the_tokens_of_a_book_delays_no_other_text() -> None:
    lanes = Lanes()
    book, long = "x" * (LONG_CHARACTERS + 1), "quick" + "x" * LONG_CHARACTERS
    lanes.tokenizing.add([EmbedItem(1, book, BULK, False, "ids")])
    assert lanes.begun.acquire(timeout=10)
    lanes.tokenizing.add([item(2, long, BULK)])
    assert lanes.take() == 2
    # No more than 100 tokens of this one are read.
    lanes.tokenizing.add([EmbedItem(3, Prompted("", long, "", Limits(100)), BULK, False, "ids")])
    assert lanes.take() == 3
    lanes.gate.set()
