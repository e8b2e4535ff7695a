"""`edgeembed autostart` on Linux without a systemd user session."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cli.helpers import edgeembed

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="here it would write this user's own registry or folder of launchd"
    ),
]


@pytest.fixture(autouse=True)
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tool = tmp_path / "bin" / "systemctl"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SUDO_USER", raising=False)
    return tmp_path / "config" / "autostart" / "edgeembed.desktop"


def test_enable_status_disable(entry: Path, home: Path) -> None:
    said = edgeembed("autostart", "status")
    assert said.returncode == 1 and "no\n" in said.stdout and "none yet" in said.stdout
    assert not home.exists(), "looking changes nothing"
    said = edgeembed("autostart", "enable")
    assert said.returncode == 0 and str(entry) in said.stdout, said.stderr
    assert f"EDGEEMBED_HOME={home}" in entry.read_text()
    said = edgeembed("autostart", "status", "--json")
    assert said.returncode == 0
    assert json.loads(said.stdout) == {
        "enabled": True,
        "system": "XDG autostart",
        "entry": str(entry),
        "current": True,
        "choice": "on",
        "command": [sys.executable, "-P", "-m", "edgeembed", "serve"],
        "environment": {"EDGEEMBED_HOME": str(home)},
    }
    said = edgeembed("autostart", "disable")
    assert said.returncode == 0 and not entry.exists()
    assert edgeembed("autostart", "status").returncode == 1


def test_an_installer_respects_that_the_user_disabled_it(entry: Path) -> None:
    assert json.loads(edgeembed("autostart", "enable", "--unless-off", "--json").stdout)["enabled"] is True
    assert json.loads(edgeembed("autostart", "disable", "--forget", "--json").stdout)["choice"] is None
    edgeembed("autostart", "disable")
    said = edgeembed("autostart", "enable", "--unless-off")
    assert said.returncode == 0 and "stays disabled" in said.stdout and not entry.exists()


def test_status_reports_a_disabled_entry_and_one_of_another_installation(entry: Path) -> None:
    edgeembed("autostart", "enable")
    written = entry.read_text()
    entry.write_text(written.replace(sys.executable, "/opt/old/bin/python"))
    said = edgeembed("autostart", "status")
    assert said.returncode == 0 and "To update it: edgeembed autostart enable" in said.stdout
    entry.write_text(written.replace("enabled=true", "enabled=false"))
    said = edgeembed("autostart", "status")
    assert said.returncode == 1 and "disabled in the settings of the system" in said.stdout


def test_an_error_is_one_line_and_status_2(entry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry.parent.mkdir(parents=True)
    entry.write_text("[Desktop Entry]\nName=mine\n")
    said = edgeembed("autostart", "enable")
    assert said.returncode == 2 and said.stderr.startswith(f"error: {entry} was not written by edgeembed")
    assert len(said.stderr.splitlines()) == 1
