"""Admission: a limit on the tokens that wait for a model, so that a flood of requests is refused early."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator

from edgeembed.errors import OverloadedError

TOKENS_PER_CHARACTER = 0.3
"""Before anything was computed by a model; English has about 0.25, Chinese 0.7."""
_LEARNED_WEIGHT = 0.1
INTERACTIVE_SHARE = 1.25
"""Interactive requests have a higher limit, so that bulk requests cannot shut them out."""
_SHORTEST_RETRY, _LONGEST_RETRY = 1.0, 60.0


class Admission:
    """Limits one model's queue: a request is admitted whole or refused whole.

    The worker counts tokens, so the tokens that wait are estimated from characters, with a ratio learned from the rows that
    come back.
    """

    def __init__(self, most_tokens: int) -> None:
        """most_tokens: the limit; 0 for none."""
        self._most = most_tokens
        self._ratio = TOKENS_PER_CHARACTER
        self._rate: float | None = None
        self.waiting_tokens = 0
        """Estimated tokens of the admitted, unfinished requests; whole numbers, so that an empty queue is exactly 0."""

    @contextlib.contextmanager
    def admit(self, characters: int, *, interactive: bool) -> Iterator[None]:
        """Count a request as waiting while it runs.

        Raises OverloadedError when the queue is full; an empty queue takes any request.
        """
        tokens = max(1, math.ceil(characters * self._ratio))
        most = self._most * (INTERACTIVE_SHARE if interactive else 1.0)
        if self._most and self.waiting_tokens and self.waiting_tokens + tokens > most:
            raise OverloadedError(
                f"the queue is full: about {self.waiting_tokens:,} tokens are waiting (limit {self._most:,}), "
                f"and this request has about {tokens:,}",
                retry_after=self._time_until(self.waiting_tokens + tokens - most),
            )
        self.waiting_tokens += tokens
        try:
            yield
        finally:
            self.waiting_tokens -= tokens

    def learn(self, characters: int, tokens: int, began: float) -> None:
        """Learn from a finished request. began: its start, of `time.monotonic()`."""
        if not characters or not tokens:
            return
        self._ratio += _LEARNED_WEIGHT * (tokens / characters - self._ratio)
        rate = tokens / max(1e-3, time.monotonic() - began)
        self._rate = rate if self._rate is None else self._rate + _LEARNED_WEIGHT * (rate - self._rate)

    def _time_until(self, tokens: float) -> float:
        """Estimate the seconds until `tokens` tokens have left the queue."""
        seconds = tokens / self._rate if self._rate else _SHORTEST_RETRY
        return float(math.ceil(min(_LONGEST_RETRY, max(_SHORTEST_RETRY, seconds))))
