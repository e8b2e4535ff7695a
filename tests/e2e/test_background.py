"""`edgeembed start`, `stop`, `restart`, `status`, `logs`, `open`: a real daemon, alone and through systemd."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from edgeembed.background.process import listener
from edgeembed.config.settings import Settings
from tests.autostart import stand_in
from tests.cli.helpers import edgeembed
from tests.ports import free_port
from tests.signals import listening_to_sigint
from tests.waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sends signals, and stands in for systemd"),
]


@pytest.fixture
def port(home: Path, minilm: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Return the port in config.toml, with a model; systemd is not there, and what still runs at the end is killed."""
    found = free_port()
    home.mkdir()
    model = minilm("Q8_0")
    (home / "config.toml").write_text(f'model = "{model}"\nport = {found}\nhost = "127.0.0.1"\ngrace_period = 0.5\n')
    tools = tmp_path / "none"
    tools.mkdir()
    (tools / "systemctl").write_text("#!/bin/sh\nexit 1\n")
    (tools / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SUDO_USER", raising=False)
    yield found
    if (left := listener(Settings(host="127.0.0.1", port=found))) is not None:
        left.kill()


def pid_at(port: int) -> int:
    found = listener(Settings(host="127.0.0.1", port=port))
    assert found is not None
    return found.pid


def test_start_status_logs_restart_stop(port: int, home: Path) -> None:
    url = f"http://127.0.0.1:{port}"
    done = edgeembed("status")
    assert done.returncode == 3 and "not running" in done.stdout and "To start it: edgeembed start" in done.stdout

    done = edgeembed("start")
    assert done.returncode == 0 and f"edgeembed runs at {url}: " in done.stdout and "ready" in done.stdout, done.stderr
    pid = pid_at(port)
    again = edgeembed("start")
    assert again.returncode == 0 and again.stdout == f"edgeembed runs already at {url} (process {pid})\n"
    assert os.getsid(pid) == pid, "a Ctrl-C or the end of our terminal does not reach it"

    done = edgeembed("status", "--json")
    assert done.returncode == 0
    said = json.loads(done.stdout)
    assert {
        "running": True,
        "url": url,
        "pid": pid,
        "state": "ready",
        "paused": False,
        "autostart": False,
    }.items() <= said.items()
    assert said["started_by"] == "a command, in the background" and said["log"] == str(home / "logs" / "daemon.log")
    done = edgeembed("logs", "-n", "1000")
    assert f"listens on {url}" in done.stdout and done.stderr == ""
    assert edgeembed("logs", "-n", "1").stdout.count("\n") == 1

    done = edgeembed("restart")
    assert done.returncode == 0 and f"edgeembed runs at {url}: " in done.stdout
    done = edgeembed("stop")
    assert (done.returncode, done.stdout) == (0, "edgeembed has stopped.\n"), done.stderr
    assert edgeembed("status").returncode == 3
    assert edgeembed("stop").stdout == f"edgeembed is not running at {url}.\n"
    assert "stopping" in edgeembed("logs").stdout, "the log of a daemon that has ended can be read"


def test_starts_again_after_a_crash(port: int) -> None:
    assert edgeembed("start").returncode == 0
    os.kill(pid_at(port), signal.SIGKILL)
    until(lambda: listener(Settings(host="127.0.0.1", port=port)) is None)
    assert edgeembed("status").returncode == 3
    assert edgeembed("start").returncode == 0 and edgeembed("status").returncode == 0


def test_a_daemon_that_hangs_is_killed_after_its_grace(port: int) -> None:
    assert edgeembed("start").returncode == 0
    process = psutil.Process(pid_at(port))
    process.suspend()
    done = edgeembed("status", "--json")
    assert done.returncode == 3 and json.loads(done.stdout)["state"] == "does not answer"
    done = edgeembed("stop")
    assert done.returncode == 0 and done.stdout == "edgeembed has stopped.\n"
    assert "does not answer; ending it" in done.stderr and f"process {process.pid} is killed" in done.stderr
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_daemon_that_cannot_start_says_why(port: int) -> None:
    done = edgeembed("start", "--model", "nonsense")
    assert done.returncode == 2 and "the daemon ended with exit status 2" in done.stderr
    assert "no model is named 'nonsense'" in done.stderr and "Traceback" not in done.stderr


def test_a_restart_with_settings_that_would_not_do_leaves_the_daemon_running(port: int, home: Path) -> None:
    assert edgeembed("start").returncode == 0
    pid, config = pid_at(port), home / "config.toml"
    config.write_text(f'{config.read_text()}api_key_file = "{home / "missing"}"\n')
    done = edgeembed("restart")
    assert done.returncode == 2 and "goes on with its old settings" in done.stderr and "missing" in done.stderr
    assert pid_at(port) == pid


def test_another_program_at_the_address_is_left_alone(port: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as other:
        until(lambda: _listens(port))
        for command in ("start", "stop", "open"):
            done = edgeembed(command)
            assert done.returncode in (1, 2) and "a program other than edgeembed answers" in done.stderr
        done = edgeembed("status")
        assert done.returncode == 3 and "To start it" not in done.stdout
        assert other.poll() is None
        other.kill()


def test_logs_follow_what_is_added(port: int) -> None:
    assert edgeembed("start").returncode == 0
    with listening_to_sigint():
        following = subprocess.Popen(
            [sys.executable, "-m", "edgeembed", "logs", "-f", "-n", "1"], stdout=subprocess.PIPE, text=True
        )
    try:
        assert following.stdout is not None
        assert following.stdout.readline()  # the last line so far: it follows from now on
        assert edgeembed("stop").returncode == 0
        assert any("shutdown requested" in line for line in following.stdout)
        following.send_signal(signal.SIGINT)
        assert following.wait(30) == 0
    finally:
        following.kill()
        following.communicate()


@pytest.fixture
def systemd(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder of a stand-in for systemd's user manager."""
    folder = tmp_path / "systemd"
    tools = stand_in.install(folder, tmp_path / "config" / "systemd" / "user" / "edgeembed.service")
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    yield folder
    stand_in.end(folder)


def test_an_autostart_unit_is_started_and_stopped_by_its_manager(port: int, systemd: Path) -> None:
    done = edgeembed("autostart", "enable", "--now")
    assert done.returncode == 0 and f"It runs at http://127.0.0.1:{port}." in done.stdout, done.stderr
    pid = int((systemd / "pid").read_text())
    assert pid_at(port) == pid
    said = json.loads(edgeembed("status", "--json").stdout)
    assert (said["pid"], said["started_by"], said["autostart"]) == (pid, "systemd", True)
    assert "journalctl --user-unit=edgeembed.service" in said["log"]
    assert edgeembed("logs", "-n", "1000").stdout == (systemd / "journal").read_text()
    edgeembed("restart")
    assert pid_at(port) == int((systemd / "pid").read_text()) != pid, "it is systemd's again"
    done = edgeembed("stop")
    assert done.returncode == 0 and "stopping it through systemd" in done.stderr
    calls = (systemd / "calls").read_text().splitlines()
    assert "--user start --no-block edgeembed.service" in calls and calls.count("--user stop edgeembed.service") == 2

    done = edgeembed("start", "--model", "nonsense")
    assert "not through systemd, whose daemon has the settings of config.toml, not --model" in done.stderr


def test_a_unit_that_fails_says_why(port: int, systemd: Path, home: Path) -> None:
    edgeembed("autostart", "enable")
    config = home / "config.toml"
    config.write_text(config.read_text().replace("model = ", 'certfile = "/nowhere"\nmodel = '))
    done = edgeembed("start")
    assert done.returncode == 1 and "does not run" in done.stderr and "certfile" in done.stderr, done.stderr


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
