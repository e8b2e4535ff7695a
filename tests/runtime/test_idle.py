"""A daemon that ends when nobody uses it, such as the engine that tasks share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from edgeembed.runtime.daemon import end_when_idle


class BusySlot:
    """A model with a lease the first three times that it is asked."""

    used_at = 0.0

    def __init__(self) -> None:
        self.asked = 0

    @property
    def leases(self) -> int:
        self.asked += 1
        return int(self.asked <= 3)


async def test_it_does_not_end_while_it_computes() -> None:
    slot, ended = BusySlot(), []
    pool: Any = SimpleNamespace(slots=[slot])
    await end_when_idle(pool, 0.001, lambda: ended.append(slot.asked))
    assert ended == [4]


async def test_it_ends_where_no_model_is_loaded() -> None:
    ended = []
    pool: Any = SimpleNamespace(slots=[])
    await end_when_idle(pool, 0.001, lambda: ended.append(True))
    assert ended == [True]
