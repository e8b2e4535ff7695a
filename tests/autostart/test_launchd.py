"""The launchd agent: its content and location."""

from __future__ import annotations

import plistlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgeembed.autostart.base import Managed
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


AGENT = """gui/501/edgeembed.daemon = {
	active count = 1
	state = running
	pid = 4321
	last exit code = 0
}"""


class Loaded:
    """launchctl with an agent that is loaded by `bootstrap`, and ended and unloaded by `bootout`."""

    def __init__(self) -> None:
        self.output = ""
        self.calls: list[str] = []

    def __call__(self, arguments: Sequence[str]) -> str:
        self.calls.append(arguments[0])
        if arguments[0] in ("bootstrap", "kickstart"):
            self.output = AGENT
        elif arguments[0] == "bootout":
            self.output = ""
        return self.output if arguments[0] == "print" else ""


def test_the_agent_is_started_and_stopped_now(tmp_path: Path) -> None:
    launchctl = Loaded()
    autostart = Launchd(program(tmp_path), tmp_path / "choice.json", agents=tmp_path, user=501, launchctl=launchctl)
    manager = autostart.manager()
    assert manager.inspect() is None
    manager.start()
    assert manager.inspect() == Managed("running", 4321)
    launchctl.output = AGENT.replace("\tpid = 4321\n", "").replace("exit code = 0", "exit code = 1")
    assert manager.inspect() == Managed("restarting")
    manager.start()
    manager.stop()
    assert manager.inspect() is None
    assert [call for call in launchctl.calls if call != "print"] == ["bootstrap", "kickstart", "bootout"]
    assert manager.log_command(5, follow=False) is None, "its log is a file"
