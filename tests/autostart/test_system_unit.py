"""The unit for machines without a user session: installers/systemd/edgeembed.service."""

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

needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze, which reads the unit, is not installed"
)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return the unit with a program that exists here."""
    copy = tmp_path / "edgeembed.service"
    copy.write_text(UNIT.read_text().replace("/usr/bin/edgeembed", sys.executable))
    return copy


@needs_systemd
def test_systemd_understands_the_unit(unit: Path) -> None:
    assert complaints(unit) == []
    unit.write_text(unit.read_text().replace("ProtectSystem=strict", "ProtectSystem=strictly"))
    assert complaints(unit), "or it would have checked nothing"


@needs_systemd
def test_the_sandbox_stays_as_tight_as_it_is(unit: Path) -> None:
    # Tenths of systemd's exposure level, 0 to 100; what is left is the network, AF_UNIX, /proc and the priority of threads.
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", str(unit)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unrecognized option" in said.stderr:
        pytest.skip("this systemd-analyze cannot look at a unit that is not installed (before 250)")
    print(said.stdout.splitlines()[-1])
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the folders of systemd are Linux's")
def test_all_that_the_daemon_writes_is_in_the_folders_that_it_may_write(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_settings_that_keep_a_daemon_alive_are_there() -> None:
    lines = UNIT.read_text().splitlines()
    for line in ("Type=notify", "Restart=on-failure", "KillMode=mixed", "OOMPolicy=continue", "StartLimitIntervalSec=0"):
        assert line in lines
    assert not any(line.startswith("ProcSubset=") for line in lines), "psutil and ggml read /proc/meminfo and /proc/cpuinfo"
