"""Which of the waiting texts share a batch: as many as fit into its budget, from the head of the queue on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import dropwhile, islice, takewhile
from typing import Generic, TypeVar

from edgeembed.engine.interface import DENSE, Output, Priority, Role

TokensT = TypeVar("TokensT")

SEARCH_DEPTH = 64
"""How many texts from the head of a queue are searched for one that still fits into the budget."""


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
    outputs: tuple[Output, ...] = DENSE
    role: Role = ""
    """What it is for, where the model tells queries from documents."""
    only_wide: bool = False
    """Only the wide lane can compute it, however short it is."""

    @property
    def cost(self) -> int:
        """Tokens to compute."""
        return self.own or self.count

    @property
    def is_dense(self) -> bool:
        """Whether its only output is a dense row."""
        return self.outputs == DENSE


WaitingTexts = OrderedDict[int, QueuedText[TokensT]]
"""By id, because a text may be cancelled anywhere in the queue."""


def next_batch(
    queues: Iterable[WaitingTexts[TokensT]],
    budget: int,
    max_texts: int,
    most: int | None = None,
    *,
    dense: bool | None = None,
) -> list[QueuedText[TokensT]]:
    """Return texts up to the budget; the first one may exceed it.

    most: the most tokens of each text, for a lane other than the wide one. dense: whether only dense texts are taken, or
    only others; by default whatever the first one is.
    """
    batch: list[QueuedText[TokensT]] = []
    room = budget
    for queue in queues:
        for text in islice(queue.values(), SEARCH_DEPTH):
            if text.alone or (text.batch and batch):
                continue
            if most is not None and (text.count > most or text.only_wide):
                continue
            if dense is None:
                dense = text.is_dense
            elif text.is_dense != dense:
                continue
            # The first text is always taken, however long: waiting would not make it fit.
            if text.cost <= room or not batch:
                if text.batch:
                    return _isolated_batch(text, queue)
                batch.append(text)
                room -= text.cost
                if room <= 0 or len(batch) >= max_texts:
                    return batch
    return batch


def _isolated_batch(first: QueuedText[TokensT], queue: WaitingTexts[TokensT]) -> list[QueuedText[TokensT]]:
    """Return the whole batch of an isolated text, whatever the budget is now. Its texts are consecutive in the queue."""
    rest = dropwhile(lambda text: text is not first, queue.values())
    return list(takewhile(lambda text: text.batch == first.batch, rest))
