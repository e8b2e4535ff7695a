"""The maintainer scripts of the Debian package, on a folder instead of the system (dpkg's DPKG_ROOT)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.installers.loading import INSTALLERS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="dpkg's scripts are for sh")

MODULE = "usr/lib/edgeembed/lib/python3/site-packages/a.py"
DATA = (
    "var/lib/private/edgeembed/models/m.gguf",
    "var/cache/private/edgeembed/vectors",
    "etc/edgeembed/edgeembed.env",
    "home/somebody/.local/share/edgeembed/models/m.gguf",
)


@pytest.fixture
def system(tmp_path: Path) -> Path:
    for name in (MODULE, *DATA, "var/lib/other/file"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text("value = 1\n", encoding="utf-8")
    for parent in ("lib", "cache"):
        (tmp_path / "var" / parent / "edgeembed").symlink_to("private/edgeembed")
    python = tmp_path / "usr/bin/python3"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    return tmp_path


def call(system: Path, script: str, *arguments: str) -> str:
    environment = {**os.environ, "DPKG_ROOT": str(system)}
    command = ["sh", str(INSTALLERS / "deb" / script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout


def compiled(system: Path) -> list[Path]:
    return list((system / "usr/lib/edgeembed").rglob("*.pyc"))


@pytest.mark.parametrize("last_step", [["remove"], ["upgrade", "9.9"]])
def test_removing_the_package_removes_compiled_files(system: Path, last_step: list[str]) -> None:
    call(system, "postinst", "configure", "")
    assert compiled(system)
    call(system, "prerm", *last_step)
    assert not compiled(system)
    assert (system / MODULE).exists()


def test_remove_keeps_all_data_and_prints_the_folders(system: Path) -> None:
    output = call(system, "postrm", "remove")
    assert "keeping /var/lib/edgeembed" in output and "keeping /var/cache/edgeembed" in output
    assert all((system / name).exists() for name in DATA)


def test_purge_removes_only_the_data_of_the_service(system: Path) -> None:
    call(system, "postrm", "purge")
    left = {path.relative_to(system).as_posix() for path in system.rglob("*") if "edgeembed" in path.name}
    assert left == {"usr/lib/edgeembed", "home/somebody/.local/share/edgeembed"}
    assert (system / "var/lib/other/file").exists()
    assert "~/.local/share/edgeembed" in call(system, "postrm", "purge"), "a second purge finds nothing to do"


@pytest.mark.parametrize("step", ["upgrade", "failed-upgrade", "abort-install", "abort-upgrade", "disappear"])
def test_other_steps_of_dpkg_keep_the_data(system: Path, step: str) -> None:
    call(system, "postrm", step, "0.1.0-1")
    assert all((system / name).exists() for name in DATA)
