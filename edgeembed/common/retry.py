"""Retries errors that may be temporary: a daemon that restarts, a model that loads, a full queue."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from edgeembed.common.backoff import Backoff
from edgeembed.errors import EdgeEmbedError, EngineTimeoutError, EngineUnavailableError, OverloadedError

log = logging.getLogger(__name__)

RETRY_SECONDS = 120.0
"""How long a request is retried, from its first failure on, before its error counts."""
BACKOFF = Backoff(first=0.4, longest=10.0)
TEMPORARY: tuple[type[EdgeEmbedError], ...] = (EngineUnavailableError, OverloadedError, EngineTimeoutError)

T = TypeVar("T")


async def with_retries(
    attempt: Callable[[], Awaitable[T]],
    temporary: tuple[type[EdgeEmbedError], ...] = TEMPORARY,
    seconds: float | None = None,
) -> T:
    """Call until it succeeds, with growing pauses. Raises what `attempt` raises, once that is not temporary.

    An error with a `param` is about one text, and not temporary. seconds: how long to try; RETRY_SECONDS by default.
    """
    first_failure: float | None = None
    failures = 0
    longest = RETRY_SECONDS if seconds is None else seconds
    while True:
        try:
            return await attempt()
        except temporary as error:
            now = time.monotonic()
            first_failure = now if first_failure is None else first_failure
            if error.param or now - first_failure >= longest:
                raise
            failures += 1
            pause = BACKOFF.pause(failures, min(error.retry_after or 0.0, BACKOFF.longest))
            log.info("%s; trying again in %.1f s", error.message, pause)
        await asyncio.sleep(pause)
