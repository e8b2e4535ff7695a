"""Progress of long work: a bar on a terminal, a plain line about every ten per cent elsewhere."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeembed.common.progress_bar import Bar

ReportLine = Callable[[str], None]
"""Called with one line for the user."""


class StepReport(ABC):
    """A `ReportLine` that takes the steps of long work, too."""

    replaces_bar = True
    """Whether no bar is drawn, and no lines are made of the steps."""

    @abstractmethod
    def __call__(self, line: str) -> None:
        """Take one line for the user."""

    @abstractmethod
    def step(self, what: str, done: int, total: int) -> None:
        """Take how much of some work is done; called often."""


_SHORT = 1.0
"""Seconds; shorter work shows no bar and no lines."""
_OFTEN = 0.1
"""Seconds between updates of the bar."""


def on_terminal() -> bool:
    """Return whether standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


class Progress:
    """A progress bar for downloads, conversions and checksums; a context manager."""

    def __init__(self, report: ReportLine, what: str, unit: str = "B") -> None:
        self._report = report
        self._steps = report if isinstance(report, StepReport) else None
        self._what = what
        self._unit = unit
        self._bar: Bar | None = None

    def begin(self, done: int, total: int) -> None:
        """Start at `done` of `total` units, which do not count for the speed."""
        if self._steps is not None:
            self._steps.step(self._what, done, total)
            if self._steps.replaces_bar:
                return
        if self._bar is not None:
            self._bar.close()
        from edgeembed.common.progress_bar import Bar  # the daemon starts sooner without tqdm

        self._bar = Bar(
            report=self._report,
            drawn=on_terminal(),
            initial=done,
            total=total,
            desc=self._what,
            unit=self._unit,
            unit_scale=self._unit == "B",
            leave=False,
            dynamic_ncols=True,
            delay=_SHORT,
            mininterval=_OFTEN,
        )

    def update(self, done: int, total: int) -> None:
        """Show that `done` of `total` units are done."""
        if self._steps is not None:
            self._steps.step(self._what, done, total)
            if self._steps.replaces_bar:
                return
        if self._bar is None:
            self.begin(0, total)
        assert self._bar is not None
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if (self._steps is not None and self._steps.replaces_bar) or not on_terminal():
            self._report(line)
            return
        from tqdm import tqdm

        with tqdm.external_write_mode(file=sys.stderr):
            self._report(line)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()


def human_size(size: float) -> str:
    """Return a number of bytes as text with a decimal unit."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def human_time(seconds: float) -> str:
    """Return a duration as text with its two largest units."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
