"""Problems of a tier of the cache: logged once, kept for the status, and a pause after each."""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)

PAUSE_SECONDS = 5.0
"""The disk is not used for this long after a fault, so that requests do not wait for one timeout after the other."""
LOG_AGAIN_SECONDS = 600.0
"""The same line about a tier is logged at most once in this time."""


class TierHealth:
    """What is wrong with a tier, by kind of work ("open", "read", "write", "close")."""

    def __init__(self, name: str, *, off: bool = False) -> None:
        """name: of the tier, for people, such as "the cache in /home/…". off: it is switched off."""
        self._name = name
        self._problems: dict[str, str] = {"open": "switched off"} if off else {}
        self._paused_until: dict[str, float] = {}
        self._logged_at: dict[str, float] = {}

    @property
    def problem(self) -> str | None:
        """Why the tier is not used; None when it is."""
        return next(iter(self._problems.values()), None)

    def problem_of(self, work: str) -> str | None:
        """Return what is wrong with one kind of work; None if it works."""
        return self._problems.get(work)

    def is_paused(self, work: str) -> bool:
        """Return whether this work failed a moment ago and is not to be tried yet."""
        return time.monotonic() < self._paused_until.get(work, 0.0)

    def failed(self, work: str, problem: str, pause: float | None = None) -> None:
        """Note a fault, and pause this kind of work for so many seconds, or `PAUSE_SECONDS`."""
        self._log(logging.WARNING, problem)
        self._problems[work] = problem
        self._paused_until[work] = time.monotonic() + (PAUSE_SECONDS if pause is None else pause)

    def succeeded(self, work: str) -> None:
        """Note that this work succeeded: its problem is over."""
        if self._problems.pop(work, None) is not None and not self._problems:
            self._log(logging.INFO, f"{self._name} works again")

    def _log(self, level: int, message: str) -> None:
        # A disk that is nearly full takes a row now and then: that is one problem, not a new one each time.
        now = time.monotonic()
        if now - self._logged_at.get(message, float("-inf")) > LOG_AGAIN_SECONDS:
            self._logged_at[message] = now
            log.log(level, "%s", message)
