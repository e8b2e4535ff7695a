"""Helpers for tests of supervised workers, which compute the rows of the fake engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np

from edgeembed.engine.interface import BULK
from edgeembed.engine.supervisor.worker_engine import WorkerEngine
from tests.fakes import fake_row


async def rows_are_right(made: WorkerEngine, texts: list[str]) -> None:
    rows = await asyncio.gather(*made.submit(texts, BULK))
    for text, row in zip(texts, rows, strict=True):
        assert np.array_equal(row.vector, fake_row(text))


async def until(
    condition: Callable[[], bool], doing: Callable[[], Awaitable[None]] | None = None, *, seconds: float
) -> None:
    """Wait for a condition, and call `doing` meanwhile. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():
            await (doing() if doing else asyncio.sleep(0.02))  # another process tells no event
