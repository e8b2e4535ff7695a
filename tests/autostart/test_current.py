"""Which mechanism is chosen, and which program is started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeembed import autostart
from edgeembed.autostart.base import Program
from edgeembed.autostart.systemd import SystemdUser
from edgeembed.autostart.xdg import XdgAutostart
from edgeembed.config.paths import Paths
from edgeembed.errors import ConfigError

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has a choice between systemd and XDG")


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a user with their own home and a fake systemctl, whose exit status is in a file."""
    tools = tmp_path / "bin"
    tools.mkdir()
    systemctl = tools / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexit $(cat {tmp_path}/status)\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("SUDO_USER", raising=False)
    (tmp_path / "status").write_text("0")
    return tmp_path


@linux
def test_systemd_if_it_manages_the_session_else_the_desktop(user: Path) -> None:
    assert isinstance(autostart.current(), SystemdUser)
    autostart.enable()
    unit = user / "user" / ".config" / "systemd" / "user" / "edgeembed.service"
    assert unit.exists() and autostart.status()
    assert (user / "calls").read_text().splitlines()[-2:] == ["--user daemon-reload", "--user show-environment"]
    (user / "status").write_text("1")
    assert isinstance(autostart.current(), XdgAutostart)
    assert autostart.status(), "the unit counts even while systemd is not reachable"
    autostart.disable()
    assert not unit.exists() and not autostart.status()


@linux
def test_switching_the_mechanism_removes_the_other_entry(user: Path) -> None:
    config = user / "user" / ".config"
    unit, entry = config / "systemd" / "user" / "edgeembed.service", config / "autostart" / "edgeembed.desktop"
    (user / "status").write_text("1")
    autostart.enable()
    assert entry.exists() and not unit.exists()
    (user / "status").write_text("0")
    autostart.enable()
    assert unit.exists() and not entry.exists()


@linux
def test_xdg_config_home_counts_unless_it_is_relative(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(user / "elsewhere"))
    assert autostart.current().place == str(user / "elsewhere" / "systemd" / "user" / "edgeembed.service")
    monkeypatch.setenv("XDG_CONFIG_HOME", "elsewhere")
    assert autostart.current().place.startswith(str(user / "user" / ".config"))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no sudo")
def test_under_sudo_nothing_is_written(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "ann")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ConfigError, match="without sudo"):
        autostart.enable()
    assert not (user / "user").exists()


def test_the_program_has_edgeembed_home_but_no_secrets(tmp_path: Path) -> None:
    environ = {"EDGEEMBED_HOME": str(tmp_path), "EDGEEMBED_API_KEY": "secret", "HF_TOKEN": "secret", "PATH": "/bin"}
    program = Program.this(environ)
    assert program.environment == {"EDGEEMBED_HOME": str(tmp_path)}
    assert program.log_file == tmp_path / "logs" / "daemon.log"
    assert Program.this({}).environment == {}


def test_an_edgeembed_home_of_an_unknown_user_is_the_folder_that_the_daemon_takes() -> None:
    environ = {"EDGEEMBED_HOME": "~nosuch/embed"}
    home = Program.this(environ).environment["EDGEEMBED_HOME"]
    assert Paths.resolve({"EDGEEMBED_HOME": home}) == Paths.resolve(environ)


def test_modules_in_the_working_directory_are_not_imported(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise SystemExit('a module of the user')")
    command = Program.this().command
    assert Path(command[0]).is_absolute()
    done = subprocess.run([*command, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "Run the daemon" in done.stdout, done.stderr


def test_a_bundle_starts_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", str(Path("/opt/edgeembed/edgeembed").absolute()))
    assert Program.this({}).command == (sys.executable, "serve")


@pytest.mark.parametrize(
    ("frozen", "beside", "started"),
    [
        (True, ["edgeembed.exe", "edgeembedw.exe"], "edgeembedw.exe serve"),
        (True, ["edgeembed.exe"], "edgeembed.exe serve"),
        (False, ["python.exe", "pythonw.exe", "edgeembedw.exe"], "pythonw.exe -P -m edgeembed serve"),
        (False, ["python.exe"], "python.exe -P -m edgeembed serve"),
    ],
)
def test_on_windows_no_console_window_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: bool, beside: list[str], started: str
) -> None:
    for name in beside:
        (tmp_path / name).touch()
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "frozen", frozen, raising=False)
    entries = set()
    # Called by the tray, which is windowless itself, as by the command in a terminal: both write the same entry.
    for caller in {beside[0], started.partition(" ")[0]}:
        monkeypatch.setattr(sys, "executable", str(tmp_path / caller))
        command = Program.this({"EDGEEMBED_HOME": str(tmp_path)}).command
        assert Path(command[0]).parent == tmp_path
        entries.add(" ".join([Path(command[0]).name, *command[1:]]))
    assert entries == {started}
