"""The last minutes in steps, for the dashboard's charts: requests, latencies, cache hits, tokens."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from edgeembed.common.status import ActivityStatus

STEP_SECONDS = 2
STEPS = 150
"""Steps that are kept: five minutes."""
_MOST_LATENCIES = 2048
"""Latencies kept of one step; more would not make the percentiles better."""


class Totals(NamedTuple):
    """Counts since the daemon started. lookups: texts looked up in the cache; hits: those found."""

    hits: int = 0
    lookups: int = 0
    tokens: int = 0


@dataclass
class _Step:
    number: int
    requests: int = 0
    failures: int = 0
    seconds: list[float] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    """The counts of this step, set when it ends."""


class Activity:
    """Steps of equal length. There is no timer: the next request or reader ends a step."""

    def __init__(self, totals: Callable[[], Totals], clock: Callable[[], float] = time.time) -> None:
        """totals: returns the counts until now."""
        self._totals = totals
        self._clock = clock
        self._step = _Step(int(clock()) // STEP_SECONDS)
        self._past: deque[_Step] = deque(maxlen=STEPS)
        self._before = Totals()

    def record(self, seconds: float, status: int) -> None:
        """Count a request and its response."""
        number = int(self._clock()) // STEP_SECONDS
        if number != self._step.number:
            self._roll(number)
        step = self._step
        step.requests += 1
        if status >= 400:
            step.failures += 1
        if len(step.seconds) < _MOST_LATENCIES:
            step.seconds.append(seconds)

    def describe(self) -> ActivityStatus:
        """Return the completed steps, oldest first."""
        last = int(self._clock()) // STEP_SECONDS
        if last != self._step.number:
            self._roll(last)
        steps = {step.number: step for step in self._past}
        span = [steps.get(number) for number in range(last - STEPS, last)]
        return ActivityStatus(
            step_seconds=STEP_SECONDS,
            requests_per_second=tuple(step.requests / STEP_SECONDS if step else 0 for step in span),
            failures_per_second=tuple(step.failures / STEP_SECONDS if step else 0 for step in span),
            tokens_per_second=tuple(step.totals.tokens / STEP_SECONDS if step else 0 for step in span),
            p50_ms=tuple(_percentile(step, 50) for step in span),
            p95_ms=tuple(_percentile(step, 95) for step in span),
            hit_rate=tuple(
                round(step.totals.hits / step.totals.lookups, 4) if step and step.totals.lookups else None for step in span
            ),
        )

    def _roll(self, number: int) -> None:
        now = self._totals()
        # Unloading an engine removes its counts from the totals.
        self._step.totals = Totals(*(max(0, new - old) for new, old in zip(now, self._before, strict=True)))
        self._before = now
        self._past.append(self._step)
        self._step = _Step(number)


def _percentile(step: _Step | None, percent: int) -> float | None:
    return round(1000 * float(np.percentile(step.seconds, percent)), 3) if step and step.seconds else None
