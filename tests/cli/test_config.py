"""`edgeembed config`."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeembed.cli.config import config
from edgeembed.config.file import read_config
from edgeembed.config.resolution import resolve
from edgeembed.config.values import field_names
from edgeembed.errors import ConfigError, ModelNotFoundError, UnknownModelError
from edgeembed.models.registry import ModelRegistry
from tests.cli.helpers import answering, edgeembed, install, on_terminal, status_of
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

    lines = run.invoke(config, ["show"]).output.splitlines()
    assert "cache_disk_mib = 4096  # config.toml" in lines and "threads = 3  # environment" in lines
    assert len(lines) == len(field_names())


def test_show_prints_toml_that_can_be_pasted(run: CliRunner, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEEMBED_API_KEY", "sesame-1")
    home.mkdir()
    file = home / "config.toml"
    file.write_text('pin = ["a", "b"]\ndevice = "cpu"\n[aliases]\n"embed-english-v3.0" = "bge-m3:query"\n')
    before = resolve().settings
    shown = run.invoke(config, ["show"]).output
    assert "sesame" not in shown and "# api_key = (set)  # environment" in shown and "# uds is not set" in shown
    assert 'aliases = {"embed-english-v3.0" = "bge-m3:query"}  # config.toml' in shown
    assert "cache = true  # default" in shown
    file.write_text(shown)
    assert resolve().settings == before


def test_get_prints_what_is_in_effect(run: CliRunner, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    (home / "config.toml").write_text('pin = ["a", "b"]\naliases = "one=bge-m3,two=m:query"\n')
    monkeypatch.setenv("EDGEEMBED_PORT", "9000")
    monkeypatch.setenv("EDGEEMBED_API_KEY", "sesame-1")

    def got(*words: str) -> tuple[int, str]:
        done = run.invoke(config, ["get", *words])
        return done.exit_code, done.output

    assert got("port") == (0, "9000\n")
    assert got("cache-disk-mib") == (0, "1024\n")
    assert got("cache") == (0, "true\n")
    assert got("pin") == (0, "a\nb\n") and got("pin", "--json") == (0, '[\n  "a",\n  "b"\n]\n')
    assert got("aliases") == (0, "one=bge-m3\ntwo=m:query\n")
    assert got("aliases.two") == (0, "m:query\n")
    assert got("aliases.three") == (1, "") and got("model") == (1, "")
    assert got("api_key") == (0, "(set)\n")
    for key, words in (("prot", "Did you mean 'port'"), ("port.x", "aliases.NAME"), ("aliases.", "aliases.NAME")):
        with pytest.raises(ConfigError, match=words):
            run.invoke(config, ["get", key])


def test_an_entry_of_a_table_is_set_and_unset_alone(run: CliRunner, home: Path) -> None:
    install("mine", "Q8_0")
    assert run.invoke(config, ["set", "aliases", "a=mine"]).exit_code == 0
    assert run.invoke(config, ["set", "aliases", "c=mine:Q8_0:query"]).exit_code == 0
    assert resolve().settings.aliases == {"a": "mine", "c": "mine:Q8_0:query"}, "the first is still there"
    run.invoke(config, ["set", "aliases.embed-english-v3.0", "mine:document"])
    run.invoke(config, ["set", "aliases.a", "mine:Q8_0"])
    assert resolve().settings.aliases == {"a": "mine:Q8_0", "c": "mine:Q8_0:query", "embed-english-v3.0": "mine:document"}
    assert "aliases.a removed" in run.invoke(config, ["unset", "aliases.a"]).output
    assert "aliases.a was not set" in run.invoke(config, ["unset", "aliases.a"]).output
    run.invoke(config, ["unset", "aliases.c"])
    assert resolve().settings.aliases == {"embed-english-v3.0": "mine:document"}
    run.invoke(config, ["unset", "aliases.embed-english-v3.0"])
    assert read_config(home / "config.toml") == {}
    run.invoke(config, ["set", "allowed_hosts", "one.example,two.example"])
    run.invoke(config, ["set", "allowed_hosts", "three.example"])
    assert resolve().settings.allowed_hosts == ("three.example",), "a list is a value, which is replaced"


@pytest.mark.parametrize("key", ["model", "pin", "preload", "aliases.a", "keep_alive_of.bge-m4"])
def test_a_model_that_is_unknown_is_refused_and_one_to_be_pulled_is_named(run: CliRunner, home: Path, key: str) -> None:
    of_table = key.startswith("keep_alive_of")
    with pytest.raises(UnknownModelError, match=r"no model is named 'bge-m4'\. Did you mean 'bge-m3'"):
        run.invoke(config, ["set", key, "5m" if of_table else "bge-m4"])
    assert not (home / "config.toml").exists()
    known, value = (key.replace("m4", "m3"), "5m") if of_table else (key, "bge-m3")
    done = run.invoke(config, ["set", known, value])
    assert done.exit_code == 0 and "bge-m3 is not installed; to download it: edgeembed pull bge-m3" in done.output
    install("bge-m3", "Q8_0")
    assert "pull" not in run.invoke(config, ["set", known, value]).output


def test_a_file_is_written_with_its_whole_path(
    run: CliRunner, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.gguf").write_bytes(b"GGUF")
    assert run.invoke(config, ["set", "model", "./my.gguf"]).exit_code == 0
    assert resolve().settings.model == str(tmp_path / "my.gguf"), "the daemon starts in another folder"
    with pytest.raises(UnknownModelError, match="there is no file"):
        run.invoke(config, ["set", "model", "./yours.gguf"])


def test_with_upstream_the_names_are_those_of_the_other_server(run: CliRunner, home: Path) -> None:
    run.invoke(config, ["set", "upstream", "http://127.0.0.1:9/v1"])
    assert run.invoke(config, ["set", "model", "Qwen/Qwen3-Embedding-8B"]).exit_code == 0


def test_a_running_daemon_has_the_old_settings_until_it_restarts(run: CliRunner, home: Path) -> None:
    with answering(status_of()) as (port, _):
        run.invoke(config, ["set", "port", str(port)])
        done = run.invoke(config, ["set", "threads", "1"])
        assert done.exit_code == 0 and "restart needed" in done.output and "edgeembed restart" in done.output
    assert "restart" not in run.invoke(config, ["set", "threads", "2"]).output, "none runs"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_on_a_terminal_the_restart_is_offered(home: Path) -> None:
    with answering(status_of()) as (port, _):
        edgeembed("config", "set", "port", str(port))
        status, shown = on_terminal("config", "set", "threads", "1", keys="n\n")
    assert status == 0 and "Restart the daemon now, so that it takes effect? [y/N]" in shown and "To restart it" in shown


def test_set_refuses_what_serve_would_refuse(run: CliRunner, home: Path) -> None:
    for key, value in (("port", "99999"), ("cache", "perhaps"), ("log_level", "loud"), ("nothing", "1")):
        with pytest.raises(ConfigError):
            run.invoke(config, ["set", key, value])
    assert not (home / "config.toml").exists()


def test_add_keeps_what_is_there(run: CliRunner, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("two", "Q8_0")
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
        assert (await asyncio.to_thread(run.invoke, config, command[2:])).exit_code == 0
        registry = ModelRegistry(model, aliases=resolve().settings.aliases)
        assert (await registry.resolve(name, "embed")).model == model
    assert resolve().settings.aliases["big"] == "one"
