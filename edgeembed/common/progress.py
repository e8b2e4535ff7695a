"""Progress of long work: a bar on a terminal, a plain line about every ten per cent elsewhere."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    _Tqdm = tqdm[Any]
else:
    _Tqdm = tqdm  # generic for the type checker only

ReportLine = Callable[[str], None]
"""Called with one line for the user."""


class StepReport(ABC):
    """A `ReportLine` that takes the steps of long work, too, in place of a bar."""

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
_QUIET = 60.0
"""Seconds after which a plain line is printed even if no further tenth is done."""


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
        self._bar: _Bar | None = None

    def begin(self, done: int, total: int) -> None:
        """Start at `done` of `total` units, which do not count for the speed."""
        if self._steps is not None:
            self._steps.step(self._what, done, total)
            return
        if self._bar is not None:
            self._bar.close()
        self._bar = _Bar(
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
            return
        if self._bar is None:
            self.begin(0, total)
        assert self._bar is not None
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._steps is not None or not on_terminal():
            self._report(line)
            return
        with tqdm.external_write_mode(file=sys.stderr):
            self._report(line)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()


class _Bar(_Tqdm):
    """Draws a bar on a terminal, and reports lines elsewhere."""

    def __init__(self, *, report: ReportLine, drawn: bool, **options: Any) -> None:
        self._report = report
        self._drawn = drawn
        self._tenth = 0
        self._last = time.monotonic()
        super().__init__(file=None if drawn else _NullStream(), **options)
        if self.total:
            self._tenth = int(self.n * 10 / self.total)

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        if self._drawn:
            return super().display(msg, pos)
        # Lines for bytes only, as texts differ too much in length. With `msg`, tqdm clears its bar.
        if msg is None and self.total and self.unit == "B":
            tenth, now = int(self.n * 10 / self.total), time.monotonic()
            if self._tenth < tenth <= 10 or (now - self._last > _QUIET and self.n < self.total):
                self._tenth, self._last = tenth, now
                self._report(f"{self.desc}: {int(self.n * 100 / self.total)} % of {human_size(self.total)}{self._pace()}")
        return True

    def _pace(self) -> str:
        """Return speed and time left, once they can be computed."""
        left = (self.total or 0) - self.n
        rate = self.format_dict["rate"] or (self.n - self.initial) / max(self.format_dict["elapsed"], 1e-9)
        return f", {human_size(rate)}/s, {human_time(left / rate)} left" if left > 0 and rate > 0 else ""


class _NullStream:
    """Discards what tqdm writes."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


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
