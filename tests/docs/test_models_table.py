"""The table of models in docs/models.md is made from the catalogue.

Run as a script, `python -m tests.docs.test_models_table`, this module rewrites it.
"""

from __future__ import annotations

from pathlib import Path

from edgeembed.hub.catalogue import CatalogueEntry, catalogue
from edgeembed.hub.file_sizes import size_of

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- models: begin -->", "<!-- models: end -->"
_LICENCES = {"LicenseRef-Gemma": "Gemma terms", "LicenseRef-NSCLv1": "NVIDIA, non-commercial"}
_LANGUAGES = {"en": "English", "zh": "Chinese"}


def table() -> str:
    """Return the table in Markdown, embedders first, each kind from small to large."""
    titles = ("name", "good for", "size", "dimensions", "texts up to¹", "languages", "licence")
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    entries = sorted(
        catalogue().values(), key=lambda entry: (entry.task, size_of(entry, entry.default_type) or 0, entry.name)
    )
    return "\n".join([*lines, *map(_row, entries)])


def _row(entry: CatalogueEntry) -> str:
    size = size_of(entry, entry.default_type) or 0
    cells = [
        f"`{entry.name}`",
        entry.purpose,
        f"{size / 1e6:,.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB",
        "scores" if entry.task == "rerank" else _dimensions(entry),
        f"{entry.max_seq_length or entry.context_tokens:,} tokens",
        ", ".join(_LANGUAGES.get(language, language) for language in entry.languages),
        _LICENCES.get(entry.license, entry.license),
    ]
    return f"| {' | '.join(cells)} |"


def _dimensions(entry: CatalogueEntry) -> str:
    cut = entry.matryoshka
    if cut is None:
        return entry.vectors
    return cut.describe() if cut.lengths else f"{entry.dimensions}, any from {cut.min}"


def _parts() -> tuple[str, str, str]:
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    old, _, tail = rest.partition(END)
    return head, old, tail


def test_the_table_is_that_of_the_catalogue() -> None:
    assert _parts()[1].strip() == table(), "run: python -m tests.docs.test_models_table"


if __name__ == "__main__":
    head, _, tail = _parts()
    PAGE.write_text(f"{head}{BEGIN}\n{table()}\n{END}{tail}", encoding="utf-8")
