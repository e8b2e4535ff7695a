"""The table "Where is what" in docs/contributing.md: each file exists and holds what the table says to look for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "contributing.md"
LEAST_QUESTIONS = 10


def _rows() -> list[tuple[str, list[Path], list[str]]]:
    """Return, for each question, the files of its answer and the words to look for in them."""
    section = PAGE.read_text(encoding="utf-8").partition("## Where is what\n")[2].partition("\n## ")[0]
    rows = []
    for line in section.splitlines()[3:]:
        question, files, words = (cell.strip() for cell in line.strip("| ").split("|"))
        paths = [(PAGE.parent / link).resolve() for link in re.findall(r"\]\(([^)#]+)", files)]
        rows.append((question, paths, re.findall(r"`([^`]+)`", words) or [words]))
    return rows


def test_there_are_enough_questions() -> None:
    assert len(_rows()) >= LEAST_QUESTIONS


@pytest.mark.parametrize("row", _rows(), ids=lambda row: row[0])
def test_the_answer_is_where_the_table_says(row: tuple[str, list[Path], list[str]]) -> None:
    _, paths, words = row
    assert paths
    texts = [path.read_text(encoding="utf-8") for path in paths]
    missing = [word for word in words if not any(word in text for text in texts)]
    assert not missing, f"not in {', '.join(path.name for path in paths)}: correct the table in {PAGE.name}"
