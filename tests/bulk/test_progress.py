"""The progress of a job on a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from edgeembed.bulk import progress
from edgeembed.bulk.progress import JobProgress


def test_a_line_does_not_join_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    with JobProgress(lambda line: print(line, file=sys.stderr)) as shown:
        shown.begin(0, 0, 100)
        shown.note("embedding with tiny")
    before, _ = terminal.getvalue().split("embedding with tiny\n")
    assert "embedding: " in before
    assert before.endswith("\r") and not before.rstrip("\r").rpartition("\r")[2].strip(), "the bar is wiped out first"
