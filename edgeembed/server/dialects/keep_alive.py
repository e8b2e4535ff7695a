"""Ollama's keep_alive: how long a model stays loaded after a request."""

from __future__ import annotations

import datetime
import re

from edgeembed.errors import RequestError

FOR_EVER = datetime.timedelta(days=365 * 100)
"""What clients are told about a model that is never unloaded."""

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([+-]?)((?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h))+|[+-]?0", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)


def keep_alive_seconds(keep_alive: str | float | None) -> float | None:
    """Return the seconds of a keep_alive; None: never unload. The syntax is that of Go's time.ParseDuration.

    Raises RequestError for an invalid duration.
    """
    if keep_alive is None:
        return None
    if isinstance(keep_alive, str):
        word = keep_alive.strip()
        if not _DURATION.fullmatch(word):
            raise RequestError(
                f'keep_alive: invalid duration {keep_alive[:50]!r}; expected for example "5m" or "1h30m", or seconds',
                param="keep_alive",
            )
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(word))
        seconds = -seconds if word.startswith("-") else seconds
    else:
        seconds = float(keep_alive)
    return None if seconds < 0 or seconds > FOR_EVER.total_seconds() else seconds
