"""Waiting for what another thread or process brings about and announces to nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SECONDS = 30.0
"""Long enough for a busy machine; only a test that fails waits so long."""


def until(condition: Callable[[], T], seconds: float = SECONDS, *, interval: float = 0.02) -> T:
    """Return the first true value of a condition.

    Raises:
        AssertionError: the time is up.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"nothing after {seconds:g} s: {condition}"
        time.sleep(interval)
    return found


async def until_async(condition: Callable[[], T], seconds: float = SECONDS, *, interval: float = 0.005) -> T:
    """Return the first true value of a condition; the event loop runs meanwhile.

    Raises:
        AssertionError: the time is up.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"nothing after {seconds:g} s: {condition}"
        await asyncio.sleep(interval)
    return found
