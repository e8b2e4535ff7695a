"""Trying again what may pass: a daemon that restarts, a model that loads, a queue that is full."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from edgeembed.errors import EngineTimeoutError, EngineUnavailableError, OverloadedError

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 120.0
"""Longest time without any answer."""
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0
_PASSING = (EngineUnavailableError, OverloadedError, EngineTimeoutError)

T = TypeVar("T")


async def with_retries(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until there is an answer, with longer and longer pauses. Raises what is asked raises, when it does not pass.

    An error that names one text (`param`) is about that text, and does not pass.
    """
    began, pause = time.monotonic(), FIRST_PAUSE
    while True:
        try:
            return await ask()
        except _PASSING as error:
            if error.param or time.monotonic() - began > PATIENCE_SECONDS:
                raise
            pause = min(max(pause * 2, error.retry_after or 0.0), LONGEST_PAUSE)
            log.info("%s; trying again in %.1f s", error.message, pause)
        await asyncio.sleep(pause)
