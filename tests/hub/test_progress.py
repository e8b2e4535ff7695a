"""Progress where nobody watches: a few plain lines, and none for what is done at once."""

from __future__ import annotations

import pytest

from edgeembed.hub import progress as progress_module
from edgeembed.hub.progress import Progress, bar_class, human_size
from tests.hub.conftest import Lines


@pytest.fixture(autouse=True)
def nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "on_terminal", lambda: False)


def test_plain_lines_every_ten_per_cent(report: Lines, capfd: pytest.CaptureFixture[str]) -> None:
    with bar_class(report, "x.gguf")(total=1000, unit="B", mininterval=0, desc="https://signed.example/?long") as bar:
        for _ in range(100):
            bar.update(10)
    assert report.said == [f"x.gguf: {tenth}0 % of 1.0 kB" for tenth in range(1, 11)]
    assert capfd.readouterr() == ("", "")


def test_a_count_of_files_is_not_reported(report: Lines) -> None:
    with bar_class(report)(total=3, unit="it", mininterval=0) as bar:
        bar.update(3)
    assert report.said == []


def test_what_is_done_at_once_says_nothing(report: Lines) -> None:
    with Progress(report, "checking") as progress:
        progress.update(5, 10)
        progress.update(10, 10)
    assert report.said == []


@pytest.mark.parametrize(("size", "text"), [(999, "999 B"), (1000, "1.0 kB"), (639_150_592, "639.2 MB"), (4.2e9, "4.20 GB")])
def test_human_size(size: float, text: str) -> None:
    assert human_size(size) == text
