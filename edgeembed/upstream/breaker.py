"""The circuit breaker: whether the other side is asked, and when again (M. Nygard, Release It!, "Circuit Breaker")."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Literal

FAILURES_TO_OPEN = 3
"""Failed requests in a row after which nothing is sent but a probe now and then."""
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
"""Between two tries, in seconds; each pause is twice the one before, less a random part so that no two callers keep step."""
JITTER = 0.3
LONGEST_ASKED = 60.0
"""The longest pause that a server's Retry-After is believed."""

BreakerState = Literal["closed", "open", "half-open"]


class Breaker:
    """Counts failures in a row. closed: ask. open: don't, until a pause is over. half-open: one probe is on its way."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._probing = False
        self.away_since: float | None = None
        """Moment of the first of these failures."""
        self.try_at = float("-inf")
        """Moment before which nothing is sent."""
        self.reason: str | None = None
        self.opened = 0
        """Times that it opened."""

    @property
    def state(self) -> BreakerState:
        if self._failures < FAILURES_TO_OPEN:
            return "closed"
        return "half-open" if self._probing else "open"

    @property
    def pause(self) -> float:
        """Seconds until something may be sent."""
        return max(0.0, self.try_at - self._clock())

    def failed(self, reason: str, seconds: float | None = None, *, at_once: bool = False) -> None:
        """Note a failure. seconds: the pause that the other side asks for. at_once: it is away, however often it failed."""
        before = self.state
        now = self._clock()
        self._failures = max(self._failures + 1, FAILURES_TO_OPEN if at_once else 0)
        self._probing = False
        self.reason = reason
        if self.away_since is None:
            self.away_since = now
        if self.state == "open" and before == "closed":
            self.opened += 1
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures - 1, 16)) * (1 - JITTER * random.random())
        self.try_at = now + max(pause, min(seconds or 0.0, LONGEST_ASKED))

    def busy(self, reason: str, seconds: float | None) -> None:
        """Note that the other side is there and has too much to do: nothing is sent for so long."""
        now = self._clock()
        self.reason = reason
        if self.away_since is None:
            self.away_since = now
        self.try_at = max(self.try_at, now + min(LONGEST_ASKED, seconds if seconds is not None else 1.0))

    def probe(self) -> None:
        """Note that a probe is on its way."""
        self._probing = True

    def worked(self) -> None:
        """Note an answer: everything is forgotten."""
        self._failures = 0
        self._probing = False
        self.away_since = None
        self.reason = None
        self.try_at = float("-inf")
