"""Progress without a terminal: a few plain lines, and none for short work."""

from __future__ import annotations

import pytest

from edgeembed.common import progress as progress_module
from edgeembed.common.progress import Progress, human_size, human_time
from tests.fakes import Lines


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "on_terminal", lambda: False)


@pytest.fixture
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "_SHORT", 1e-9)
    monkeypatch.setattr(progress_module, "_OFTEN", 0.0)


@pytest.mark.usefixtures("no_delay")
def test_plain_lines_every_ten_per_cent(report: Lines, capfd: pytest.CaptureFixture[str]) -> None:
    with Progress(report, "x.gguf") as progress:
        for done in range(10, 1010, 10):
            progress.update(done, 1000)
    assert [line.partition(",")[0] for line in report.said] == [f"x.gguf: {tenth}0 % of 1.0 kB" for tenth in range(1, 11)]
    assert all(line.endswith("B/s, 0 s left") for line in report.said[:-1])
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("no_delay")
def test_resumed_work_does_not_repeat_lines(report: Lines) -> None:
    with Progress(report, "x.gguf") as progress:
        progress.begin(550, 1000)
        progress.update(575, 1000)
        progress.update(600, 1000)
    assert [line.partition(",")[0] for line in report.said] == ["x.gguf: 60 % of 1.0 kB"]


@pytest.mark.usefixtures("no_delay")
def test_a_count_of_texts_is_not_reported(report: Lines) -> None:
    with Progress(report, "texts", unit="text") as progress:
        progress.update(3, 3)
    assert report.said == []


def test_short_work_prints_nothing(report: Lines) -> None:
    with Progress(report, "checking") as progress:
        progress.update(5, 10)
        progress.update(10, 10)
    assert report.said == []


@pytest.mark.parametrize(("size", "text"), [(999, "999 B"), (1000, "1.0 kB"), (639_150_592, "639.2 MB"), (4.2e9, "4.20 GB")])
def test_human_size(size: float, text: str) -> None:
    assert human_size(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (75, "1 min 15 s"), (1234, "20 min"), (5000, "1 h 23 min")])
def test_human_time(seconds: float, text: str) -> None:
    assert human_time(seconds) == text
