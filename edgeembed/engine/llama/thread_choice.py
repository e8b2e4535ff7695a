"""How many threads the next forward pass uses: fewer while other work keeps the processors busy.

The threads of a pass wait for each other after every operation. When another program takes one of their processors, all of
them wait: a pass with two threads can take four times as long as with one. The duration of passes is the only sign of this
that works everywhere. The other program may be our own: the lanes of a bulk load, or the server.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection

TRY_EVERY = 128
"""Passes between two trials of another number: less than one in a hundred."""
TRY_UNKNOWN_EVERY = 4
"""The same while there are too few measurements of a number."""
REDUCED_SECONDS = 0.5
REDUCED_PASSES = 16
"""After this time, and this many passes, with fewer threads, all threads are tried again: the other program may have ended,
and running with too few threads costs more than a trial."""
FEWER = 0.75
"""Fewer threads are chosen when they take less than this share of the current number's time: an occasional disturbed pass is
no reason."""
MORE = 0.95
"""The same for more threads."""
LATEST = 7
"""Passes whose median counts: a virtual machine's host takes processors away for milliseconds now and then."""
ENOUGH = 3
"""Passes needed to judge a number."""


class ThreadChoice:
    """Chooses among `most` threads, half as many, and so on down to one, by the median of the recent seconds per token."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._numbers = [most]
        while self._numbers[-1] > 1:
            self._numbers.append(self._numbers[-1] // 2)
        self._latest: list[deque[float]] = [deque(maxlen=LATEST) for _ in self._numbers]
        """Seconds per token in the latest passes, for each number of threads."""
        self._medians: list[float | None] = [None] * len(self._numbers)
        """Those of `_latest`, where there are enough passes."""
        self._chosen = 0
        self._tried: int | None = None
        self._upwards = False
        self._passes = 0
        self._clock = clock
        self._reduced = (0.0, 0)
        """Time and pass at which fewer threads than all were chosen."""

    def next(self) -> int:
        """Return the number of threads for the next pass."""
        self._passes += 1
        since, at = self._reduced
        if self._chosen and self._passes - at >= REDUCED_PASSES and self._clock() - since >= REDUCED_SECONDS:
            self._chosen = 0
            self._latest[0].clear()  # measured before the disturbance
            self._medians[0] = None
        self._tried = self._trial()
        return self._numbers[self._chosen if self._tried is None else self._tried]

    def record(self, tokens: int, seconds: float) -> None:
        """Record how long the pass took that ran with the number of threads from `next`."""
        number = self._chosen if self._tried is None else self._tried
        latest = self._latest[number]
        latest.append(seconds / tokens)
        if len(latest) >= ENOUGH:
            self._medians[number] = _median(latest)
        present = self._medians[self._chosen]
        if present is None:
            return
        for other, found in enumerate(self._medians):
            if found is not None and found < (MORE if other < self._chosen else FEWER) * present:
                if self._chosen == 0:
                    self._reduced = self._clock(), self._passes
                self._chosen, present = other, found

    def _trial(self) -> int | None:
        if self._passes % TRY_UNKNOWN_EVERY:  # as in most passes; the other number is a multiple of it
            return None
        neighbours = self._neighbours()
        unknown = [number for number in neighbours if len(self._latest[number]) < ENOUGH]
        if unknown:
            return unknown[0]
        if neighbours and self._passes % TRY_EVERY == 0:
            self._upwards = not self._upwards
            return neighbours[0] if self._upwards else neighbours[-1]
        return None

    def _neighbours(self) -> list[int]:
        return [number for number in (self._chosen - 1, self._chosen + 1) if 0 <= number < len(self._numbers)]


def _median(values: Collection[float]) -> float:
    """Return the middle one of values, or the mean of both. `statistics.median` takes much longer for so few."""
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
