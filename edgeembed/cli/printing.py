"""Output of commands: JSON, tables that fit the terminal, labelled fields, sizes and times for people."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import click

from edgeembed.common.log_content import printable

_GAP = "  "


def terminal_width() -> int | None:
    """Return the columns of the terminal on standard output; None for a pipe or a file."""
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if on_terminal else None


def to_stderr(line: str) -> None:
    """Print a line for people on standard error, apart from the command's output, if it can be written."""
    with contextlib.suppress(OSError):  # the disk of the log is full, which must not end a daemon
        click.echo(line, err=True)


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(
    titles: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
    spare: Sequence[str] = (),
    below: Sequence[str] = (),
    indent: str = "",
) -> None:
    """Print rows below their titles, without a title line if all are empty.

    right: titles of right-aligned columns. spare: titles of the columns that a narrow terminal hides, the first one first; a
    last line names them. below: titles of the columns that it moves to a second line of each row after that, the last one
    first.
    """
    table = [tuple(titles), *(tuple(printable(cell) for cell in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    shown, left_out = list(range(len(titles))), []
    room = terminal_width()
    for title in spare:
        if room is None or _total(indent, [widths[column] for column in shown]) <= room:
            break
        shown.remove(titles.index(title))
        left_out.append(title)
    moved: list[int] = []
    for title in reversed(below):
        if room is None or _total(indent, [widths[column] for column in shown]) <= room:
            break
        shown.remove(titles.index(title))
        moved.insert(0, titles.index(title))
    for row in table[0 if any(titles) else 1 :]:
        cells = (row[at].rjust(widths[at]) if titles[at] in right else row[at].ljust(widths[at]) for at in shown)
        click.echo((indent + _GAP.join(cells)).rstrip())
        if words := [row[at] for at in moved if row[at]]:
            click.echo(f"{indent}{_GAP}{'; '.join(words)}")
    if left_out:
        click.echo(f"{indent}(hidden: {', '.join(left_out)}; use --json to see everything)")


def _total(indent: str, widths: list[int]) -> int:
    return len(indent) + sum(widths) + len(_GAP) * (len(widths) - 1)


def print_fields(fields: Iterable[tuple[str, str | None]], indent: str = "", *, prose: Sequence[str] = ()) -> None:
    """Print a label and a value per line, with aligned values; values that are None are left out.

    prose: labels of values that may be wrapped; the others are meant to be copied.
    """
    shown = [(label, value) for label, value in fields if value is not None]
    width = max((len(label) for label, _ in shown), default=0)
    for label, value in shown:
        head = f"{indent}{label:<{width}}{_GAP}"
        if label in prose:
            print_prose(value, head, " " * len(head))
        else:
            click.echo(head + printable(value))


def print_prose(text: str, first: str = "", indent: str | None = None) -> None:
    """Print a paragraph wrapped to the terminal, at most 100 columns; on one line if there is no terminal.

    first: prefix of the first line. indent: prefix of the other lines; None for the same.
    """
    room = terminal_width()
    if room is None:
        click.echo(first + printable(text))
        return
    click.echo(
        textwrap.fill(
            printable(text),
            min(room, 100),
            initial_indent=first,
            subsequent_indent=first if indent is None else indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def ago(then: float | None, now: float) -> str:
    """Return the time from `then` to `now`, in Unix seconds, as words: "just now", "3 days ago"; None is "never"."""
    if then is None:
        return "never"
    seconds = now - then
    if seconds < 60:  # negative if the clock was set back
        return "just now"
    for unit, length in _UNITS:
        if seconds >= length:
            count = int(seconds / length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    raise AssertionError("a minute is the smallest unit")


_UNITS = (("year", 365 * 86400), ("month", 30 * 86400), ("week", 7 * 86400), ("day", 86400), ("hour", 3600), ("minute", 60))


def short_duration(seconds: float) -> str:
    """Return a duration in one unit, rounded down: "45 s", "12 min", "5 h", "3 d"."""
    for unit, length, until in (("s", 1, 100), ("min", 60, 100 * 60), ("h", 3600, 48 * 3600)):
        if seconds < until:
            return f"{int(max(seconds, 0) / length)} {unit}"
    return f"{int(seconds / 86400)} d"


def iso_time(then: float | None) -> str | None:
    """Return Unix seconds as ISO 8601 in UTC, for JSON."""
    if then is None:
        return None
    return datetime.datetime.fromtimestamp(then, datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
