"""`edgeembed config`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeembed.cli.config import config
from edgeembed.config.file import read_config
from edgeembed.config.resolution import resolve
from edgeembed.config.values import field_names
from edgeembed.errors import ConfigError, ModelNotFoundError
from edgeembed.models.registry import ModelRegistry
from tests.fakes import fake_model


@pytest.fixture
def run() -> CliRunner:
    return CliRunner(catch_exceptions=False)


def test_set_then_show(run: CliRunner, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run.invoke(config, ["set", "cache-disk-mib", "4096"])  # as the flag is spelled
    assert result.exit_code == 0 and str(home / "config.toml") in result.output
    assert (home / "config.toml").read_text() == "cache_disk_mib = 4096\n"
    monkeypatch.setenv("EDGEEMBED_THREADS", "3")

    shown = json.loads(run.invoke(config, ["show", "--json"]).output)
    assert list(shown) == field_names()
    assert shown["cache_disk_mib"] == {"value": 4096, "from": "config.toml"}
    assert shown["threads"] == {"value": 3, "from": "environment"}
    assert shown["model"] == {"value": None, "from": "default"}

    lines = [line.split() for line in run.invoke(config, ["show"]).output.splitlines()]
    assert ["cache_disk_mib", "4096", "config.toml"] in lines
    assert ["threads", "3", "environment"] in lines
    assert len(lines) == len(field_names())


def test_set_refuses_what_serve_would_refuse(run: CliRunner, home: Path) -> None:
    for key, value in (("port", "99999"), ("cache", "perhaps"), ("log_level", "loud"), ("nothing", "1")):
        with pytest.raises(ConfigError):
            run.invoke(config, ["set", key, value])
    assert not (home / "config.toml").exists()


def test_add_keeps_what_is_there(run: CliRunner, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    file = home / "config.toml"
    file.write_text('allowed_hosts = [\n  "a.example",  # the proxy\n]\n\n[aliases]\nbig = "one:query"\n')
    assert "allowed_hosts = a.example, b.example" in run.invoke(config, ["add", "allowed_hosts", "b.example"]).output
    run.invoke(config, ["add", "allowed-hosts", "b.example"])
    run.invoke(config, ["add", "allowed_origins", "https://notes.example"])
    assert "big=one:query, small=two" in run.invoke(config, ["add", "aliases", "small=two"]).output
    assert read_config(file) == {
        "allowed_hosts": ["a.example", "b.example"],
        "allowed_origins": ["https://notes.example"],
        "aliases": {"big": "one:query", "small": "two"},
    }
    before = file.read_text()
    for key, value, words in (
        ("port", "1", "has a single value"),
        ("hosts", "a", "unknown setting"),
        ("aliases", "x", "NAME=VALUE"),
    ):
        with pytest.raises(ConfigError, match=words):
            run.invoke(config, ["add", key, value])
    assert file.read_text() == before
    monkeypatch.setenv("EDGEEMBED_ALLOWED_HOSTS", "c.example")
    assert "EDGEEMBED_ALLOWED_HOSTS is set, and wins" in run.invoke(config, ["add", "allowed_hosts", "b.example"]).output


def test_path_works_without_a_file_or_with_a_bad_one(run: CliRunner, home: Path) -> None:
    assert run.invoke(config, ["path"]).output == f"{home / 'config.toml'}\n"
    assert not home.exists()
    home.mkdir()
    (home / "config.toml").write_text("port = = 1")
    assert run.invoke(config, ["path"]).output == f"{home / 'config.toml'}\n"
    with pytest.raises(ConfigError, match=r"config\.toml"):
        run.invoke(config, ["show"])


async def test_the_command_that_a_404_gives_makes_the_alias(run: CliRunner, home: Path) -> None:
    """As pasted into a shell: the daemon's next start reads it, and other aliases stay."""
    home.mkdir()
    (home / "config.toml").write_text('[aliases]\nbig = "one"\n')
    model = fake_model("all-minilm-l6-v2")
    for name in ("text-embedding-3-small", "embed-english-v3.0", "openai/text-embedding-ada-002"):
        with pytest.raises(ModelNotFoundError) as caught:
            await ModelRegistry(model).resolve(name, "embed")
        command = shlex.split(caught.value.message.split("`")[1])
        assert command[:2] == ["edgeembed", "config"]
        assert run.invoke(config, command[2:]).exit_code == 0
        registry = ModelRegistry(model, aliases=resolve().settings.aliases)
        assert (await registry.resolve(name, "embed")).model == model
    assert resolve().settings.aliases["big"] == "one"
