"""The table of all settings in docs/configuration.md is made from `Settings`.

Run as a script, `python -m tests.docs.test_settings_table`, this module rewrites it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from edgeembed.config.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"


def table() -> str:
    """Return the table in Markdown: name, type with its bounds, default, description."""
    lines = ["| setting | type | default | |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(Settings):
        default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
        type_, meta = _parts(field.type)
        cells = [f"`{field.name}`", _kind(type_, meta), _shown(default), meta.description or ""]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _parts(annotated: Any) -> tuple[Any, msgspec.Meta]:
    assert get_origin(annotated) is Annotated
    type_, meta = get_args(annotated)
    options = [part for part in get_args(type_) if part is not type(None)]
    return (options[0] if len(options) == 1 and type(None) in get_args(type_) else type_), meta


def _kind(type_: Any, meta: msgspec.Meta) -> str:
    if get_origin(type_) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(type_))
    name = {bool: "boolean", int: "integer", float: "number", str: "text"}.get(type_)
    if name is None:
        return "table of texts" if get_origin(type_) is dict else "list of texts"
    least = f"≥ {meta.ge}" if meta.ge is not None else f"> {meta.gt}" if meta.gt is not None else ""
    most = f"≤ {meta.le}" if meta.le is not None else ""
    return ", ".join(part for part in (name, least, most) if part)


def _shown(default: Any) -> str:
    match default:
        case None | () | {}:
            return ""
        case bool():
            return str(default).lower()
        case tuple():
            return ", ".join(f"`{each}`" for each in default)
        case str():
            return f"`{default}`"
        case _:
            return f"{default:,}" if isinstance(default, int) and default >= 10_000 else f"{default:g}"


def _page_with(new: str) -> str:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
    return re.sub(f"{BEGIN}.*{END}", lambda _found: f"{BEGIN}\n{new}\n{END}", page, flags=re.DOTALL)


def test_the_table_of_settings_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == _page_with(table()), (
        "a setting was changed: run `python -m tests.docs.test_settings_table`, which rewrites docs/configuration.md"
    )


if __name__ == "__main__":
    PAGE.write_text(_page_with(table()), encoding="utf-8")
