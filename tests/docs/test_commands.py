"""What README and docs tell people to type and to read is there: commands, options, routes, settings, files, links."""

from __future__ import annotations

import ast
import importlib
import json
import re
import tomllib
from pathlib import Path

import click
import msgspec
import pytest

from edgeembed.cli.main import cli
from edgeembed.config.paths import CACHE_VARIABLE, HOME_VARIABLE
from edgeembed.config.settings import Settings
from edgeembed.server.ops.openapi import served
from tests.docs.pages import PAGES, ROOT, Block, Command, blocks, commands, prose
from tests.server.dialect_requests import daemon

PLACEHOLDER = re.compile(r"[A-Z][A-Z_:]*|…|\.\.\.|.*[…<].*")
"""A word that stands for the reader's own: MODEL, NAME:TYPE, …"""
ELSEWHERE: set[str] = set()
"""Variables that are no settings."""
METHODS = ("GET", "POST", "PUT", "DELETE")
FOLDERS = ("edgeembed", "tests", "docs", "installers", "convert", "models", ".ci")


def edgeembed_arguments(command: Command) -> list[str] | None:
    """Return the arguments of `edgeembed`, however it is started; None for another program."""
    words = list(command.words)
    if words[:2] == ["uv", "run"] or words[:1] == ["docker"]:
        words = words[words.index("edgeembed") :] if "edgeembed" in words[2:] else words
    if words[:3] in (["python", "-m", "edgeembed"], ["python3", "-m", "edgeembed"]):
        words = words[2:]
    return words[1:] if words[0] == "edgeembed" or words[0].endswith("/edgeembed") else None


OURS = [command for command in commands() if edgeembed_arguments(command) is not None]


def parse(command: click.Command, arguments: list[str], parent: click.Context | None, name: str) -> None:
    """Parse a command line as far as its options, choices and number of arguments; files need not exist.

    Raises:
        click.UsageError: it is not a command line of ours.
    """
    context = command.context_class(command, info_name=name, parent=parent, **command.context_settings)
    if isinstance(command, click.Group):
        rest = command.make_parser(context)
        rest.allow_interspersed_args = False
        options, words, _ = rest.parse_args(arguments)
        if not words or options.get("help") or options.get("version"):
            return
        found = command.get_command(context, words[0])
        if found is None:
            raise click.UsageError(f"no such command {words[0]!r}", context)
        parse(found, words[1:], context, words[0])
        return
    values, left, _ = command.make_parser(context).parse_args(arguments)
    if left := [word for word in left if word != "…"]:
        raise click.UsageError(f"unexpected argument {left[0]!r}", context)
    for parameter in command.params:
        value = values.get(parameter.name or "")
        given = value if isinstance(value, (list, tuple)) else [value] if isinstance(value, str) else []
        if isinstance(parameter.type, click.Choice):
            for each in given:
                if not PLACEHOLDER.fullmatch(each):
                    parameter.type.convert(each, parameter, context)


@pytest.mark.parametrize("command", OURS, ids=str)
def test_a_command_line_of_ours_parses(command: Command) -> None:
    arguments = edgeembed_arguments(command)
    assert arguments is not None
    parse(cli, [word.strip("[]") for word in arguments], None, "edgeembed")


def test_a_wrong_command_line_is_noticed() -> None:
    for line in ("sevre", "serve --prot 1", "serve --log-level loud", "config set port 1 2", "bench --url"):
        with pytest.raises(click.UsageError):
            parse(cli, line.split(), None, "edgeembed")


def test_the_pages_have_commands() -> None:
    assert len(OURS) > 30 and len(blocks("python")) >= 3


@pytest.mark.parametrize("command", [each for each in commands() if each not in OURS], ids=str)
def test_modules_and_files_that_a_command_names_are_there(command: Command) -> None:
    words = list(command.words)
    if "-m" in words[:-1] and words[words.index("-m") - 1].startswith("python"):
        module = Path(*words[words.index("-m") + 1].split("."))
        if module.parts[0] in FOLDERS:
            assert (ROOT / module).with_suffix(".py").exists() or (ROOT / module / "__main__.py").exists()
    for word in words:
        path, _, inside = word.partition("::")
        if path.removeprefix("./").split("/")[0] in FOLDERS and "/" in path and not PLACEHOLDER.fullmatch(path):
            assert list(ROOT.glob(path.removeprefix("./"))), f"there is no {path}"
            assert not inside or f"def {inside}(" in (ROOT / path).read_text(encoding="utf-8")


# --- routes -----------------------------------------------------------------------------------------------------------


def routes() -> set[tuple[str, str]]:
    """Return method and path of every route of the daemon, those of its owner and of the proxy among them."""
    return set(served(daemon().app))


def is_served(method: str, path: str) -> bool:
    path = path.rstrip("/") or "/"
    return any(
        method in (known, "HEAD") and re.fullmatch(re.sub(r"\{[^}]*\}", "[^/]+", pattern), path)
        for known, pattern in routes()
    )


def curls() -> list[tuple[str, str, str]]:
    """Return place, method and path of each curl of the daemon on this machine."""
    found = []
    for command in commands():
        if command.words[0] != "curl":
            continue
        data = any(re.match(r"-d|--data|--json|-F|-T", word) for word in command.words)
        method = command.words[command.words.index("-X") + 1] if "-X" in command.words else "POST" if data else "GET"
        for word in command.words:
            if url := re.fullmatch(r"https?://(?:127\.0\.0\.1|localhost)(?::(?:8327|\d+))?(/[^?#]*)?(?:\?.*)?", word):
                found.append((command.place, method, url[1] or "/"))
    return found


@pytest.mark.parametrize(("place", "method", "path"), curls())
def test_curl_asks_for_a_route_that_is_served(place: str, method: str, path: str) -> None:
    assert is_served(method, path), f"{place}: {method} {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_routes_that_a_page_names_are_served(page: Path) -> None:
    named = re.findall(rf"`({'|'.join(METHODS)}) (/[^\s`?]*)[^`]*`", prose(page))
    assert not [f"{method} {path}" for method, path in named if not is_served(method, path)]


# --- code and settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks("python", "py"), ids=lambda block: block.place)
def test_python_compiles_and_what_it_imports_of_ours_exists(block: Block) -> None:
    tree = ast.parse(block.text)
    compile(tree, block.place, "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "edgeembed":
            module = importlib.import_module(node.module or "")
            assert not [alias.name for alias in node.names if not hasattr(module, alias.name)]


@pytest.mark.parametrize("block", blocks("toml"), ids=lambda block: block.place)
def test_toml_is_toml_and_a_configuration_has_settings_only(block: Block) -> None:
    content = tomllib.loads(block.text)
    if "config.toml" in block.text:
        msgspec.convert(content, Settings)


def test_json_is_json() -> None:
    for block in blocks("json"):
        if "…" not in block.text:
            json.loads(block.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_variables_that_a_page_names_are_settings(page: Path) -> None:
    named = set(re.findall(r"\bEDGEEMBED_[A-Z_]*[A-Z]\b", page.read_text(encoding="utf-8")))
    known = {f"EDGEEMBED_{field.name.upper()}" for field in msgspec.structs.fields(Settings)} | {
        HOME_VARIABLE,
        CACHE_VARIABLE,
    }
    assert not named - known - ELSEWHERE


# --- links ------------------------------------------------------------------------------------------------------------


def slugs(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", "")).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in slugs(target)):
            missing.append(link)
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(rf"`((?:\./)?(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./*-]*)`", prose(page))
    assert not [name for name in named if not list(ROOT.glob(name.removeprefix("./").rstrip("/")))]
