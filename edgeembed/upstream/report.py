"""What there is to tell of an upstream server, for /v1/status, /metrics and `edgeembed doctor`."""

from __future__ import annotations

import msgspec

from edgeembed.upstream.breaker import BreakerState
from edgeembed.upstream.fallback import FallbackState


class UpstreamStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot. Counts begin anew with each identity."""

    url: str
    model: str
    identity: str
    """What stands for the model in the cache's keys."""
    breaker: BreakerState
    reason: str | None
    """Why it is not closed, or what failed last."""
    away_seconds: float | None
    """Since the first of the failures in a row."""
    next_try_seconds: float
    opened: int
    """Times that the breaker opened."""
    changes: int
    """Times that upstream was found to give other vectors than before, since the daemon started."""
    requests: int
    retries: int
    """Texts that went back in the queue."""
    refusals: int
    """Texts that upstream did not want."""
    in_flight: int
    """Requests on their way."""
    waiting: int
    """Texts that are not."""
    texts: int
    """Texts that upstream computed."""
    most_texts: int
    """Of one request, as far as upstream's limits are known."""
    fallback: FallbackState
    fallback_reason: str | None
    fallback_cosine: float | None
    """The least of the canary texts, to upstream's rows."""
    fallback_texts: int
    """Texts that the local model answered."""
