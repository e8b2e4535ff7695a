"""The Retry-After header: seconds, or a date (RFC 9110, 10.2.3)."""

from __future__ import annotations

import datetime
import email.utils
import math
import re

_SECONDS = re.compile(r"\d+(\.\d+)?", re.ASCII)


def parse_retry_after(value: str | None, now: datetime.datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for, 0 for a date in the past; None without a valid one.

    Fractions of a second are accepted, though the RFC has none: some servers send them. `now` is for tests.
    """
    value = (value or "").strip()
    if _SECONDS.fullmatch(value):
        seconds = float(value)
        return seconds if math.isfinite(seconds) else None
    try:
        at = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:  # "-0000": UTC, of an unknown time zone
        at = at.replace(tzinfo=datetime.UTC)
    return max(0.0, (at - (now or datetime.datetime.now(datetime.UTC))).total_seconds())


def format_retry_after(seconds: float) -> str:
    """Return the value of a Retry-After header: whole seconds, rounded up."""
    return str(max(0, math.ceil(seconds)))
