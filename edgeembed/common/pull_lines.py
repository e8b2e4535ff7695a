"""The lines that `edgeembed pull --json` prints, each a JSON object, for programs that run it."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from edgeembed.common.progress import StepReport

STEP_SECONDS = 0.1
"""Between two lines about the same work."""


class PullLine(msgspec.Struct, omit_defaults=True):
    """One line: a message, a step, or the result, which is the last one."""

    message: str = ""
    """For a person."""
    waits: bool = False
    """Nothing is done yet: other pulls come first."""
    what: str = ""
    """Work of which `done` of `total` bytes are done."""
    done: int = 0
    total: int = 0
    installed: str = ""
    """Result: name and type of the model."""
    path: str = ""
    """Result: its file, of `total` bytes."""
    error: str = ""
    """Result: why it failed."""
    unknown: bool = False
    """With `error`: there is no such model."""


class PullLines(StepReport):
    """Prints progress as lines of JSON; steps of the same work at most ten times a second, except for the last one."""

    def __init__(self, print_line: Callable[[str], None]) -> None:
        """print_line: prints a line, at once."""
        self._print_line = print_line
        self._what = ""
        self._printed_at = float("-inf")

    def __call__(self, line: str) -> None:
        self.put(PullLine(message=line))

    def step(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what == self._what and done < total and now - self._printed_at < STEP_SECONDS:
            return
        self._what, self._printed_at = what, now
        self.put(PullLine(what=what, done=done, total=total))

    def put(self, line: PullLine) -> None:
        """Print a line."""
        self._print_line(msgspec.json.encode(line).decode())
