"""The tables in docs/fields.md are made from the bodies of the routes and from `unsupported_fields`.

Run as a script, `python -m tests.docs.test_fields_table`, this module rewrites them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from edgeembed.server.ops.operations import OPERATIONS
from edgeembed.server.unsupported_fields import IGNORED, UNSUPPORTED

PAGE = Path(__file__).parents[2] / "docs" / "fields.md"
ROUTES = {
    "`/v1/embeddings`": ("/v1/embeddings", -1),
    "`/v2/embed`": ("/v2/embed", -1),
    "`/api/embed`": ("/api/embed", -1),
    "`/embed`": ("/embed", -1),
    "`/v1/rerank`": ("/v1/rerank", 0),
    "`/rerank` with `texts`": ("/rerank", -1),
    "`/score`": ("/score", -1),
}
"""The columns: a route of each dialect, and which of its bodies it is."""


def fields_table() -> str:
    """Return the table of fields by route, in Markdown."""
    lines = [f"| field | of | {' | '.join(ROUTES)} |", "|---|---|" + "---|" * len(ROUTES)]
    for name, field in UNSUPPORTED.items():
        refused = ", ".join(f"`{json.dumps(value)}`" for value in field.harmless) or "no"
        cells = ["yes" if name in _own_fields(*route) else refused for route in ROUTES.values()]
        lines.append(f"| `{name}` | {field.servers} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ignored_table() -> str:
    """Return the list of ignored fields, in Markdown."""
    return "\n".join(f"- `{name}`: {why}" for name, why in IGNORED.items())


def _own_fields(route: str, number: int) -> set[str]:
    body: Any = OPERATIONS["POST", route].body
    body = body[number] if isinstance(body, tuple) else body
    return {field.encode_name for field in msgspec.structs.fields(body)}


def _page() -> str:
    page = PAGE.read_text(encoding="utf-8")
    for mark, table in (("fields", fields_table()), ("ignored", ignored_table())):
        begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
        assert page.count(begin) == page.count(end) == 1
        page = re.sub(f"{begin}.*{end}", lambda _, new=f"{begin}\n{table}\n{end}": new, page, flags=re.DOTALL)  # type: ignore[misc]
    return page


def test_the_tables_of_fields_are_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == _page(), "run `python -m tests.docs.test_fields_table`"


if __name__ == "__main__":
    PAGE.write_text(_page(), encoding="utf-8")
