"""Tables, fields and times for people."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest

from edgeembed.cli import printing
from edgeembed.cli.printing import ago, iso_time, print_fields, print_prose, print_table, short_duration
from edgeembed.common.log_content import printable

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-10, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (2 * HOUR - 1, "1 hour ago"),
        (3 * DAY, "3 days ago"),
        (13 * DAY, "1 week ago"),
        (100 * DAY, "3 months ago"),
        (800 * DAY, "2 years ago"),
    ],
)
def test_how_long_ago(seconds: float, said: str) -> None:
    assert ago(1_000_000_000 - seconds, 1_000_000_000) == said


def test_never() -> None:
    assert ago(None, 1.0) == "never"
    assert iso_time(None) is None
    assert iso_time(1_700_000_000.9) == "2023-11-14T22:13:20Z"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0 s"), (99.9, "99 s"), (100, "1 min"), (99 * MINUTE, "99 min"), (47 * HOUR, "47 h"), (49 * HOUR, "2 d")],
)
def test_short_durations(seconds: float, said: str) -> None:
    assert short_duration(seconds) == said


def test_a_text_from_a_file_cannot_control_the_terminal() -> None:
    assert printable("a\nb\x1b[31m\u202e ü 漢") == "a\\nb\\x1b[31m\\u202e ü 漢"


ROWS = [("qwen3-embedding-0.6b", "639.2 MB", "Apache-2.0", "3 days ago"), ("mine", "9 B", "MIT", "never")]
TITLES = ("NAME", "SIZE", "LICENCE", "LAST USED")


def table(capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_table(TITLES, ROWS, right=("SIZE",), spare=("LICENCE", "LAST USED"))
    return capsys.readouterr().out.splitlines()


def test_a_pipe_gets_every_column(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")  # some shells export it, but a pipe has no width
    assert table(capsys) == [
        "NAME                      SIZE  LICENCE     LAST USED",
        "qwen3-embedding-0.6b  639.2 MB  Apache-2.0  3 days ago",
        "mine                       9 B  MIT         never",
    ]


def test_a_narrow_terminal_moves_columns_below(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(printing, "terminal_width", lambda: 36)
    print_table(TITLES, ROWS, right=("SIZE",), spare=("LICENCE",), below=("LAST USED",))
    assert capsys.readouterr().out.splitlines()[1:5] == [
        "  LAST USED",
        "qwen3-embedding-0.6b  639.2 MB",
        "  3 days ago",
        "mine                       9 B",
    ]


@pytest.mark.parametrize(
    ("columns", "first", "last"),
    [
        (54, "NAME                      SIZE  LICENCE     LAST USED", "mine                       9 B  MIT         never"),
        (53, "NAME                      SIZE  LAST USED", "(hidden: LICENCE; use --json to see everything)"),
        (41, "NAME                      SIZE", "(hidden: LICENCE, LAST USED; use --json to see everything)"),
        (10, "NAME                      SIZE", "(hidden: LICENCE, LAST USED; use --json to see everything)"),
    ],
)
def test_a_narrow_terminal_hides_columns(
    columns: int, first: str, last: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printing, "terminal_width", lambda: columns)
    shown = table(capsys)
    assert (shown[0], shown[-1]) == (first, last)


def test_a_table_without_titles(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("", ""), [("a", "1"), ("bbb", "2")], indent="  ")
    assert capsys.readouterr().out == "  a    1\n  bbb  2\n"


def test_prose_is_wrapped_and_values_to_copy_are_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printing, "terminal_width", lambda: 30)
    print_fields([("path", "/a folder/with a long name/file"), ("nothing", None), ("types", "F32, F16, BF16, Q8_0")], " ")
    print_fields([("types", "F32, F16, BF16, Q8_0, Q6_K")], " ", prose=("types",))
    assert capsys.readouterr().out == (
        " path   /a folder/with a long name/file\n types  F32, F16, BF16, Q8_0\n"
        " types  F32, F16, BF16, Q8_0,\n        Q6_K\n"
    )
    print_prose("one two three four five six seven", "- ", "  ")
    assert capsys.readouterr().out == "- one two three four five six\n  seven\n"


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals of POSIX")
def test_the_width_of_the_terminal_is_used() -> None:
    from tests.cli.helpers import install, on_terminal

    install("alpha", "F16")
    assert "LICENCE" in on_terminal("list", columns=80)[1].splitlines()[0]
    status, shown = on_terminal("list", columns=40)
    assert status == 0
    assert max(map(len, shown.splitlines()[:2])) <= 40
    assert "hidden: LICENCE" in shown


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="POSIX: no /dev/full")
def test_a_line_that_cannot_be_written_does_not_end_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full").open("w", encoding="utf-8")  # noqa: SIM115 - closing it fails
    monkeypatch.setattr(sys, "stderr", full)
    printing.to_stderr("the disk of the log is full")
    with contextlib.suppress(OSError):  # it writes what is in its buffer
        full.close()


def test_json_is_plain_json(capsys: pytest.CaptureFixture[str]) -> None:
    printing.print_json([{"a": None}])
    assert capsys.readouterr().out == '[\n  {\n    "a": null\n  }\n]\n'
