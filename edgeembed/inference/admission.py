"""How much work may wait: a limit on queued tokens, so that a flood is refused at the door."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator

from edgeembed.errors import OverloadedError

TOKENS_PER_CHARACTER = 0.3
"""Of a model of which nothing is known yet; English has about 0.25, Chinese 0.7."""
_LEARNED_WEIGHT = 0.1
INTERACTIVE_SHARE = 1.25
"""Texts that somebody waits for are still let in when bulk work has filled the queue."""
_SHORTEST_RETRY, _LONGEST_RETRY = 1.0, 60.0


class Admission:
    """The door to one model's queue: a request is let in whole or refused whole.

    Tokens are counted by the worker, so what waits is estimated from characters, with a ratio that is learned from the rows
    that come back.
    """

    def __init__(self, most_tokens: int) -> None:
        """Prepare; 0 lets everything in."""
        self._most = most_tokens
        self._ratio = TOKENS_PER_CHARACTER
        self._rate: float | None = None
        self.waiting_tokens = 0
        """Of all requests that were let in and are not finished, estimated. Whole ones: an empty queue must be empty."""

    @contextlib.contextmanager
    def admit(self, characters: int, *, interactive: bool) -> Iterator[None]:
        """Let a request in while it runs. Raises OverloadedError when the queue is full; an empty one takes anything."""
        tokens = max(1, math.ceil(characters * self._ratio))
        most = self._most * (INTERACTIVE_SHARE if interactive else 1.0)
        if self._most and self.waiting_tokens and self.waiting_tokens + tokens > most:
            raise OverloadedError(
                f"the queue is full: about {self.waiting_tokens:,.0f} tokens wait, and at most {self._most:,} may; this "
                f"request has about {tokens:,.0f}",
                retry_after=self._time_until(self.waiting_tokens + tokens - most),
            )
        self.waiting_tokens += tokens
        try:
            yield
        finally:
            self.waiting_tokens -= tokens

    def learn(self, characters: int, tokens: int, began: float) -> None:
        """Learn from a request that has ended: began is its `time.monotonic()`."""
        if not characters or not tokens:
            return
        self._ratio += _LEARNED_WEIGHT * (tokens / characters - self._ratio)
        rate = tokens / max(1e-3, time.monotonic() - began)
        self._rate = rate if self._rate is None else self._rate + _LEARNED_WEIGHT * (rate - self._rate)

    def _time_until(self, tokens: float) -> float:
        """Estimate the seconds until so many tokens have left the queue."""
        seconds = tokens / self._rate if self._rate else _SHORTEST_RETRY
        return float(math.ceil(min(_LONGEST_RETRY, max(_SHORTEST_RETRY, seconds))))
