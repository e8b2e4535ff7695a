"""The wheel: three import packages, nothing called `convert` or `models`, and no compiler needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgeembed.server.dashboard import SCRIPTS, STYLES

ROOT = Path(__file__).parents[1]
NOT_SOURCE = shutil.ignore_patterns(".git", ".venv", ".ci", "build", "*.egg-info", "__pycache__", ".*_cache")


@pytest.mark.slow
def test_a_wheel_holds_the_three_packages_and_the_catalogue(tmp_path: Path) -> None:
    source = shutil.copytree(ROOT, tmp_path / "source", ignore=NOT_SOURCE)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    # As on a machine without a compiler, which goes without the kernels; compiling them would take ten times as long.
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "CC": "false", "CXX": "false"})
    (wheel,) = tmp_path.glob("edgeembed-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"edgeembed", "edgeembed_convert", "edgeembed_models"}
    sources = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in (("edgeembed", ROOT / "edgeembed"), ("edgeembed_convert", ROOT / "convert"))
        for path in folder.rglob("*.py")
    } | {f"edgeembed_models/{path.name}" for path in (ROOT / "models").glob("*.toml")}
    sources |= {f"edgeembed/server/dashboard/{name}" for name in ("index.html", *STYLES, *SCRIPTS)}
    assert not [name for name in names if name.endswith((".so", ".pyd"))]
    assert sources <= set(names), "a folder is missing from [tool.setuptools] packages"


def test_the_installed_packages_have_their_long_names_only(tmp_path: Path) -> None:
    code = (
        "from importlib.util import find_spec as f; "
        "print([f(n) is not None for n in ('edgeembed', 'edgeembed_convert', 'edgeembed_models', 'convert', 'models')])"
    )
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", code]
    said = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[True, True, True, False, False]"
