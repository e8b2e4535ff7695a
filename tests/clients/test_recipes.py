"""The dashboard's recipes say what docs/clients.md says, and their tests send what the programs were recorded to send."""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

import pytest

from edgeembed.server import dashboard
from tests.clients.examples import ROOT, WRITTEN
from tests.clients.recorded.programs import Program, programs

RECIPES = json.loads(resources.files(dashboard).joinpath("recipes.json").read_text(encoding="utf-8"))["recipes"]
RECORDED = {program.name: program for program in programs()}
NAMED_IN_THE_ISSUE = (
    *("Continue", "Roo Code", "Cline", "Zed", "Open WebUI", "AnythingLLM", "Smart Connections", "Copilot for Obsidian"),
    *("LibreChat", "Dify", "n8n", "LangChain", "LlamaIndex"),
)
TOOLS_OF = {"Cline": "mcpServers", "Zed": "context_servers", "Claude Code": "claude mcp add edgeembed"}
"""What programs that take tools call these."""
VALUES = {"root": WRITTEN, "base": f"{WRITTEN}/v1", "model": "all-minilm-l6-v2"}
each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe["program"])


def filled(part: Any) -> Any:
    """Return JSON with the docs' values in place of placeholders."""
    if isinstance(part, str):
        return re.sub(r"\{(\w+)\}", lambda found: VALUES.get(found[1], found[0]), part)
    if isinstance(part, list):
        return [filled(each) for each in part]
    if isinstance(part, dict):
        return {name: filled(value) for name, value in part.items()}
    return part


def section(slug: str) -> str:
    """Return the part of a page of docs/ below a heading, given as in a link; of clients.md where no page is named."""
    name, _, slug = slug.rpartition("#")
    page = (ROOT / "docs" / (name or "clients.md")).read_text(encoding="utf-8")
    for part in re.split(r"\n(?=##+ )", page):
        heading = part.partition("\n")[0].lstrip("#").strip()
        if re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") == slug:
            return part
    raise AssertionError(f"{name} has no heading {slug}")


def test_there_is_a_recipe_for_each_program() -> None:
    names = [recipe["program"] for recipe in RECIPES]
    assert len(set(names)) == len(names)
    assert set(NAMED_IN_THE_ISSUE) <= set(names) and set(RECORDED) <= set(names)


@each_recipe
def test_a_recipe_is_whole(recipe: dict[str, Any]) -> None:
    assert {"program", "kind", "docs", "where"} <= set(recipe)
    assert ("fields" in recipe) != ("code" in recipe)
    assert ("language" in recipe) == ("code" in recipe)
    assert ("test" in recipe) != recipe.get("tools", False), "tools ask the daemon by themselves"
    if "test" in recipe:
        assert [step for step in recipe["test"] if "vector" in step] == recipe["test"][-1:]
    written = json.dumps(recipe)
    known = {"root", "base", "port", "model", "key", "dimensions", "characters", "body", "bearer"}
    assert set(re.findall(r"\{(\w+)\}", written)) <= known


@each_recipe
def test_the_docs_say_the_same(recipe: dict[str, Any]) -> None:
    text = section(recipe["docs"])
    if recipe.get("tools"):
        assert recipe["program"] in text and TOOLS_OF[recipe["program"]] in "\n".join(recipe["code"])
        assert TOOLS_OF[recipe["program"]] in text
        return
    for name, value in recipe.get("fields", []):
        assert name in text or name == "Provider", f"{recipe['program']}: {name}"
        if "{" not in value or "{base}" in value or "{root}" in value:
            assert filled(value) in text, f"{recipe['program']}: {name}: {filled(value)}"
    for line in recipe.get("code", []):
        for word in re.findall(r"^\s*(?:- )?(\w+)(?:=|: | = )\{(?:base|root|model|key)\}", line):
            assert word in text, f"{recipe['program']}: {word}"


@pytest.mark.parametrize("program", RECORDED.values(), ids=lambda program: program.name)
def test_a_test_sends_what_the_program_sends(program: Program) -> None:
    [recipe] = [each for each in RECIPES if each["program"] == program.name]
    sent = [
        (ask.path, None if ask.content is None else sorted(json.loads(ask.content)))
        for case in program.cases
        for ask in case.asks[:1]
    ]
    for step in recipe["test"]:
        assert (f"/{step['path']}", sorted(step["body"]) if "body" in step else None) in sent, step
    addresses = [(name, filled(value)) for name, value in recipe.get("fields", []) if "{base}" in value or "{root}" in value]
    for entry in addresses:
        assert entry in [(provider.field, provider.value) for provider in program.providers]
