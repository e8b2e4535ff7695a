"""The lines of `edgeembed pull --json`."""

from __future__ import annotations

import json

import pytest

from edgeembed.common import pull_lines
from edgeembed.common.progress import Progress
from edgeembed.common.pull_lines import PullLines


def test_steps_are_printed_now_and_then_and_always_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []
    monkeypatch.setattr(pull_lines, "STEP_SECONDS", 3600.0)
    lines = PullLines(printed.append)
    with Progress(lines, "tiny.gguf") as progress:
        progress.begin(10, 100)
        for done in (20, 30, 100):
            progress.update(done, 100)
        progress.say("tiny.gguf: done")
    with Progress(lines, "converting") as progress:
        progress.update(1, 2)
    lines("a line\nof two")
    assert [json.loads(line) for line in printed] == [
        {"what": "tiny.gguf", "done": 10, "total": 100},
        {"what": "tiny.gguf", "done": 100, "total": 100},
        {"message": "tiny.gguf: done"},
        {"what": "converting", "done": 1, "total": 2},
        {"message": "a line\nof two"},
    ]
    assert not [line for line in printed if "\n" in line]
