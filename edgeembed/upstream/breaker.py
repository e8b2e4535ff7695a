"""The circuit breaker: whether upstream is asked, and when again (M. Nygard, Release It!, "Circuit Breaker")."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from edgeembed.common.backoff import Backoff

FAILURES_TO_OPEN = 3
"""Failed requests in a row after which nothing is sent but a probe now and then."""
BACKOFF = Backoff(first=0.1, longest=2.0, jitter=0.3)
"""Between two attempts."""
LONGEST_ASKED = 60.0
"""Seconds; a Retry-After beyond this counts as this."""
BUSY_SECONDS = 1.0
"""Pause after a 429 without Retry-After."""

BreakerState = Literal["closed", "open", "half-open"]


class Breaker:
    """Counts failures in a row. closed: send. open: do not, until the pause is over. half-open: one probe is in flight."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._probing = False
        self.away_since: float | None = None
        """Time of the first of these failures, on the breaker's clock."""
        self.try_at = float("-inf")
        """Time before which nothing is sent."""
        self.reason: str | None = None
        self.opened = 0
        """How often it has opened."""

    @property
    def state(self) -> BreakerState:
        if self._failures < FAILURES_TO_OPEN:
            return "closed"
        return "half-open" if self._probing else "open"

    @property
    def pause(self) -> float:
        """Seconds until something may be sent."""
        return max(0.0, self.try_at - self._clock())

    def failed(self, reason: str, retry_after: float | None = None, *, at_once: bool = False) -> None:
        """Count a failure. retry_after: seconds that the server asks for. at_once: open now, whatever the count is."""
        before = self.state
        self._failures = max(self._failures + 1, FAILURES_TO_OPEN if at_once else 0)
        self._probing = False
        self._note(reason)
        if self.state == "open" and before == "closed":
            self.opened += 1
        self.try_at = self._clock() + BACKOFF.pause(self._failures, min(retry_after or 0.0, LONGEST_ASKED))

    def busy(self, reason: str, retry_after: float | None) -> None:
        """Note that the server is there but overloaded: nothing is sent for a while, and no failure is counted."""
        self._note(reason)
        pause = BUSY_SECONDS if retry_after is None else min(retry_after, LONGEST_ASKED)
        self.try_at = max(self.try_at, self._clock() + pause)

    def probe(self) -> None:
        """Note that a probe is in flight."""
        self._probing = True

    def worked(self) -> None:
        """Close the breaker and forget the failures."""
        self._failures = 0
        self._probing = False
        self.away_since = None
        self.reason = None
        self.try_at = float("-inf")

    def _note(self, reason: str) -> None:
        self.reason = reason
        if self.away_since is None:
            self.away_since = self._clock()
