"""The system unit, for machines without a user session: installers/systemd/edgeembed.service."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeembed.config.paths import Paths
from tests.autostart.units import complaints

UNIT = Path(__file__).parents[2] / "installers" / "systemd" / "edgeembed.service"

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return a copy of the unit with a program that exists here."""
    copy = tmp_path / "edgeembed.service"
    copy.write_text(UNIT.read_text().replace("/usr/bin/edgeembed", sys.executable))
    return copy


@needs_systemd
def test_systemd_accepts_the_unit(unit: Path) -> None:
    assert complaints(unit) == []
    unit.write_text(unit.read_text().replace("ProtectSystem=strict", "ProtectSystem=strictly"))
    assert complaints(unit), "verify must report a wrong value"


@needs_systemd
def test_the_sandbox_is_not_weakened(unit: Path) -> None:
    # systemd's exposure level times ten, 0 to 100; the rest is the network, AF_UNIX, /proc and the priority of threads.
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot analyse units that are not installed (before 250)")
    print(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
def test_all_paths_of_the_daemon_are_in_writable_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    text = UNIT.read_text().replace("%S", "/var/lib").replace("%C", "/var/cache")
    (state,), (cache,) = re.findall(r"^StateDirectory=(.+)$", text, re.M), re.findall(r"^CacheDirectory=(.+)$", text, re.M)
    for words in re.findall(r"^Environment=(.+)$", text, re.M):
        for word in shlex.split(words):
            monkeypatch.setenv(*word.split("=", 1))
    monkeypatch.delenv("EDGEEMBED_HOME")
    paths = Paths.resolve()
    for path in (paths.config_file, paths.models, paths.state, paths.logs):
        assert path.is_relative_to(Path("/var/lib", state)), path
    assert paths.cache.is_relative_to(Path("/var/cache", cache))


def test_settings_for_restarts_and_memory() -> None:
    lines = UNIT.read_text().splitlines()
    for line in ("Type=notify", "Restart=on-failure", "KillMode=mixed", "OOMPolicy=continue", "StartLimitIntervalSec=0"):
        assert line in lines
    # Without these, the unit's own filter would keep workers from restricting themselves.
    assert "SystemCallFilter=landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp" in lines
    assert not any(line.startswith("ProcSubset=") for line in lines), "psutil and ggml read /proc/meminfo and /proc/cpuinfo"
