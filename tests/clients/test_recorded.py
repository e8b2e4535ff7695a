"""Recorded requests of editors and apps: each gets the answer that its program reads, and the docs say what to fill in."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeembed.server.paths import ALTERNATIVES
from tests.clients.examples import ROOT
from tests.clients.recorded.programs import Program, address, programs
from tests.published.run import FAILS, daemons, run_case, summary

CLIENTS_PAGE = ROOT / "docs" / "clients.md"

PROGRAMS = programs()
SECTION = "\n## Editors and apps\n"


def section(name: str) -> str:
    """Return what the page says about a program, in one line."""
    _, _, rest = CLIENTS_PAGE.read_text(encoding="utf-8").partition(SECTION)
    found = re.search(rf"^### {re.escape(name)}\n(.*?)^##", rest, re.DOTALL | re.MULTILINE)
    assert found, f"{CLIENTS_PAGE.name} has no section {name}"
    return " ".join(found[1].split())


@pytest.mark.slow
def test_each_program_gets_what_it_reads(home: Path, minilm: Callable[[str], Path]) -> None:
    with daemons(home, minilm("Q8_0"), kinds=[False]) as urls:
        results = [(program.name, run_case(urls, case)) for program in PROGRAMS for case in program.cases]
    failed = [f"{name}: {summary(result)}" for name, result in results if result.verdict == FAILS]
    assert not failed, "\n".join([f"{len(failed)} requests", *failed])


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_the_page_gives_each_field_its_value(program: Program) -> None:
    text = section(program.name)
    for provider in program.providers:
        for name in provider.names:
            assert name in text, f"{program.name}: {name}"
        if provider.field:
            filled = re.search(rf"`{re.escape(provider.field)}`[^:]*: `{re.escape(provider.value)}`", text)
            assert filled, f"{program.name}: `{provider.field}`: `{provider.value}`"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_the_test_of_a_program_names_routes_that_it_uses(program: Program) -> None:
    _, _, told = section(program.name).partition("Test: ")
    routes = re.findall(r"`(/[a-z0-9/]+)`", told)
    used = {ALTERNATIVES.get(path, path) for case in program.cases for path in [case.asks[0].path]}
    assert routes and set(routes) <= used, f"{program.name}: {sorted(set(routes) - used)} not in {sorted(used)}"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_the_page_says_what_does_not_work(program: Program) -> None:
    _, _, table = CLIENTS_PAGE.read_text(encoding="utf-8").partition("\n## What does not work\n")
    for case in program.cases:
        if case.differs:
            assert any(program.name in line and case.differs.reason in line for line in table.splitlines()), case.test


def test_each_section_is_of_a_program() -> None:
    _, _, rest = CLIENTS_PAGE.read_text(encoding="utf-8").partition(SECTION)
    names = set(re.findall(r"^### (.+)$", rest.partition("\n## ")[0], re.MULTILINE))
    assert names - {"Programs without embeddings of their own"} == {program.name for program in PROGRAMS}


@pytest.mark.parametrize(
    ("value", "path", "join", "made"),
    [
        ("http://127.0.0.1:8327/v1", "/embeddings", "append", "http://127.0.0.1:8327/v1/embeddings"),
        ("http://127.0.0.1:8327/v1/", "embed", "resolve", "http://127.0.0.1:8327/v1/embed"),
        ("http://127.0.0.1:8327/v1", "embed", "resolve", "http://127.0.0.1:8327/embed"),
        ("http://127.0.0.1:8327", "/api/embed", "resolve", "http://127.0.0.1:8327/api/embed"),
    ],
)
def test_addresses_as_programs_make_them(value: str, path: str, join: str, made: str) -> None:
    assert address(value, path, join) == made


def test_an_address_of_elsewhere_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected http"):
        address("http://example.org", "/v1", "append")
