"""Versions and requirements of the installers come only from pyproject.toml."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise

import pytest

from tests.installers.loading import INSTALLERS, ROOT, load

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def value_of(name: str) -> str:
    command = [sys.executable, str(INSTALLERS / "metadata.py"), name]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_values_are_those_of_pyproject() -> None:
    assert value_of("version") == PROJECT["version"]
    assert value_of("debian-version") == f"{PROJECT['version']}-1"
    assert value_of("llama") in PROJECT["dependencies"] and "==" in value_of("llama")
    assert f">={value_of('python')}" == PROJECT["requires-python"]


CHART = {INSTALLERS / "kubernetes" / name for name in ("edgeembed/Chart.yaml", "manifests/edgeembed.yaml")}
"""Have a version because Helm wants one: `release.py` writes it, and test_chart.py compares it with pyproject.toml."""


def test_no_installer_contains_the_version() -> None:
    pinned = PROJECT["version"], value_of("llama").split("==")[1]
    files = [path for path in INSTALLERS.rglob("*") if path.is_file() and path.suffix != ".pyc" and path not in CHART]
    # Caches of tools are in hidden folders.
    ours = [path for path in files if not any(part.startswith(".") for part in path.relative_to(INSTALLERS).parts)]
    texts = {path: path.read_text(encoding="utf-8") for path in ours}
    assert len(texts) > 15
    found = [(path.name, version) for path, text in texts.items() for version in pinned if version in text]
    # 127.0.0.1 contains "0.0.1", so the whole version is searched for.
    assert not found


@pytest.mark.skipif(not shutil.which("dpkg"), reason="dpkg, which orders the versions, is not on this machine")
def test_dpkg_orders_versions_as_python_does() -> None:
    debian_version = load("metadata.py").debian_version
    ordered = ["0.1.0.dev1", "0.1.0a1", "0.1.0b2", "0.1.0rc1", "0.1.0", "0.1.0.post1", "0.1.1rc1", "0.1.1", "0.10.0"]
    # dpkg sorts "dev" after "b", but it only matters that pre-releases come before the release.
    for earlier, later in pairwise(ordered[1:]):
        command = ["dpkg", "--compare-versions", debian_version(earlier), "lt", debian_version(later)]
        assert subprocess.run(command, check=False).returncode == 0, (earlier, later)
    assert (
        subprocess.run(["dpkg", "--compare-versions", debian_version(ordered[0]), "lt", debian_version("0.1.0")]).returncode
        == 0
    )
