"""Progress of long work: a bar on a terminal, a plain line about every ten per cent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    _Tqdm = tqdm[Any]
else:
    _Tqdm = tqdm  # generic for the type checker only

Report = Callable[[str], None]
"""Takes one line for a human."""


def on_terminal() -> bool:
    """Say whether a bar drawn on standard error is seen by a human."""
    return sys.stderr is not None and sys.stderr.isatty()


def bar_class(report: Report, what: str | None = None) -> type[Any]:
    """Give a class of tqdm bars, as libraries take it, that draws on a terminal and reports lines elsewhere.

    `what` goes before the library's own label, which may be a long signed address.
    """
    drawn = on_terminal()

    class Bar(_Tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # huggingface_hub's own key, which tqdm does not know
            if what is not None:
                kwargs["desc"] = what
            self._reported = 0
            if not drawn:
                kwargs["file"] = _Nowhere()
            super().__init__(*args, **kwargs)

        def display(self, msg: str | None = None, pos: int | None = None) -> Any:
            if drawn:
                return super().display(msg, pos)
            # Bars of bytes only: a count of files says nothing about the time left.
            if self.total and self.unit == "B":
                tenth = int(self.n * 10 / self.total)
                if self._reported < tenth <= 10:
                    self._reported = tenth
                    report(f"{self.desc or 'progress'}: {tenth * 10} % of {human_size(self.total)}")
            return True

    return Bar


class _Nowhere:
    """Takes what tqdm would write to a terminal that is not there."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


class Progress:
    """A bar fed with `update(done, total)`, as the converter and the digest call it. Use as a context manager."""

    def __init__(self, report: Report, what: str, unit: str = "B") -> None:
        self._bars = bar_class(report)
        self._what = what
        self._unit = unit
        self._bar: _Tqdm | None = None

    def update(self, done: int, total: int) -> None:
        """Show that `done` of `total` units are behind us."""
        if self._bar is None:
            self._bar = self._bars(
                total=total,
                desc=self._what,
                unit=self._unit,
                unit_scale=self._unit == "B",
                leave=False,
                delay=1.0,  # what is done at once needs no bar
            )
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()


def human_size(size: float) -> str:
    """Write a number of bytes with a decimal unit, as download pages do."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
