"""Settings: precedence of the layers, errors for bad values, and what `config set` does to a file."""

from __future__ import annotations

import os
import stat
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from edgeembed.cli.settings import setting_options
from edgeembed.config.file import read_config, remove_setting, write_entry, write_setting
from edgeembed.config.paths import Paths, home_folder
from edgeembed.config.resolution import resolve
from edgeembed.config.settings import Settings
from edgeembed.config.values import field_names
from edgeembed.errors import ConfigError


@pytest.fixture
def home(home: Path) -> Path:
    home.mkdir()
    return home


def env(home: Path, **variables: str) -> dict[str, str]:
    return {"EDGEEMBED_HOME": str(home), **{f"EDGEEMBED_{name}": value for name, value in variables.items()}}


# --- layers -----------------------------------------------------------------------------------------------------------


def test_flag_before_environment_before_file_before_default(home: Path) -> None:
    (home / "config.toml").write_text('port = 1001\nthreads = 1001\nbatch_tokens = 1001\nmodel = "filed"\n')
    resolved = resolve({"port": "1003", "threads": None}, env(home, PORT="1002", THREADS="1002"))
    settings, origins = resolved.settings, resolved.origins
    assert (settings.port, origins["port"]) == (1003, "flag")
    assert (settings.threads, origins["threads"]) == (1002, "environment"), "a flag that is None was not given"
    assert (settings.batch_tokens, origins["batch_tokens"]) == (1001, "config.toml")
    assert (settings.host, origins["host"]) == ("localhost", "default")
    assert list(origins) == field_names()


def test_an_empty_variable_is_not_set(home: Path) -> None:
    (home / "config.toml").write_text("port = 9000\n")
    resolved = resolve({}, env(home, PORT="", MODEL=""))
    assert resolved.settings.port == 9000
    assert resolved.settings.model is None
    assert resolved.origins["port"] == "config.toml"


@pytest.mark.parametrize("name", ["api_key", "upstream_key", "forward_key", "api_key_file", "certfile", "keyfile", "uds"])
@pytest.mark.parametrize("origin", ["flag", "environment", "config.toml"])
def test_what_protects_must_not_be_empty(home: Path, name: str, origin: str) -> None:
    """An empty API key would ask for none, an empty certfile would turn off HTTPS."""
    variables = {name.upper(): ""} if origin == "environment" else {}
    if origin == "config.toml":
        (home / "config.toml").write_text(f'{name} = ""\n')
    where = {
        "flag": f"--{name.replace('_', '-')}",
        "environment": f"EDGEEMBED_{name.upper()}",
        "config.toml": f"toml: {name}",
    }
    with pytest.raises(ConfigError, match=f"{where[origin]}.*: (the API key is empty|expected a path)"):
        resolve({name: ""} if origin == "flag" else {}, env(home, **variables))


@pytest.mark.parametrize("name", ["api_key", "upstream_key", "forward_key"])
@pytest.mark.parametrize("key", [" ", "sesame ", " sesame", "sesame\n", "ses ame", "ses\x1bame"])
def test_a_bad_key_is_an_error_that_does_not_show_it(home: Path, name: str, key: str) -> None:
    with pytest.raises(ConfigError, match="contains a space, a line break or a control character") as caught:
        resolve({}, env(home, **{name.upper(): key}))
    assert "ame" not in str(caught.value).replace("name", "") and caught.value.__suppress_context__


@pytest.mark.parametrize(
    "url", ["redis://h", "redis://h:1/2", "rediss://me:ses%40me@h:1?ssl_ca_certs=/f", "unix:///s?db=1", "redis://:p@[::1]:1"]
)
def test_a_url_of_a_shared_cache(home: Path, url: str) -> None:
    assert resolve({}, env(home, CACHE_URL=url)).settings.cache_url == url


@pytest.mark.parametrize(
    "url",
    [
        "sesame",
        "http://me:sesame@h",
        "redis://",
        "redis://me:sesame@",
        "redis://me:sesame@h:port",
        "redis://me:sesame@h/base",
        "redis://me:sesame@h?sesame=1",
        "redis://me:sesame@h?socket_timeout=9",
        "redis://me:ses ame@h",
        "unix://",
        "redis://me:sesame@h#1",
        "redis://me:sesame@[h",
        "redis://me:sesame@h\u2100",
        "redis://me:sesame@h?ssl_ca_certs=/f",
        "unix:///sesame?ssl_ca_certs=/f",
    ],
)
def test_a_bad_url_of_a_shared_cache_is_an_error_that_does_not_show_it(home: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="EDGEEMBED_CACHE_URL: expected") as caught:
        resolve({}, env(home, CACHE_URL=url))
    assert "ses" not in str(caught.value) and caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis://me:sesame@h", "other users of this machine can see a password"),
        ("redis://me:sesame@h\u2100", "expected redis://"),  # a host that urlsplit refuses, with a message that shows all
    ],
)
def test_a_password_in_a_flag_is_refused_and_not_shown(home: Path, url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"--cache-url: {problem}") as caught:
        resolve({"cache_url": url}, env(home))
    assert "sesame" not in str(caught.value)
    assert resolve({"cache_url": "redis://h"}, env(home)).settings.cache_url == "redis://h"


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("1", True), ("True", True), ("false", False), ("0", False), ("FALSE", False)]
)
def test_booleans_from_the_environment(home: Path, text: str, expected: bool) -> None:
    settings = resolve({}, env(home, CACHE=text, NO_AUTH=text)).settings
    assert (settings.cache, settings.no_auth) == (expected, expected)


def test_text_settings_stay_text_even_if_they_resemble_numbers(home: Path) -> None:
    assert resolve({}, env(home, MODEL="123")).settings.model == "123"
    assert resolve({}, env(home, MODEL="null")).settings.model == "null"


def test_flags_override_other_layers_only_when_given(home: Path) -> None:
    """`serve` has a flag for each setting; a flag that is not given must not override the other layers."""
    (home / "config.toml").write_text("no_auth = true\ncache = false\nport = 9000\n")

    @click.command()
    @setting_options()
    def command(**flags: Any) -> None:
        settings = resolve(flags, env(home)).settings
        click.echo(f"{settings.no_auth} {settings.cache} {settings.port} {settings.log_level}")

    run = CliRunner(catch_exceptions=False)
    assert run.invoke(command, []).output == "True False 9000 info\n"
    assert run.invoke(command, ["--cache", "--port", "9001", "--log-level", "debug"]).output == "True True 9001 debug\n"
    help_ = run.invoke(command, ["--help"]).output
    for name in field_names():
        assert f"--{name.replace('_', '-')}" in help_ and f"EDGEEMBED_{name.upper()}" in help_


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("gpu-box:8000", "expected a base URL"),
        ("ftp://gpu-box/v1", "expected a base URL"),
        ("http://", "expected a base URL"),
        ("http://gpu-box/v1?key=1", "expected a base URL"),
        ("http://gpu-box:port/v1", "--upstream"),
        ("http://me:secret@gpu-box/v1", "must not contain a user name or password"),
    ],
)
def test_the_address_of_another_server_is_checked_before_it_is_used(home: Path, url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        resolve({"upstream": url}, env(home))
    assert resolve({"forward": "http://gpu-box:8000/v1/"}, env(home)).settings.forward == "http://gpu-box:8000/v1"


# --- folders ----------------------------------------------------------------------------------------------------------


def test_edgeembed_home_moves_all_paths(home: Path) -> None:
    paths = Paths.resolve(env(home))
    found = [paths.config_file, paths.models, paths.cache, paths.state, paths.logs]
    assert all(path.is_relative_to(home) for path in found)
    assert len(set(found)) == 5
    assert not list(home.iterdir()), "resolving paths creates nothing"


def test_without_edgeembed_home_all_paths_are_in_the_users_folders() -> None:
    for environ in ({}, {"EDGEEMBED_HOME": ""}):
        paths = Paths.resolve(environ)
        found = [paths.config_file, paths.models, paths.cache, paths.state, paths.logs]
        assert all(path.is_absolute() and "edgeembed" in path.parts for path in found)
        assert len(set(found)) == 5


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX: users may be without a home folder")
def test_a_user_without_a_home_folder_is_an_error_that_names_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    def no_entry(_id: int) -> None:
        raise KeyError("no entry")

    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    for name in ("HOME", *(name for name in os.environ if name.startswith("XDG_"))):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="set HOME, or EDGEEMBED_HOME"):
        Paths.resolve({})
    with pytest.raises(ConfigError, match="set HOME"):
        home_folder()
    assert Paths.resolve({"EDGEEMBED_HOME": "/embed"}).models == Path("/embed/models")
    moved = Paths.resolve({"EDGEEMBED_HOME": "/embed", "EDGEEMBED_CACHE_HOME": "/fast"})
    assert moved == replace(Paths.resolve({"EDGEEMBED_HOME": "/embed"}), cache=Path("/fast"))


# --- bad values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "variables", "file", "says"),
    [
        ({"batch_tokens": "many"}, {}, "", r"--batch-tokens = 'many': .*int"),
        ({"port": "-1"}, {}, "", r"--port = '-1': .*>= 0"),
        ({}, {"PORT": "65536"}, "", r"EDGEEMBED_PORT = '65536': .*<= 65535"),
        ({}, {"CACHE": "perhaps"}, "", r"EDGEEMBED_CACHE = 'perhaps': .*bool"),
        ({}, {"REQUEST_TIMEOUT": "nan"}, "", r"EDGEEMBED_REQUEST_TIMEOUT = 'nan'"),
        ({}, {"LOG_LEVEL": "loud"}, "", r"EDGEEMBED_LOG_LEVEL = 'loud': .*debug, info, warning, error"),
        ({}, {}, "port = 'x'", r"config\.toml: port = 'x': .*int"),
        ({}, {}, "port = true", r"config\.toml: port = True: .*int"),
        ({}, {}, "cache = 1", r"config\.toml: cache = 1: .*bool"),
        ({}, {}, "model = 5", r"config\.toml: model = 5: .*str"),
        ({}, {}, "load_timeout = 0", r"config\.toml: load_timeout = 0: .*> 0"),
        ({}, {}, "[server]\nport = 1", r"config\.toml: unknown key 'server'"),
        ({}, {}, "cache_disk_mb = 5", r"config\.toml: unknown key 'cache_disk_mb'\. Did you mean 'cache_disk_mib'\?"),
        ({}, {}, "preload = 5", r"config\.toml: preload = 5: .*array"),
        ({"keep_alive": "soon"}, {}, "", r"--keep-alive = 'soon': invalid duration; expected for example \"90s\""),
        ({"keep_alive_of": "m=soon"}, {}, "", r"--keep-alive-of = 'm=soon': invalid duration"),
        ({"aliases": "text"}, {}, "", r"--aliases = 'text': expected NAME=VALUE, not 'text'"),
        ({"device": "npu"}, {}, "", r"--device = 'npu': expected auto, cpu, cuda"),
        ({}, {}, "port = = 1", r"cannot read .*config\.toml: .*line 1"),
    ],
)
def test_the_error_for_a_bad_value_names_its_origin(
    home: Path, flags: dict[str, str], variables: dict[str, str], file: str, says: str
) -> None:
    (home / "config.toml").write_text(file)
    with pytest.raises(ConfigError, match=says) as caught:
        resolve(flags, env(home, **variables))
    assert caught.value.exit_code == 2


def test_missing_and_unreadable_config_files(tmp_path: Path, home: Path) -> None:
    assert read_config(tmp_path / "not" / "there.toml") == {}
    (home / "config.toml").write_bytes(b"model = '\xff\xfe'\n")
    with pytest.raises(ConfigError, match=r"config\.toml"):
        resolve({}, env(home))
    with pytest.raises(ConfigError, match="cannot read"):
        read_config(tmp_path)
    with pytest.raises(ConfigError, match="cannot read"):
        resolve({}, env(home / "config.toml"))  # a home that is a file


def test_an_unknown_variable_is_ignored_with_a_warning(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert resolve({}, env(home, PROT="9", CACHE_HOME="/fast")).settings == Settings()
    assert "EDGEEMBED_PROT" in caplog.text
    assert "EDGEEMBED_CACHE_HOME" not in caplog.text


# --- config set -------------------------------------------------------------------------------------------------------

OWN = """\
# my settings

port = 9000  # behind the proxy
# the small one
model = 'all-minilm-l6-v2'

# the end
"""


def test_write_keeps_every_other_line(home: Path) -> None:
    path = home / "config.toml"
    path.write_text(OWN)
    write_setting(path, "port", "9001")
    assert path.read_text() == OWN.replace("9000", "9001")
    write_setting(path, "cache", "false", comment="no disk here")
    assert path.read_text().startswith(OWN.replace("9000", "9001"))
    assert read_config(path) == {"port": 9001, "model": "all-minilm-l6-v2", "cache": False}
    assert "# no disk here" in path.read_text()
    assert [file.name for file in home.iterdir()] == ["config.toml"], "no temporary file is left"


@pytest.mark.parametrize("text", ["port = 9000", "port = 9000 # mine", "port = 9000\n# the end", "# nothing yet"])
def test_write_after_a_last_line_without_a_line_break(home: Path, text: str) -> None:
    path = home / "config.toml"
    path.write_text(text)
    write_setting(path, "offline", "true", comment="chosen by hand")
    assert path.read_text() == f"{text}\n# chosen by hand\noffline = true\n"


TABLE = """\
port = 9000

[aliases]
# for the old tool
old = "a"  # keep

[keep_alive_of]
a = "5m\"
"""


@pytest.mark.parametrize("end", ["\n", ""])
def test_an_entry_of_a_table_is_set_and_removed_alone(home: Path, end: str) -> None:
    path = home / "config.toml"
    path.write_text(TABLE.rstrip() + end)
    write_entry(path, "aliases", "my.name:v1", "b:F16")
    assert read_config(path)["aliases"] == {"old": "a", "my.name:v1": "b:F16"}
    write_entry(path, "aliases", "my.name:v1", "c")
    assert read_config(path)["aliases"] == {"old": "a", "my.name:v1": "c"}
    assert '# for the old tool\nold = "a"  # keep\n' in path.read_text()
    write_entry(path, "aliases", "my.name:v1", None)
    write_entry(path, "aliases", "nobody", None)
    assert path.read_text() == TABLE
    write_entry(path, "keep_alive_of", "b", "1h")
    assert tomllib.loads(path.read_text()) == tomllib.loads(TABLE + 'b = "1h"')


@pytest.mark.parametrize("before", ["", 'aliases = "old=a"', 'aliases = {old = "a"}', 'aliases.old = "a"', "port = 1"])
def test_an_entry_of_a_table_in_each_form_of_toml(home: Path, before: str) -> None:
    path = home / "config.toml"
    path.write_text(before)
    write_entry(path, "aliases", "new", "b")
    expected = {"old": "a", "new": "b"} if "old" in before else {"new": "b"}
    assert read_config(path)["aliases"] == expected
    write_entry(path, "aliases", "new", None)
    assert {**resolve().settings.aliases} == {name: expected[name] for name in expected if name != "new"}


def test_a_wrong_entry_leaves_the_file_unchanged(home: Path) -> None:
    path = home / "config.toml"
    path.write_text(TABLE)
    with pytest.raises(ConfigError, match="keep_alive_of"):
        write_entry(path, "keep_alive_of", "b", "soon")
    assert path.read_text() == TABLE


def test_write_creates_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config.toml"
    write_setting(path, "model", 'C:\\models\\"x".gguf')
    write_setting(path, "load_timeout", "7.5")
    assert tomllib.loads(path.read_text()) == {"model": 'C:\\models\\"x".gguf', "load_timeout": 7.5}


@pytest.mark.parametrize(
    ("before", "key", "value", "says"),
    [
        (OWN, "prot", "1", "unknown setting 'prot'. Did you mean 'port'?"),
        (OWN, "port", "many", "port = 'many'"),
        ("port = = 1\n", "port", "1", "cannot read"),
        ("colour = 'red'\n", "port", "1", "unknown key 'colour'"),
    ],
)
def test_a_rejected_write_leaves_the_file_unchanged(home: Path, before: str, key: str, value: str, says: str) -> None:
    path = home / "config.toml"
    path.write_text(before)
    with pytest.raises(ConfigError) as caught:
        write_setting(path, key, value)
    assert says in caught.value.message
    assert path.read_text() == before


def test_a_failed_write_leaves_the_old_file_and_no_temporary_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "config.toml"
    path.write_text(OWN)

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ConfigError, match=r"cannot write .*No space left"):
        write_setting(path, "port", "1")
    assert path.read_text() == OWN
    assert [file.name for file in home.iterdir()] == ["config.toml"]


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
@pytest.mark.parametrize("name", ["api_key", "upstream_key", "forward_key", "cache_secret"])
def test_a_file_with_a_key_is_readable_by_its_owner_only(home: Path, name: str) -> None:
    path = home / "config.toml"
    assert not write_setting(path, name, "sesame") and stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("port = 1\n")
    path.chmod(0o664)
    assert not write_setting(path, "port", 2) and stat.S_IMODE(path.stat().st_mode) == 0o664
    assert write_setting(path, name, "sesame") and stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    assert write_setting(path, "port", 3), "the key was there already"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and not write_setting(path, "port", 4)


@pytest.mark.skipif(os.name != "posix", reason="modes and links of POSIX")
def test_write_keeps_symbolic_links_and_the_mode(tmp_path: Path, home: Path) -> None:
    real = tmp_path / "dotfiles.toml"
    real.write_text(OWN)
    real.chmod(0o644)
    path = home / "config.toml"
    path.symlink_to(real)
    write_setting(path, "port", "9001")
    assert path.is_symlink() and "9001" in real.read_text()
    assert stat.S_IMODE(real.stat().st_mode) == 0o644


def test_remove_restores_the_default_and_keeps_the_rest_of_the_file(home: Path) -> None:
    path = Paths.resolve().config_file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\ufeff# mine\nport = 9000\nthreads = 3\n", encoding="utf-8")  # begins with a byte order mark
    assert resolve(environ={"EDGEEMBED_HOME": str(home)}).settings.port == 9000
    assert remove_setting(path, "port")
    assert not remove_setting(path, "port")
    assert path.read_text() == "# mine\nthreads = 3\n"
    with pytest.raises(ConfigError, match="Did you mean 'port'"):
        remove_setting(path, "prot")
