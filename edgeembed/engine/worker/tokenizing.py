"""Which thread tokenises which text, so that a short query never waits for the tokens of other requests.

A short interactive text is tokenised at once, in the thread that received it. Bulk texts have their own thread, and so
have long texts, from either priority. Of those no more is read than a model takes, unless somebody counts the tokens of a
whole book: these have a thread, too, since many megabytes take seconds. No llama.cpp here.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from edgeembed.engine.interface import INTERACTIVE
from edgeembed.engine.ipc.messages import EmbedItem
from edgeembed.engine.text_sizes import characters_to_read
from edgeembed.engine.worker.batching import BatchQueue
from edgeembed.engine.worker.isolated_batches import IsolatedBatches
from edgeembed.engine.worker.packing import QueuedText

TokensT = TypeVar("TokensT")

LONG_CHARACTERS = 16_384
"""A longer text is not tokenised at once: it takes milliseconds, or far more."""

TOGETHER_TOKENS = 512
"""Bulk texts are queued once this many tokens are ready, or no text is left to tokenise: a lane that took the first text
alone would compute a nearly empty batch."""


STACK_BYTES = 16 * 2**20
"""Some of llama.cpp's pre-tokenizers recurse for each character of a long run, about 320 bytes each. The runs that they get
are limited (`LONGEST_RECURSION` in engine/llama/text_pieces.py), except in vocabularies that no family here has. A text that
needs a larger stack crashes the worker, and is not tried a third time."""


def start_reading_thread(target: Callable[..., None], *arguments: object, name: str) -> None:
    """Start a thread with a stack that is large enough to tokenise."""
    before = threading.stack_size(STACK_BYTES)  # for threads that are started from now on
    try:
        threading.Thread(target=target, args=arguments, name=name, daemon=True).start()
    finally:
        threading.stack_size(before)


class Tokenizing(Generic[TokensT]):
    """Tokenises items and adds them to a batch queue. `add` and `cancel` are called from one thread.

    tokenize: returns the item ready for the queue, or None after it has reported that the item cannot be computed; called
    from several threads at once.
    """

    def __init__(
        self,
        tokenize: Callable[[EmbedItem], QueuedText[TokensT] | None],
        ready: BatchQueue[TokensT],
        add_at_once: Callable[[list[QueuedText[TokensT]]], object] | None = None,
    ) -> None:
        """add_at_once: adds to the queue what `add` has tokenised itself, and may compute it."""
        self._tokenize = tokenize
        self._ready = ready
        self._add_at_once = add_at_once or ready.add
        self._lock = threading.Lock()
        self._waiting: set[int] = set()
        """Ids of items that are on a lane and not cancelled."""
        self._isolated: IsolatedBatches[QueuedText[TokensT]] = IsolatedBatches()
        self._bulk = self._lane("tokenize-bulk")
        self._long = self._lane("tokenize-long")
        self._count = self._lane("tokenize-count")

    def add(self, items: Iterable[EmbedItem]) -> None:
        """Tokenise items at once, or queue them for the thread of their lane."""
        later: list[tuple[queue.SimpleQueue[EmbedItem], EmbedItem]] = []
        at_once: list[QueuedText[TokensT]] = []
        for item in items:
            if characters_to_read(item.text) > LONG_CHARACTERS:
                later.append((self._count if _counts_all(item) else self._long, item))
            elif item.priority != INTERACTIVE:
                later.append((self._bulk, item))
            elif queued := self._tokenize(item):
                at_once.append(queued)
        if later:
            with self._lock:
                self._waiting.update(item.id for _, item in later)
            for lane, item in later:
                lane.put(item)
        if at_once:  # together: the texts of one request share a batch
            self._add_at_once(at_once)

    def cancel(self, ids: Iterable[int]) -> None:
        """Remove waiting texts, here and from the batch queue."""
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
        with self._lock:  # so that `cancel` finds a text either here or in the batch queue
            wanted = [text for text in texts if text.id in self._waiting]
            self._waiting.difference_update(text.id for text in wanted)
            if isolated:
                self._ready.add_isolated(wanted)
            else:
                self._ready.add(wanted)


def _counts_all(item: EmbedItem) -> bool:
    """Return whether all tokens of a text are read, however many there are."""
    limits = None if isinstance(item.text, str) else item.text.limits
    return item.want != "row" and not (limits and limits.most)
