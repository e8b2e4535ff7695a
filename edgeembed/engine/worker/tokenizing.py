"""Who tokenises what, so that a short query never waits until somebody else's texts have been read.

A short interactive text is tokenised at once, in the thread that received it. Texts of bulk loads have a thread of their
own, and so have long texts: ten megabytes take seconds, wherever they come from. No llama.cpp here.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from edgeembed.engine.interface import INTERACTIVE
from edgeembed.engine.ipc.messages import EmbedItem
from edgeembed.engine.text_sizes import characters_to_read
from edgeembed.engine.worker.batching import BatchQueue, QueuedText
from edgeembed.engine.worker.isolated_batches import IsolatedBatches

TokensT = TypeVar("TokensT")

LONG_CHARACTERS = 16_384
"""A text longer than this leaves the fast way: it takes milliseconds to tokenise, or very many of them."""

TOGETHER_TOKENS = 512
"""Texts of a bulk load are queued once so many tokens are ready, or nothing is left to read: a lane that took the first text
alone would compute a nearly empty batch."""


STACK_BYTES = 16 * 2**20
"""Some of llama.cpp's pre-tokenizers recurse once for each character of a long run, some 320 bytes each, without a bound:
a text that is beyond this ends the worker, and is not tried a third time."""


def start_reading_thread(target: Callable[..., None], *arguments: object, name: str) -> None:
    """Start a thread that tokenises."""
    before = threading.stack_size(STACK_BYTES)  # of the threads that are started from now on
    try:
        threading.Thread(target=target, args=arguments, name=name, daemon=True).start()
    finally:
        threading.stack_size(before)


class Tokenizing(Generic[TokensT]):
    """Brings items to a batch queue by way of their tokens. `add` and `cancel` are called from one thread.

    tokenize: gives the item ready for the queue, or None when it cannot be computed, which it has told then; called from
    several threads at once.
    """

    def __init__(self, tokenize: Callable[[EmbedItem], QueuedText[TokensT] | None], ready: BatchQueue[TokensT]) -> None:
        self._tokenize = tokenize
        self._ready = ready
        self._lock = threading.Lock()
        self._waiting: set[int] = set()
        """Ids on a lane that nobody has cancelled."""
        self._isolated: IsolatedBatches[QueuedText[TokensT]] = IsolatedBatches()
        self._bulk = self._lane("tokenize-bulk")
        self._long = self._lane("tokenize-long")

    def add(self, items: Iterable[EmbedItem]) -> None:
        """Tokenise items at once, or queue them for it."""
        later: list[tuple[queue.SimpleQueue[EmbedItem], EmbedItem]] = []
        now: list[QueuedText[TokensT]] = []
        for item in items:
            if characters_to_read(item.text) > LONG_CHARACTERS:
                later.append((self._long, item))
            elif item.priority != INTERACTIVE:
                later.append((self._bulk, item))
            elif queued := self._tokenize(item):
                now.append(queued)
        if now:  # together: the texts of one request share a batch
            self._ready.add(now)
        with self._lock:
            self._waiting.update(item.id for _, item in later)
        for lane, item in later:
            lane.put(item)

    def cancel(self, ids: Iterable[int]) -> None:
        """Free the places of texts that nobody waits for, here and in the batch queue."""
        gone = list(ids)
        with self._lock:
            self._waiting.difference_update(gone)
        self._ready.cancel(gone)

    def _lane(self, name: str) -> queue.SimpleQueue[EmbedItem]:
        lane: queue.SimpleQueue[EmbedItem] = queue.SimpleQueue()
        start_reading_thread(self._run, lane, name=name)
        return lane

    def _run(self, lane: queue.SimpleQueue[EmbedItem]) -> None:
        ready: list[QueuedText[TokensT]] = []
        while True:
            item = lane.get()
            queued = self._tokenize(item) if item.id in self._waiting else None
            if queued is None:
                with self._lock:
                    self._waiting.discard(item.id)
            if item.isolated is not None:
                if whole := self._isolated.add(item.isolated, queued):
                    self._hand_over(whole, isolated=True)
            elif queued is not None:
                ready.append(queued)
            if ready and (lane.empty() or sum(text.count for text in ready) >= TOGETHER_TOKENS):
                self._hand_over(ready)
                ready = []

    def _hand_over(self, texts: list[QueuedText[TokensT]], *, isolated: bool = False) -> None:
        with self._lock:  # `cancel` finds a text either here or in the batch queue
            wanted = [text for text in texts if text.id in self._waiting]
            self._waiting.difference_update(text.id for text in wanted)
            if isolated:
                self._ready.add_sealed(wanted)
            else:
                self._ready.add(wanted)
