"""The launchd agent: its content and location."""

from __future__ import annotations

import plistlib
import shutil
import subprocess
from pathlib import Path

import pytest

from edgeembed.autostart.launchd import Launchd
from edgeembed.errors import ConfigError
from tests.autostart.fakes import NASTY, FakeLaunchctl, program


def launchd(folder: Path, **environment: str) -> Launchd:
    started = program(folder / NASTY, **environment)
    return Launchd(started, folder / "choice.json", agents=folder / "agents", user=501, launchctl=FakeLaunchctl())


def test_enable_writes_one_agent_and_disable_removes_only_that(tmp_path: Path) -> None:
    autostart = launchd(tmp_path, EDGEEMBED_HOME="/Users/ann/my <home> & co")
    autostart.enable()
    (agent,) = (tmp_path / "agents").iterdir()
    assert agent.name == "edgeembed.daemon.plist"
    content = agent.read_bytes()
    assert content.startswith(b'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE plist')
    log = str(tmp_path / NASTY / "logs" / "daemon.log")
    assert plistlib.loads(content) == {
        "Label": "edgeembed.daemon",
        "ProgramArguments": [str(tmp_path / NASTY / "python"), "-P", "-m", "edgeembed", "serve"],
        "EnvironmentVariables": {"EDGEEMBED_HOME": "/Users/ann/my <home> & co"},
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 30,
        "ExitTimeOut": 30,
        "ProcessType": "Interactive",
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    assert Path(log).parent.is_dir(), "launchd creates the file, but not the folder"
    other = agent.with_name("other.plist")
    other.write_text("")
    autostart.disable()
    assert list(agent.parent.iterdir()) == [other]


def test_no_empty_table_of_variables(tmp_path: Path) -> None:
    autostart = launchd(tmp_path)
    autostart.enable()
    assert "EnvironmentVariables" not in plistlib.loads(Path(autostart.place).read_bytes())


@pytest.mark.skipif(not shutil.which("plutil"), reason="plutil is a tool of macOS")
def test_plutil_accepts_the_agent(tmp_path: Path) -> None:
    autostart = launchd(tmp_path, EDGEEMBED_HOME=NASTY)
    autostart.enable()
    subprocess.run(["plutil", "-lint", autostart.place], check=True, timeout=60)


def test_an_agent_that_says_disabled_is_off(tmp_path: Path) -> None:
    autostart = launchd(tmp_path)
    autostart.enable()
    agent = Path(autostart.place)
    agent.write_bytes(plistlib.dumps({**plistlib.loads(agent.read_bytes()), "Disabled": True}))
    assert not autostart.status() and not autostart.enable_unless_off()


def test_a_damaged_agent_is_an_error_with_its_name(tmp_path: Path) -> None:
    autostart = launchd(tmp_path)
    agent = Path(autostart.place)
    agent.parent.mkdir()
    for damage in (b"", b"<plist><dict>", b"bplist00" + bytes(40), b"\xff", plistlib.dumps([])):
        agent.write_bytes(damage)
        with pytest.raises(ConfigError, match=r"edgeembed\.daemon\.plist"):
            autostart.status()
