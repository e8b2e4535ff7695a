"""How many threads the next forward pass takes: fewer while somebody else keeps the processors busy.

Threads of a pass wait for each other after every operation. When another program takes one of their processors, all of them
stand still, and a pass of two threads took four times as long as one of a single thread. How long passes took is the only
way to know that works everywhere. The other program may be our own: the lanes of a bulk load, or the server.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable

TRY_EVERY = 128
"""Passes between two tries of another number while all threads are the best choice: fewer than one in a hundred."""
TRY_UNKNOWN_EVERY = 4
"""The same for a number that was never tried."""
REDUCED_SECONDS = 0.5
REDUCED_PASSES = 16
"""After so long with fewer threads all of them are tried again: whoever was in the way may have gone, and what is lost while
nobody is there is more than a try costs."""
FEWER = 0.75
"""What fewer threads have to take of the present number's time to be chosen: a pass that somebody was in the way of now and
then is no reason."""
MORE = 0.95
"""The same for more threads."""
LATEST = 7
"""Passes whose median counts: a host takes a processor away for many milliseconds now and then, whatever is chosen."""
ENOUGH = 3
"""Passes without which nothing is said about a number."""


class ThreadChoice:
    """Chooses among `most` threads, half of them, and so on down to one, by what a token took lately: a median."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._numbers = [most]
        while self._numbers[-1] > 1:
            self._numbers.append(self._numbers[-1] // 2)
        self._latest: list[deque[float]] = [deque(maxlen=LATEST) for _ in self._numbers]
        """Seconds of a token in the latest passes, for each number of threads."""
        self._chosen = 0
        self._tried: int | None = None
        self._upwards = False
        self._passes = 0
        self._clock = clock
        self._reduced = (0.0, 0)
        """When, and at which pass, fewer threads than all were chosen."""

    def next(self) -> int:
        """Give the number of threads for the next pass."""
        self._passes += 1
        since, at = self._reduced
        if self._chosen and self._passes - at >= REDUCED_PASSES and self._clock() - since >= REDUCED_SECONDS:
            self._chosen = 0
            self._latest[0].clear()  # whatever it was, that was then
        self._tried = self._to_try()
        return self._numbers[self._chosen if self._tried is None else self._tried]

    def record(self, tokens: int, seconds: float) -> None:
        """Note how long the pass took for which `next` gave the number."""
        self._latest[self._chosen if self._tried is None else self._tried].append(seconds / tokens)
        present = self._seconds(self._chosen)
        if present is None:
            return
        for other in range(len(self._numbers)):
            found = self._seconds(other)
            if found is not None and found < (MORE if other < self._chosen else FEWER) * present:
                if self._chosen == 0:
                    self._reduced = self._clock(), self._passes
                self._chosen, present = other, found

    def _seconds(self, number: int) -> float | None:
        latest = self._latest[number]
        return statistics.median(latest) if len(latest) >= ENOUGH else None

    def _to_try(self) -> int | None:
        neighbours = self._neighbours()
        unknown = [number for number in neighbours if len(self._latest[number]) < ENOUGH]
        if unknown and self._passes % TRY_UNKNOWN_EVERY == 0:
            return unknown[0]
        if neighbours and self._passes % TRY_EVERY == 0:
            self._upwards = not self._upwards
            return neighbours[0] if self._upwards else neighbours[-1]
        return None

    def _neighbours(self) -> list[int]:
        return [number for number in (self._chosen - 1, self._chosen + 1) if 0 <= number < len(self._numbers)]
