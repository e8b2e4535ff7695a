"""Texts in a batch queue, and a clock that the test moves."""

from __future__ import annotations

from collections.abc import Iterable

from edgeembed.engine.interface import DENSE, INTERACTIVE, Output, Priority
from edgeembed.engine.worker.packing import QueuedText


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def text(
    id_: int,
    count: int,
    priority: Priority = INTERACTIVE,
    *,
    alone: bool = False,
    outputs: tuple[Output, ...] = DENSE,
    only_wide: bool = False,
) -> QueuedText[None]:
    return QueuedText(id_, None, count, priority, alone, outputs=outputs, only_wide=only_wide)


def ids(batch: Iterable[QueuedText[None]]) -> list[int]:
    return [queued.id for queued in batch]
