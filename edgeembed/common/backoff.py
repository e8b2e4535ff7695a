"""Pauses between attempts that grow with each failure."""

from __future__ import annotations

import random
from dataclasses import dataclass

_MOST_STEPS = 60
"""A pause that has grown so often is beyond every limit; a larger power could overflow."""


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff. Times are in seconds.

    backoff = Backoff(first=1.0, longest=30.0)
    time.sleep(backoff.pause(failures))  # 1, 2, 4, 8, 16, 30, 30, ...
    """

    first: float
    """Pause after the first failure."""
    longest: float
    """Limit of a pause, however many failures there were."""
    factor: float = 2.0
    """Each pause is so many times the one before."""
    jitter: float = 0.0
    """Largest share of a pause that is taken off at random, so that clients that failed together do not return together."""

    def pause(self, failures: int, asked: float | None = None) -> float:
        """Return the pause after so many failures in a row; at least `asked`, what the server asked for (Retry-After)."""
        if failures < 1:
            return asked or 0.0
        grown = min(self.longest, self.first * self.factor ** min(failures - 1, _MOST_STEPS))
        return max(grown * (1 - self.jitter * random.random()), asked or 0.0)
