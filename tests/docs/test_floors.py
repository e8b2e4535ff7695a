"""The tables of rooms in docs/architecture.md are those of the import contracts in pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {"convert": "edgeembed_convert"}
"""Import names that differ from the folder's."""


def _contract(name: str) -> list[set[str]]:
    """Return the layers of a contract, the lowest first, each with the last parts of its packages' names."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["name"] == name]
    return [{part.strip().rpartition(".")[2] for part in layer.split("|")} for layer in reversed(layers)]


def _table(heading: str) -> list[set[str]]:
    """Return the floors of the table below a heading, the lowest first."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = re.split(r"\n##+ ", page.partition(f"{heading}\n")[2])[0]
    floors: dict[int, set[str]] = {}
    for number, cell in re.findall(r"^\| (\d+) \| ([^|]+) \|", section, re.MULTILINE):
        names = re.findall(r"\[([\w./]+)\]|`([\w.]+)`", cell)
        rooms = {(link or code).strip("/").removesuffix(".py") for link, code in names}
        floors.setdefault(int(number), set()).update(PACKAGES.get(room, room) for room in rooms)
    return [rooms for _, rooms in sorted(floors.items())]


def test_the_floors_are_those_of_the_contract() -> None:
    assert _table("## Rooms and floors") == _contract("rooms import from floors below")


def test_the_engines_floors_are_those_of_the_contract() -> None:
    assert _table("### Inside the engine") == _contract("the engine's own floors")
