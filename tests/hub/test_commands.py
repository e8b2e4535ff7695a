"""The commands pull, list and show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click import Command
from click.testing import CliRunner

from edgeembed.cli.models import list_models, show
from edgeembed.cli.pull import pull
from edgeembed.config import Paths
from edgeembed.errors import HubError, UnknownModelError
from edgeembed.hub.catalogue import DEFAULT_MODEL, STARTER_MODEL
from edgeembed.hub.licenses import dependencies
from tests.hub.conftest import DEFAULT_FILE
from tests.hub.fakes import FakeHub, gguf_bytes

pytestmark = pytest.mark.usefixtures("paths")


@pytest.fixture
def run() -> CliRunner:
    return CliRunner(catch_exceptions=False)


@pytest.mark.usefixtures("small_catalogue")
def test_pull_then_list_then_show(run: CliRunner, hub: FakeHub) -> None:
    assert "No model is installed" in run.invoke(list_models).output
    result = run.invoke(pull, [DEFAULT_MODEL, "--type", "q8_0"])
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{DEFAULT_MODEL}:Q8_0  40.1 kB  Apache-2.0  ")
    assert "fetching 40.1 kB" in result.stderr

    table = run.invoke(list_models).output
    assert DEFAULT_MODEL in table and STARTER_MODEL not in table
    assert f"edgeembed pull {STARTER_MODEL}" in run.invoke(list_models, ["--available"]).output
    rows = json.loads(run.invoke(list_models, ["--json", "--available"]).output)
    assert [(row["name"], row["installed"]) for row in rows] == [(DEFAULT_MODEL, True), (STARTER_MODEL, False)]

    text = run.invoke(show, [DEFAULT_MODEL]).output
    assert "Instruct: {instruction}\\nQuery:{text}" in text and "acme/default-GGUF" in text
    shown = json.loads(run.invoke(show, [DEFAULT_MODEL, "--json"]).output)
    assert shown["prompts"]["instruction"] == "find"
    assert shown["sources"][0]["kind"] == "hub-gguf"
    assert shown["installed"][0]["size_bytes"] == len(DEFAULT_FILE)


def test_pull_offline_and_bad_names(run: CliRunner) -> None:
    with pytest.raises(HubError, match="offline is set"):
        run.invoke(pull, [DEFAULT_MODEL, "--offline"])
    with pytest.raises(UnknownModelError):
        run.invoke(show, ["nobody"])
    assert run.invoke(pull, [f"{DEFAULT_MODEL}:Q8_0", "--type", "F16"]).exit_code == 2


def test_show_a_file(run: CliRunner, tmp_path: Path, paths: Paths) -> None:
    file = tmp_path / "mine.gguf"
    file.write_bytes(gguf_bytes(general__architecture="bert", bert__embedding_length=8, general__license="mit"))
    shown = json.loads(run.invoke(show, [str(file), "--json"]).output)
    assert shown["name"] == "mine"
    assert (shown["installed"][0]["license"], shown["installed"][0]["dimensions"]) == ("mit", 8)


def test_show_names_every_dependency_with_its_licence(run: CliRunner) -> None:
    shown = json.loads(run.invoke(show, ["--json"]).output)
    found = {row["name"].lower(): row["license"] for row in shown["dependencies"]}
    assert {"aiohttp", "numpy", "msgspec", "pip", "huggingface_hub"} <= set(found)
    assert "edgeembed" not in found
    assert shown["license"] == "Apache-2.0"
    assert [row["name"] for row in shown["models"]] == sorted(row["name"] for row in shown["models"])
    text = run.invoke(show).output
    assert "Runs on:" in text and "Models of the catalogue:" in text


def test_no_dependency_is_without_a_licence() -> None:
    assert [found.name for found in dependencies("edgeembed") if found.license == "unknown"] == []


@pytest.mark.parametrize("command", [pull, list_models, show])
def test_help_teaches_by_example(run: CliRunner, command: Command) -> None:
    assert "Examples:\n    edgeembed " in run.invoke(command, ["--help"]).output
