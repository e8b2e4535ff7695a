"""Durations as people write them: "90s", "30m", "2h", "forever"."""

from __future__ import annotations

import re

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(duration: str) -> float | None:
    """Return the seconds of "90", "90s", "1.5m", "2h" or "1d"; None for "forever". Raises ValueError."""
    word = duration.strip().lower()
    if word == "forever":
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", word)
    if found is None:
        raise ValueError('invalid duration; expected for example "90s", "30m", "2h", "1d", "0" or "forever"')
    return float(found[1]) * _UNITS[found[2]]
