"""Reads the recorded requests of programs, as cases of `tests.published`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from tests.clients.examples import WRITTEN
from tests.published.cases import MODEL, Ask, Case, differs, post

FOLDER = Path(__file__).parent
REFERENCE = post("/v1/embeddings", model=MODEL, input=["first text", "second text"])


@dataclass(frozen=True)
class Provider:
    """A service that a program can be pointed at. value: the address that goes into the program's `field`."""

    names: tuple[str, ...]
    field: str
    value: str
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Program:
    """A program with its recorded requests."""

    name: str
    repository: str
    commit: str
    providers: tuple[Provider, ...]

    @property
    def cases(self) -> list[Case]:
        """The cases of all providers."""
        return [case for provider in self.providers for case in provider.cases]


def programs() -> list[Program]:
    """Return the programs of all files, by name.

    Raises:
        ValueError: a file is not as the package's docstring says.
    """
    found = [_program(file) for file in FOLDER.glob("*.toml")]
    return sorted(found, key=lambda program: program.name.lower())


def _program(file: Path) -> Program:
    data = tomllib.loads(file.read_text(encoding="utf-8"))
    try:
        providers = tuple(_provider(each) for each in data.pop("provider"))
        return Program(**data, providers=providers)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file.name}: {error!r}") from error


def _provider(data: Mapping[str, Any]) -> Provider:
    join, headers = data.get("join", "append"), data.get("headers", {})
    cases = []
    for request in data["request"]:
        method, _, path = request["send"].partition(" ")
        ask = Ask(
            method,
            address(data["value"], path, join).removeprefix(WRITTEN) or "/",
            json.dumps(json.loads(request["body"])).encode() if "body" in request else None,
            {**headers, **request.get("headers", {})},
        )
        difference = differs(request["differs"], *request.get("instead", ())) if "differs" in request else None
        name = f"{', '.join(data['names'])} | {request['what']}"
        cases.append(Case(name, (ask, REFERENCE), tuple(request["holds"]), difference))
    return Provider(tuple(data["names"]), data["field"], data["value"], tuple(cases))


def address(value: str, path: str, join: str) -> str:
    """Return the address that a program makes of a setting and a path.

    join: "append", or "resolve": as `new URL(path, value)` does in JavaScript.

    Raises:
        ValueError: another join, or an address that the docs do not have.
    """
    match join:
        case "append":
            made = value + path
        case "resolve":
            made = urljoin(value, path)
        case _:
            raise ValueError(f"join {join!r}: expected append or resolve")
    if not made.startswith(WRITTEN):
        raise ValueError(f"address {made!r}: expected {WRITTEN}…")
    return made
