"""Waiting for what another thread, task or process brings about without an event to wait for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SECONDS = 30.0
"""Long enough for a busy machine; only a test that fails waits so long."""


def until(
    condition: Callable[[], T], seconds: float = SECONDS, found: Callable[[], object] = str, *, interval: float = 0.02
) -> T:
    """Return the first true value of a condition.

    found: what to show where it stays false.

    Raises:
        AssertionError: the time is up.
    """
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not so after {seconds:g} s; {found()}"
        time.sleep(interval)  # the one place where tests do
    return value


async def until_async(condition: Callable[[], T], seconds: float = SECONDS, *, interval: float = 0.005) -> T:
    """Return the first true value of a condition; the event loop runs meanwhile.

    Raises:
        AssertionError: the time is up.
    """
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not so after {seconds:g} s"
        await asyncio.sleep(interval)  # as above
    return value


async def settle() -> None:
    """Let all tasks run until they wait for something else than a turn of the event loop."""
    for _ in range(100):
        await asyncio.sleep(0)
