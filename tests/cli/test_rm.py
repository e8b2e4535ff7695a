"""`edgeembed rm`, on a real store."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeembed.cli.list_models import list_models
from edgeembed.cli.rm import rm
from edgeembed.config.paths import Paths
from edgeembed.errors import ConfigError, HubError, UnknownModelError
from edgeembed.hub.store import InstalledModel, Store
from tests.cli.helpers import answering, edgeembed, install, loaded, on_terminal, status_of

needs_terminal = pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals of POSIX")


@pytest.fixture
def run() -> CliRunner:
    return CliRunner(catch_exceptions=False)


@pytest.fixture(autouse=True)
def no_daemon(home: Path, unused_tcp_port: int) -> None:
    """No daemon runs unless a test starts one; the developer's own daemon is not asked."""
    write_config(f"port = {unused_tcp_port}")


def write_config(*lines: str) -> None:
    file = Paths.resolve().config_file
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(lines))


def there() -> list[str]:
    return [model.spec for model in Store(Paths.resolve()).installed()]


def test_one_type_is_removed_and_the_others_stay(run: CliRunner) -> None:
    install("alpha", "F16", size=40_000)
    kept = install("alpha", "Q8_0")
    result = run.invoke(rm, ["ALPHA:f16"])
    assert result.exit_code == 0
    assert result.output.startswith("removed alpha:F16, 40.") and "kB" in result.output
    assert there() == [kept.spec]


def test_several_names_and_the_total_size(run: CliRunner) -> None:
    install("alpha", "F16", size=40_000)
    install("beta", "Q8_0", size=60_000)
    result = run.invoke(rm, ["alpha", "beta:Q8_0"])
    assert result.exit_code == 0
    assert [line.split(",")[0] for line in result.output.splitlines()[:2]] == ["removed alpha:F16", "removed beta:Q8_0"]
    assert result.output.splitlines()[-1].endswith("kB in total")
    assert there() == []
    assert list(Paths.resolve().models.rglob("*.gguf")) == []


def test_json(run: CliRunner) -> None:
    model = install("alpha", "F16", size=40_000)
    told = json.loads(run.invoke(rm, ["alpha", "--json"]).stdout)
    assert told["removed"][0]["path"] == str(model.path)
    assert told["removed"][0]["freed_bytes"] >= 40_000
    assert told["freed_bytes"] == told["removed"][0]["freed_bytes"]
    assert told["failed"] == []


def test_an_installed_file_can_be_named_by_its_path_and_other_files_are_not_removed(run: CliRunner, tmp_path: Path) -> None:
    model = install("alpha", "F16")
    own = tmp_path / "mine.gguf"
    own.write_bytes(model.path.read_bytes())
    with pytest.raises(UnknownModelError, match="delete the file yourself"):
        run.invoke(rm, [str(own), "--yes"])
    assert own.exists()
    assert run.invoke(rm, [str(model.path)]).exit_code == 0
    assert there() == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "alhpa",
            r"no model named 'alhpa' is installed\. Did you mean 'alpha'\? Installed: alpha, beta; nothing was removed",
        ),
        ("all-minilm-l6-v2", "no model named 'all-minilm-l6-v2' is installed"),
        ("alpha:Q4_0", "alpha is installed as F16, not as Q4_0; nothing was removed"),
        ("hf:nobody/nothing", "no model named 'hf:nobody/nothing' is installed"),
        ("hf:not a repository", "expected hf:OWNER/REPO"),
    ],
)
def test_nothing_is_removed_if_one_model_is_not_installed(run: CliRunner, name: str, says: str) -> None:
    install("alpha", "F16")
    install("beta", "F16")
    with pytest.raises(UnknownModelError, match=says) as error:
        run.invoke(rm, ["beta", name, "--yes"])
    assert error.value.exit_code == 2
    assert there() == ["alpha:F16", "beta:F16"]


def test_nothing_is_installed(run: CliRunner) -> None:
    with pytest.raises(UnknownModelError, match="No models are installed"):
        run.invoke(rm, ["alpha"])


# --- unfinished downloads -------------------------------------------------------------------------------------------


def leave(name: str, file: str, size: int) -> Path:
    """Create a partial file, as a killed pull leaves it."""
    part = Store(Paths.resolve()).partials(name).folder(f"acme/{name}", "a" * 40) / f"{file}.0123456789ab.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(bytes(size))
    return part


def test_an_unfinished_download_is_listed_and_can_be_removed(run: CliRunner) -> None:
    part = leave("large", "Large-Q8_0.gguf", 70_000)
    staged = Store(Paths.resolve()).folder("large") / ".pull-x" / "checkpoint" / "model.safetensors"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(bytes(10_000))
    listed = run.invoke(list_models).output
    assert "Unfinished downloads: large (80.0 kB). " in listed and listed.endswith("edgeembed rm large\n")
    told = json.loads(run.invoke(rm, ["large", "--json"]).stdout)
    assert (told["freed_bytes"], told["removed"]) == (80_000, [])
    assert sorted(told["unfinished"][0]["paths"]) == sorted(map(str, (part, staged)))
    assert not Store(Paths.resolve()).folder("large").exists()
    assert "Unfinished" not in run.invoke(list_models).output
    with pytest.raises(UnknownModelError, match=r"No models are installed$"):
        run.invoke(rm, ["large"])


def test_only_the_download_of_the_named_type_is_removed(run: CliRunner) -> None:
    kept = install("alpha", "F16")
    half, other = leave("alpha", "alpha-Q8_0.gguf", 30_000), leave("alpha", "alpha-Q4_0.gguf", 20_000)
    listed = run.invoke(list_models).output
    assert kept.name in listed and "Unfinished downloads: alpha (50.0 kB)" in listed
    with pytest.raises(UnknownModelError, match="not as Q5_0; nothing was removed"):
        run.invoke(rm, ["alpha:q5_0"])
    assert run.invoke(rm, ["alpha:q8_0"]).output == "removed the unfinished download of alpha, 30.0 kB\n"
    assert not half.exists() and other.exists()
    leave("alpha", "alpha-Q8_0.gguf", 30_000)
    assert json.loads(run.invoke(rm, ["alpha:q4_0", "alpha:q8_0", "--json"]).stdout)["freed_bytes"] == 20_000 + 30_000
    assert there() == ["alpha:F16"]
    leave("alpha", "alpha-Q4_0.gguf", 20_000)
    # The last type takes the shared files with it.
    assert json.loads(run.invoke(rm, ["alpha", "--json"]).stdout)["freed_bytes"] >= 5000 + 20_000
    assert not other.exists()


def test_a_running_download_is_not_removed(run: CliRunner) -> None:
    part = leave("large", "Large-Q8_0.gguf", 70_000)
    with Store(Paths.resolve()).locked("large"):
        result = run.invoke(rm, ["large"])
    assert result.exit_code == 1 and part.exists()
    assert result.stderr == "error: large is being downloaded by another process; try again when that has finished\n"
    with pytest.raises(UnknownModelError, match=r"Did you mean 'large'.*unfinished downloads: large; nothing was removed"):
        run.invoke(rm, ["lrage"])


# --- confirmation -----------------------------------------------------------------------------------------------------


def refused(run: CliRunner, *arguments: str) -> str:
    """Run without a terminal, which must remove nothing, and return the error."""
    before = there()
    with pytest.raises(ConfigError, match=r"^nothing was removed: .* Remove anyway with --yes$") as error:
        run.invoke(rm, arguments)
    assert there() == before
    return error.value.message


def test_a_refusal_is_one_line_and_status_2(unused_tcp_port: int) -> None:
    write_config(f"port = {unused_tcp_port}", 'model = "alpha"')
    install("alpha", "F16")
    done = edgeembed("rm", "alpha")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: nothing was removed: alpha:F16 is named by the setting model")


def test_a_name_with_several_types_needs_a_yes(run: CliRunner) -> None:
    for kind in ("F16", "Q8_0"):
        install("alpha", kind)
    assert "alpha is installed as F16, Q8_0; all are removed" in refused(run, "alpha")
    assert run.invoke(rm, ["alpha", "--yes"]).exit_code == 0
    assert there() == []


def test_types_named_one_by_one_need_no_yes(run: CliRunner) -> None:
    for kind in ("F16", "Q8_0"):
        install("alpha", kind)
    assert run.invoke(rm, ["alpha:F16", "alpha:Q8_0", "alpha:F16"]).output.count("removed ") == 2
    assert there() == []


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ('model = "alpha"', "alpha:F16 is named by the setting model (config.toml)"),
        ('model = "alpha:F16"', "by the setting model"),
        ('preload = ["beta", "alpha"]', "by the setting preload"),
        ('pin = ["alpha:F16"]', "by the setting pin"),
        ('aliases = {short = "beta:F16", small = "alpha:query"}', "by the setting aliases"),
    ],
)
def test_a_model_of_the_settings_needs_a_yes(run: CliRunner, setting: str, says: str, unused_tcp_port: int) -> None:
    write_config(f"port = {unused_tcp_port}", setting)
    install("alpha", "F16")
    install("gamma", "F16")
    assert says in refused(run, "alpha", "gamma")
    assert run.invoke(rm, ["gamma"]).exit_code == 0
    assert run.invoke(rm, ["alpha", "--yes"]).exit_code == 0
    assert there() == []


def test_a_setting_that_names_an_unknown_users_folder_names_no_model(run: CliRunner, unused_tcp_port: int) -> None:
    install("alpha", "F16")
    write_config(f"port = {unused_tcp_port}", 'aliases = {small = "~nosuch/alpha.gguf"}')
    done = run.invoke(rm, ["alpha"])
    assert done.exit_code == 0, done.exception


def test_a_model_of_the_settings_named_by_its_path(run: CliRunner, unused_tcp_port: int) -> None:
    model = install("alpha", "F16")
    write_config(f"port = {unused_tcp_port}", f"model = {json.dumps(str(model.path))}")
    assert "by the setting model" in refused(run, "alpha")


def test_another_type_than_the_configured_one_needs_no_yes(run: CliRunner, unused_tcp_port: int) -> None:
    write_config(f"port = {unused_tcp_port}", 'model = "alpha:Q8_0"')
    install("alpha", "F16")
    install("alpha", "Q8_0")
    assert run.invoke(rm, ["alpha:F16"]).exit_code == 0


def test_a_setting_that_names_no_model_is_ignored(run: CliRunner, unused_tcp_port: int) -> None:
    write_config(f"port = {unused_tcp_port}", 'model = "nobody-knows-it"', 'preload = ["hf:a/b", "/no/such.gguf"]')
    install("alpha", "F16")
    assert run.invoke(rm, ["alpha"]).exit_code == 0


def test_a_loaded_model_needs_a_yes(run: CliRunner) -> None:
    model, other = install("alpha", "F16"), install("beta", "F16")
    failed = loaded(other, state="failed", reason="out of memory")
    with answering(status_of(loaded(model), failed)) as (port, asked):
        write_config(f"port = {port}")
        assert "alpha:F16 is ready in the running daemon (process 99)" in refused(run, "alpha", "beta")
        assert asked == ["/v1/status"]
        assert run.invoke(rm, ["beta"]).exit_code == 0, "a model that has failed to load is not in use"
        assert run.invoke(rm, ["alpha", "-y"]).exit_code == 0
    assert there() == []


def test_a_daemon_with_other_folders_is_ignored(run: CliRunner) -> None:
    model = install("alpha", "F16")
    with answering(status_of(loaded(model, path="/elsewhere/alpha-F16.gguf"))) as (port, _):
        write_config(f"port = {port}")
        assert run.invoke(rm, ["alpha"]).exit_code == 0


@pytest.mark.parametrize(
    ("body", "server", "says"),
    [
        ("<html>", "nginx", "a program other than edgeembed answers"),
        ({"models": "none"}, "edgeembed/9.9.9", "edgeembed/9.9.9, whose status this version cannot read"),
    ],
)
def test_a_daemon_that_cannot_be_asked_is_noted(run: CliRunner, body: object, server: str, says: str) -> None:
    install("alpha", "F16")
    with answering(body, server=server) as (port, _):
        write_config(f"port = {port}")
        done = run.invoke(rm, ["alpha"])
    assert done.exit_code == 0
    assert done.stderr.startswith("note: ") and says in done.stderr
    assert there() == []


@needs_terminal
@pytest.mark.parametrize(("keys", "status", "left"), [("y\n", 0, []), ("n\n", 1, ["alpha:F16"]), ("\n", 1, ["alpha:F16"])])
def test_on_a_terminal_it_asks(keys: str, status: int, left: list[str], unused_tcp_port: int) -> None:
    write_config(f"port = {unused_tcp_port}", 'model = "alpha"')
    install("alpha", "F16")
    ended, shown = on_terminal("rm", "alpha", keys=keys)
    assert ended == status
    assert "alpha:F16 is named by the setting model" in shown and "Remove? [y/N]" in shown
    assert there() == left
    assert ("nothing was removed" in shown) == bool(left)


@needs_terminal
def test_it_does_not_ask_about_an_unused_model() -> None:
    install("alpha", "F16")
    ended, shown = on_terminal("rm", "alpha")
    assert ended == 0 and "Remove?" not in shown
    assert there() == []


# --- what fails -------------------------------------------------------------------------------------------------------


def test_the_other_files_are_removed_if_one_cannot_be(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where a file that is open cannot be removed."""
    install("alpha", "F16")
    install("beta", "F16")
    real = Store.remove

    def remove(store: Store, model: InstalledModel) -> int:
        if model.name == "alpha":
            raise HubError("alpha is in use")
        return real(store, model)

    monkeypatch.setattr(Store, "remove", remove)
    result = run.invoke(rm, ["alpha", "beta"])
    assert result.exit_code == 1
    assert result.stderr == "error: alpha is in use\n" and result.stdout.startswith("removed beta:F16")
    assert there() == ["alpha:F16"]
    told = json.loads(run.invoke(rm, ["alpha", "--json"]).stdout)
    assert told["removed"] == [] and told["failed"][0]["reason"] == "alpha is in use"
