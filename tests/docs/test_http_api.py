"""The tables in docs/http-api.md name the fields and error codes of the code."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from edgeembed import errors
from edgeembed.server.dialects.embeddings_body import EmbeddingsBody
from edgeembed.server.dialects.rerank import RerankBody
from edgeembed.server.ops.operations import OPERATIONS

PAGE = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text(encoding="utf-8")
IGNORED = {"user"}
"""Fields that are accepted without an effect of their own."""


def _first_cells(heading: str) -> list[str]:
    """Return the first cell of each row of the first table below a heading."""
    section = re.split(r"\n## ", PAGE.partition(f"## {heading}\n")[2])[0]
    table = next(part for part in section.strip().split("\n\n") if part.startswith("|"))
    return [line.split("|")[1] for line in table.splitlines()[2:]]


def _words(cells: list[str]) -> set[str]:
    return {word for cell in cells for word in re.findall(r"`(\w+)`", cell)}


def _fields(body: type[msgspec.Struct]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(body)} - IGNORED


def test_every_field_of_an_embeddings_request_is_explained() -> None:
    assert _words(_first_cells("Embeddings")) == _fields(EmbeddingsBody)


def test_every_field_of_a_rerank_request_is_explained() -> None:
    assert _words(_first_cells("Reranking")) == _fields(RerankBody)


def test_every_error_code_is_explained_with_its_status() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \| ([^|]*) \|", PAGE.partition("## Errors\n")[2], re.MULTILINE)
    explained = {(status, code) for statuses, codes in rows for status in statuses.split(", ") for code in _words([codes])}
    classes = [getattr(errors, name) for name in errors.__all__]
    expected = {(str(kind.status), kind.code) for kind in classes if "code" in vars(kind) and kind.code}
    assert expected <= explained


def test_every_administration_route_is_explained() -> None:
    explained = " ".join(_first_cells("Administration"))
    paths = {path for _, path in OPERATIONS if path.startswith("/v1/admin")}
    assert all(path.removeprefix("/v1/admin") in explained for path in paths)
