"""The bar of `progress`, drawn with tqdm."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from edgeembed.common.progress import ReportLine, human_size, human_time

if TYPE_CHECKING:
    _Tqdm = tqdm[Any]
else:
    _Tqdm = tqdm  # generic for the type checker only

_QUIET = 60.0
"""Seconds after which a plain line is printed even if no further tenth is done."""


class Bar(_Tqdm):
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
