"""The commands pull, list and show."""

from __future__ import annotations

import hashlib
import json
import re
import signal
from pathlib import Path

import pytest
from click import Command
from click.testing import CliRunner

from edgeembed.cli import printing
from edgeembed.cli.list_models import list_models
from edgeembed.cli.pull import pull
from edgeembed.cli.show import show
from edgeembed.common.progress import human_size
from edgeembed.config.paths import Paths
from edgeembed.errors import HubError, UnknownModelError
from edgeembed.hub.catalogue import DEFAULT_MODEL, STARTER_MODEL
from edgeembed.hub.licenses import dependencies
from edgeembed.hub.store import Store
from tests.cli.helpers import install
from tests.hub.fakes import DEFAULT_FILE, FakeHub, gguf_bytes

pytestmark = pytest.mark.usefixtures("paths")


@pytest.fixture
def run() -> CliRunner:
    return CliRunner(catch_exceptions=False)


@pytest.mark.usefixtures("small_catalogue")
def test_pull_then_list_then_show(run: CliRunner, hub: FakeHub, paths: Paths) -> None:
    assert "No models are installed" in run.invoke(list_models).output
    size = human_size(len(DEFAULT_FILE))
    result = run.invoke(pull, [DEFAULT_MODEL, "--type", "q8_0"])
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{DEFAULT_MODEL}:Q8_0  {size}  Apache-2.0  ")

    titles, row = run.invoke(list_models).output.splitlines()
    assert re.split("  +", titles) == ["NAME", "TYPE", "TASK", "SIZE", "DIMENSIONS", "LICENCE", "LAST USED"]
    assert re.split("  +", row) == [DEFAULT_MODEL, "Q8_0", "embed", size, "8", "Apache-2.0", "never"]
    Store(paths).mark_used(Store(paths).installed()[0])
    assert run.invoke(list_models).output.splitlines()[1].endswith("  just now")

    available = run.invoke(list_models, ["--available"]).output
    there, offered = available.split("In the catalogue:")
    assert row.split()[0] in there and STARTER_MODEL not in there
    titles, *listed = offered.splitlines()[2:-2]
    columns = ["NAME", "TYPE", "SIZE", "MEMORY", "INSTALLED", "DIMENSIONS", "LICENCE", "LANGUAGES", "GOOD FOR"]
    assert re.split("  +", titles) == columns
    cells = {row.split()[0]: re.split("  +", row) for row in listed}
    assert cells[STARTER_MODEL] == [STARTER_MODEL, "Q8_0", "?", "?", "-", "8", "Apache-2.0", "en", "p"], "no shape, no size"
    assert cells[DEFAULT_MODEL][4] == "Q8_0"
    assert available.endswith(f"To install one: edgeembed pull {STARTER_MODEL}\n")
    rows = json.loads(run.invoke(list_models, ["--json", "--available"]).output)
    assert [(row["name"], row["installed"]) for row in rows] == [(DEFAULT_MODEL, True), (STARTER_MODEL, False)]
    assert all({"size_bytes", "memory_bytes", "languages", "purpose"} <= row.keys() for row in rows)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", rows[0]["last_used"])

    text = run.invoke(show, [DEFAULT_MODEL]).output
    assert "Instruct: {instruction}\\nQuery:{text}" in text and "acme/default-GGUF" in text
    assert hashlib.sha256(DEFAULT_FILE).hexdigest() in text and str(rows[0]["path"]) in text
    shown = json.loads(run.invoke(show, [DEFAULT_MODEL, "--json"]).output)
    assert shown["prompts"]["instruction"] == "find" and shown["task"] == "embed"
    assert shown["sources"][0]["kind"] == "hub-gguf"
    assert shown["installed"][0]["size_bytes"] == len(DEFAULT_FILE)


@pytest.mark.usefixtures("small_catalogue", "hub")
def test_pull_for_programs(run: CliRunner, paths: Paths) -> None:
    for _ in range(2):  # the second time, it is installed already
        result = run.invoke(pull, [DEFAULT_MODEL, "--json"])
        assert (result.exit_code, result.stderr) == (0, "")
        *progress, last = map(json.loads, result.stdout.splitlines())
        assert any("what" in line for line in progress) and any("message" in line for line in progress)
        path = str(Store(paths).file(DEFAULT_MODEL, "Q8_0"))
        assert last == {"installed": f"{DEFAULT_MODEL}:Q8_0", "path": path, "total": len(DEFAULT_FILE)}
    for name, status, unknown in (("nobody", 2, True), (f"{DEFAULT_MODEL}:F64", 2, True), ("hf:acme/nothing", 1, False)):
        result = run.invoke(pull, [name, "--json"])
        last = json.loads(result.stdout.splitlines()[-1])
        assert (result.exit_code, last.get("unknown", False)) == (status, unknown)
        assert last["error"]


@pytest.mark.usefixtures("small_catalogue", "hub")
def test_a_pull_for_programs_can_be_interrupted_where_its_parent_ignores_the_signal(run: CliRunner) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert run.invoke(pull, [DEFAULT_MODEL, "--json"]).exit_code == 0
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_notes_of_the_converter_are_shown(run: CliRunner) -> None:
    install("short", "Q8_0", edgeembed__converter__notes="its makers use it for 48 tokens\nand \x1b[31m dot products")
    text = run.invoke(show, ["short"]).output
    assert "its makers use it for 48 tokens" in text and "dot products" in text and "\x1b" not in text
    (row,) = json.loads(run.invoke(show, ["short", "--json"]).output)["installed"]
    assert row["notes"] == ["its makers use it for 48 tokens", "and \x1b[31m dot products"]


def test_a_reranker_is_listed_as_one(run: CliRunner) -> None:
    install("judge", "Q8_0", rerank=True)
    assert re.split("  +", run.invoke(list_models).output.splitlines()[1])[2:5] == ["rerank", "5.0 kB", "-"]
    assert json.loads(run.invoke(list_models, ["--json"]).output)[0]["dimensions"] is None
    assert "dimensions" not in run.invoke(show, ["judge"]).output


@pytest.mark.parametrize(
    ("columns", "titles"),
    [
        (80, ["NAME", "TYPE", "SIZE", "MEMORY", "INSTALLED"]),
        (120, ["NAME", "TYPE", "SIZE", "MEMORY", "INSTALLED", "LANGUAGES", "GOOD FOR"]),
    ],
)
def test_the_catalogue_fits_the_terminal(
    run: CliRunner, monkeypatch: pytest.MonkeyPatch, columns: int, titles: list[str]
) -> None:
    install(DEFAULT_MODEL, "Q8_0")
    monkeypatch.setattr(printing, "terminal_width", lambda: columns)
    lines = run.invoke(list_models, ["--available"]).output.splitlines()
    assert max(map(len, lines)) <= columns
    assert titles in [re.split("  +", line) for line in lines]
    assert ("  LANGUAGES; GOOD FOR" in lines) == (columns == 80), "what a model is good for is never left out"
    assert not any("?" in line for line in lines)


def test_show_names_other_names_only_where_there_are_any(run: CliRunner) -> None:
    assert re.search("other names +bge-m3, ", run.invoke(show, ["bge-m3"]).output)
    assert "other names" not in run.invoke(show, ["bge-base-zh-v1.5"]).output


def test_show_prints_the_whole_catalogue_entry(run: CliRunner) -> None:
    install(DEFAULT_MODEL, "Q8_0")
    install(DEFAULT_MODEL, "F16")
    text = run.invoke(show, [DEFAULT_MODEL]).output
    for fact in (
        "Apache-2.0",
        "1024, can be truncated to any length from 32 to 1024",
        "32,768 tokens",
        "Instruct: {instruction}\\nQuery:{text}",
        "Q8_0    639.2 MB",  # a published size
        "Q4_K_M  about 396.4 MB",  # a computed one
        "the default: retrieval",
        "64.33  Qwen3-Embedding README",
        "0.7646  The capital of China is Beijing.",
        "06507c7b42688469c4e7298b0a1e16deff06caf291cf0a5b278c308249c3e439",  # of a source
        f"{DEFAULT_MODEL}-F16.gguf",
        f"{DEFAULT_MODEL}-Q8_0.gguf",
        "a test",  # where the file came from
    ):
        assert fact in text, fact
    only = run.invoke(show, [f"{DEFAULT_MODEL}:f16"]).output
    assert f"{DEFAULT_MODEL}-F16.gguf" in only and f"{DEFAULT_MODEL}-Q8_0.gguf" not in only
    assert (
        f"not installed; to install: edgeembed pull {DEFAULT_MODEL}:F32" in run.invoke(show, [f"{DEFAULT_MODEL}:F32"]).output
    )


def test_show_a_model_of_the_hub(run: CliRunner) -> None:
    with pytest.raises(UnknownModelError, match="install it first"):
        run.invoke(show, ["hf:acme/nothing"])


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
    frame = shown["installed"][0]["frame"]
    assert (frame["pooling"], frame["proven"]) == (None, False)
    text = run.invoke(show, [str(file)]).output
    assert "not checked: the special tokens around a text" in text and "pooling         not in the file" in text
    text = run.invoke(show, [str(file)]).output
    assert text.startswith("mine\n") and shown["installed"][0]["sha256"] in text
    file.write_bytes(gguf_bytes(general__architecture="bert", general__license="mit\x1b[2J"))
    assert "\x1b" not in run.invoke(show, [str(file)]).output


def test_show_names_every_dependency_with_its_licence(run: CliRunner) -> None:
    shown = json.loads(run.invoke(show, ["--json"]).output)
    found = {row["name"].lower(): row["license"] for row in shown["dependencies"]}
    assert {"aiohttp", "numpy", "msgspec", "pip", "huggingface_hub"} <= set(found)
    assert "edgeembed" not in found
    assert shown["license"] == "Apache-2.0"
    assert [row["name"] for row in shown["models"]] == sorted(row["name"] for row in shown["models"])
    text = run.invoke(show).output
    assert "Uses:" in text and "Models in the catalogue:" in text


def test_no_dependency_is_without_a_licence() -> None:
    assert [found.name for found in dependencies("edgeembed") if found.license == "unknown"] == []


@pytest.mark.parametrize("command", [pull, list_models, show])
def test_help_teaches_by_example(run: CliRunner, command: Command) -> None:
    assert "Examples:\n    edgeembed " in run.invoke(command, ["--help"]).output
