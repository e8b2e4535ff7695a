"""Names of classes, functions and settings that docs/ mentions are names of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, prose

NAME = re.compile(r"(?<![\w.])(?:[A-Z][a-z]+[A-Z]\w*|_?[a-z]+_[a-z_]+)(?![\w…])")
"""Names that cannot be English words: CamelCase and snake_case."""
METRIC = "edgeembed_"
"""How names of metrics begin, and of modules: `test_metrics_table` checks the former, `test_commands` the latter."""
SUFFIXES = (".py", ".toml", ".h", ".cpp")


@pytest.fixture(scope="module")
def words_of_the_code() -> set[str]:
    files = [path for name in ("edgeembed", "convert", "tests") for path in (ROOT / name).rglob("*")]
    texts = [path.read_text(encoding="utf-8") for path in files if path.suffix in SUFFIXES]
    return {word for text in texts for word in re.findall(r"\w+", text)} | {path.stem for path in files}


DOCS = [page for page in PAGES if page.parent.name == "docs" and page.name != "monitoring.md"]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_names_are_those_of_the_code(page: Path, words_of_the_code: set[str]) -> None:
    named = {name for code in re.findall(r"`([^`\n]+)`", prose(page)) for name in NAME.findall(code)}
    assert not {name for name in named - words_of_the_code if not name.startswith(METRIC)}


def test_functions_named_behind_a_link_are_in_that_file() -> None:
    page = ROOT / "docs" / "architecture.md"
    named = re.findall(r"\[[^\]]+\]\(([^)]+\.py)\) `(\w+)`", page.read_text(encoding="utf-8"))
    assert len(named) > 5
    missing = [
        f"{link} {name}"
        for link, name in named
        if not re.search(rf"\b(def|class) {name}\b", (page.parent / link).read_text(encoding="utf-8"))
    ]
    assert not missing
