"""Why a daemon ended, as far as its log and its exit status tell."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (?P<level>[A-Z]+) +[\w.]+: (?P<message>.*)")
"""A line of the log in the format `text`."""
_STOPPING = "stopping: "
"""How the line begins with which a daemon announces that it was asked to end."""


def reason_in(lines: Sequence[str], status: int | None = None) -> str | None:
    """Return why a daemon ended: its last error, or how it was ended; None if it was asked to, or if nothing is known.

    lines: the end of its log. status: its exit status, if we started it.
    """
    found = None
    for line in reversed(lines):
        if line.startswith(_STOPPING):
            return None
        parts = _LINE.fullmatch(line)
        if line.startswith("error: "):
            found = line.removeprefix("error: ")
        elif parts and parts["level"] in ("ERROR", "CRITICAL"):
            found = parts["message"]
        if found is not None:
            break
    if status is None or (found is not None and status > 0):
        return found
    if status < 0:
        return f"ended by {_signal(-status)}" + (f", after: {found}" if found else "")
    return found or (f"exit status {status}" if status else None)


def _signal(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
