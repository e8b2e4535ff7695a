"""Why a daemon ended, and the end of a log file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeembed.background.end_reason import reason_in
from edgeembed.background.log_file import follow, last_lines

INFO = "2026-05-04 12:00:00 INFO    edgeembed.daemon: hello"
ERROR = "2026-05-04 12:00:00 ERROR   edgeembed.server.app: the disk is full"


@pytest.mark.parametrize(
    ("lines", "status", "says"),
    [
        ([INFO, "error: no model is named 'x'"], 2, "no model is named 'x'"),
        ([INFO, ERROR, INFO], None, "the disk is full"),
        ([ERROR, "stopping: requests in flight are finished first"], 0, None),
        ([INFO], None, None),
        ([INFO], 1, "exit status 1"),
        ([INFO], -9, "ended by signal 9 (SIGKILL)"),
        ([ERROR], -11, "ended by signal 11 (SIGSEGV), after: the disk is full"),
        ([], 0, None),
    ],
)
def test_the_reason_of_an_end(lines: list[str], status: int | None, says: str | None) -> None:
    assert reason_in(lines, status) == says


def test_last_lines(tmp_path: Path) -> None:
    file = tmp_path / "daemon.log"
    assert last_lines(file, 3) == []
    file.write_text("".join(f"line {number} {'x' * 1000}\n" for number in range(1000)))
    assert [line.split()[1] for line in last_lines(file, 3)] == ["997", "998", "999"]
    assert len(last_lines(file, 5000)) == 1000 and last_lines(file, 0) == []
    began = file.stat().st_size
    with file.open("a") as opened:
        opened.write("new\nhalf a line")
    assert last_lines(file, 9, begin=began) == ["new", "half a line"]


def test_follow_goes_on_in_the_new_file_after_a_rotation(tmp_path: Path) -> None:
    file = tmp_path / "daemon.log"
    file.write_text("one\ntwo\n")

    def steps() -> Iterator[None]:
        with file.open("a") as opened:
            opened.write("thr")
        yield
        with file.open("a") as opened:
            opened.write("ee\nfour\n")
        yield
        file.replace(tmp_path / "daemon.log.1")
        yield
        file.write_text("five\n")
        yield
        file.write_text("")
        yield
        file.write_text("six\n")
        yield

    todo = steps()
    lines = follow(file, 1, pause=lambda: next(todo))
    assert [next(lines) for _ in range(5)] == ["two", "three", "four", "five", "six"]
