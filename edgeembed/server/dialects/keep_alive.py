"""How long a client of Ollama wants a model to stay loaded."""

from __future__ import annotations

import datetime
import re

from edgeembed.errors import RequestError

FOR_EVER = datetime.timedelta(days=365 * 100)
"""What clients are told of a model that stays."""

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([+-]?)((?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h))+|[+-]?0", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)


def keep_alive_seconds(keep_alive: str | float | None) -> float | None:
    """Give the seconds of a keep_alive; None for ever. A text is a duration as Go's time.ParseDuration reads it.

    Raises RequestError.
    """
    if keep_alive is None:
        return None
    if isinstance(keep_alive, str):
        word = keep_alive.strip()
        if not _DURATION.fullmatch(word):
            raise RequestError(
                f'keep_alive: {keep_alive[:50]!r} is no duration; one such as "5m" or "1h30m", or seconds, is expected',
                param="keep_alive",
            )
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(word))
        seconds = -seconds if word.startswith("-") else seconds
    else:
        seconds = float(keep_alive)
    return None if seconds < 0 or seconds > FOR_EVER.total_seconds() else seconds
