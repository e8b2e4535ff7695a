"""A short run of `python -m tests.chaos`; docs/security.md has the figures of a long one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.run import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.skipif(sys.platform != "linux", reason="its faults are signals and mounts, not those of macOS or Windows"),
]

SECONDS = 60


def test_no_answer_is_wrong_and_no_request_fails_whatever_breaks(minilm: Callable[[str], Path]) -> None:
    lines: list[str] = []
    report = asyncio.run(run(minilm("Q8_0"), seconds=SECONDS, seed=1, clients=8, say=lines.append))
    shown = "\n".join([*lines, str(report)])
    print(shown)
    assert report.counts.answers > 100, shown
    assert report.counts.wrong == 0, shown
    assert not report.counts.failed, shown
    assert not report.not_survived, shown
    assert sum(report.survived.values()) >= 3, shown
    assert set(report.left_out) <= {"disk_full", "clock_moved"} <= set(FAULTS)
