"""The table of forms in docs/models.md is made from the zoo.

Run as a script, `python -m tests.docs.test_zoo_table`, this module converts every form, and rewrites the table.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from tests.convert.zoo import FORMS, Form

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- forms: begin -->", "<!-- forms: end -->"
TITLES = ("models", "class", "architecture", "pooling", "converts", "least cosine at F32", "token ids", "F16 as llama.cpp's")


def first_cells(form: Form) -> list[str]:
    """Return the cells that need no conversion."""
    return [", ".join(form.models), f"`{form.model_class}`"]


def row(form: Form) -> str:
    """Convert a form, and return its row in Markdown."""
    from tests.convert.zoo.measure import compare, tensors_unlike_llama_cpp

    if form.refused is not None:
        cells = [*first_cells(form), "", form.pooling if form.pooling != "none" else "", "refused", "", "", ""]
        return f"| {' | '.join(cells)} |"
    with tempfile.TemporaryDirectory() as folder:
        found = compare(form, Path(folder) / "rows")
        differences = tensors_unlike_llama_cpp(form, Path(folder) / "tensors")
    scores = form.pooling == "rank"
    differs = scores or form.outputs == ("sparse",)
    cells = [
        *first_cells(form),
        found.conversion.architecture,
        "scores" if scores else _outputs(form),
        "yes",
        f"within {found.largest_difference:.0e}" if differs else f"{math.floor(found.least_cosine * 1e6) / 1e6:.6f}",
        "not equal" if found.other_ids else "equal",
        "not known there" if differences is None else f"but for {len(differences)}" if differences else "equal",
    ]
    return f"| {' | '.join(cells)} |"


def _outputs(form: Form) -> str:
    """Return the pooling, and which outputs the model has besides: multi for a vector of each token, sparse."""
    others = [output for output in form.outputs if output != "dense"]
    return ", ".join([*([form.pooling] if "dense" in form.outputs else []), *others])


def table() -> str:
    """Return the table in Markdown."""
    return "\n".join([f"| {' | '.join(TITLES)} |", f"|{'---|' * len(TITLES)}", *map(row, FORMS)])


def _parts() -> tuple[str, str, str]:
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    old, _, tail = rest.partition(END)
    return head, old, tail


def test_the_table_has_the_forms_of_the_zoo() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in _parts()[1].strip().splitlines()[2:]]
    assert [cells[:2] for cells in rows] == [first_cells(form) for form in FORMS], "run: python -m tests.docs.test_zoo_table"
    for cells, form in zip(rows, FORMS, strict=True):
        if form.refused is None and form.pooling != "rank" and form.outputs != ("sparse",):
            assert float(cells[5]) >= form.least


def test_each_form_has_its_own_name() -> None:
    assert len({form.name for form in FORMS}) == len(FORMS)


if __name__ == "__main__":
    from edgeembed.engine.llama.library import send_log_to

    send_log_to(lambda line: None, verbose=False)
    head, _, tail = _parts()
    PAGE.write_text(f"{head}{BEGIN}\n{table()}\n{END}{tail}", encoding="utf-8")
