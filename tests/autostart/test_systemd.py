"""The user unit: its content, and how systemd reads it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeembed.autostart.systemd import SystemdUser, quote
from edgeembed.errors import ConfigError
from tests.autostart.fakes import NASTY, program
from tests.autostart.units import complaints

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs Linux: the files are links")


def test_enable_writes_a_unit_and_a_link_and_disable_removes_only_these(tmp_path: Path) -> None:
    user = tmp_path / "config" / "systemd" / "user"
    other = user / "default.target.wants" / "other.service"
    other.parent.mkdir(parents=True)
    other.write_text("")
    autostart = SystemdUser(program(tmp_path, EDGEEMBED_HOME="/home/ann/my home"), tmp_path / "c.json", tmp_path / "config")
    autostart.enable()
    unit = user / "edgeembed.service"
    lines = unit.read_text().splitlines()
    assert f'ExecStart=":{tmp_path}/python" "-P" "-m" "edgeembed" "serve"' in lines
    assert 'Environment="EDGEEMBED_HOME=/home/ann/my home"' in lines
    assert "Type=notify" in lines and "WantedBy=default.target" in lines
    assert {path.name for path in other.parent.iterdir()} == {"edgeembed.service", "other.service"}
    assert other.with_name("edgeembed.service").readlink() == unit
    autostart.disable()
    assert [path for path in user.rglob("*") if not path.is_dir()] == [other]
    other.unlink()
    autostart.enable()
    autostart.disable()
    assert list(user.iterdir()) == [], "the empty folder of links is removed"


def test_a_masked_unit_counts_as_off(tmp_path: Path) -> None:
    autostart = SystemdUser(program(tmp_path), tmp_path / "choice.json", tmp_path)
    unit = Path(autostart.place)
    unit.parent.mkdir(parents=True)
    unit.symlink_to("/dev/null")
    assert not autostart.status() and not autostart.enable_unless_off()
    with pytest.raises(ConfigError, match="unmask"):
        autostart.enable()
    autostart.disable()
    assert unit.is_symlink()


def test_a_link_without_its_unit_is_removed(tmp_path: Path) -> None:
    autostart = SystemdUser(program(tmp_path), tmp_path / "choice.json", tmp_path)
    autostart.enable()
    Path(autostart.place).unlink()
    autostart.disable()
    assert list(Path(autostart.place).parent.iterdir()) == []


def test_quoting_for_systemd() -> None:
    assert quote(NASTY) == '"a b\'c\\"d$HOME%%h\\\\e`f;é"'
    assert quote("line\nbreak\x7f") == '"line\\x0abreak\\x7f"'
    with pytest.raises(ConfigError, match="Unicode"):
        quote("\udcff")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("folder", ["plain", "a b$HOME%h`f;é"])
def test_systemd_accepts_the_unit(folder: str, tmp_path: Path) -> None:
    started = program(tmp_path / folder, EDGEEMBED_HOME=str(tmp_path / folder))
    executable = Path(started.command[0])
    executable.parent.mkdir()
    shutil.copy("/bin/true", executable)  # verify reports paths that are not executable, such as misread ones
    autostart = SystemdUser(started, tmp_path / "choice.json", tmp_path)
    autostart.enable()
    assert complaints(Path(autostart.place), "--user") == []
    executable.unlink()
    assert complaints(Path(autostart.place), "--user"), "verify must report a missing program"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_a_path_that_systemd_allows_only_as_an_argument_is_started_by_env(tmp_path: Path) -> None:
    started = program(tmp_path / NASTY)
    autostart = SystemdUser(started, tmp_path / "choice.json", tmp_path)
    autostart.enable()
    assert f'ExecStart=":/usr/bin/env" {quote(started.command[0])} "-P"' in Path(autostart.place).read_text()
    assert complaints(Path(autostart.place), "--user") == []


def test_a_hanging_or_failing_systemctl_is_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "systemctl"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(tool))
    monkeypatch.setattr("edgeembed.autostart.systemd.SYSTEMCTL_SECONDS", 0.2)
    autostart = SystemdUser(program(tmp_path), tmp_path / "choice.json", tmp_path)
    autostart.enable()
    assert autostart.status()
    monkeypatch.setattr(subprocess, "run", _refuses)
    autostart.disable()
    assert not autostart.status()


def _refuses(*_: object, **__: object) -> None:
    raise PermissionError(13, "denied")
