"""install.sh of the tarball: what it installs, and what it keeps."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.installers.loading import INSTALLERS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the tarball is for Linux; Windows has no sh")

DATA = (".local/share/edgeembed/models/m.gguf", ".cache/edgeembed/vectors/v", ".config/edgeembed/config.toml")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """An unpacked tarball with a fake program that prints its arguments."""
    folder = tmp_path / "edgeembed-0-linux"
    texts = {
        "edgeembed": '#!/bin/sh\necho first: "$@"\n',
        "python/bin/python3": "#!/bin/sh\n",
        "share/completions/edgeembed.bash": "bash",
        "share/completions/edgeembed.zsh": "zsh",
        "share/completions/edgeembed.fish": "fish",
        "share/applications/edgeembed.desktop": (INSTALLERS / "edgeembed.desktop").read_text(encoding="utf-8"),
        "share/icons/edgeembed.svg": "svg",
        "share/icons/edgeembed-48.png": "png",
        "share/man/man1/edgeembed.1.gz": "page",
        "share/man/man1/edgeembed-serve.1.gz": "page",
    }
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for program in ("edgeembed", "python/bin/python3"):
        (folder / program).chmod(0o755)
    shutil.copy(INSTALLERS / "install.sh", folder)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "it's home"
    for name in DATA:
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text("kept", encoding="utf-8")
    return folder


def call(bundle: Path, home: Path, *arguments: str, status: int = 0) -> str:
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    run = subprocess.run(
        ["sh", str(bundle / "install.sh"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == status, run.stdout + run.stderr
    return run.stdout + run.stderr


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_help_explains_where_files_go_and_changes_nothing(bundle: Path, home: Path) -> None:
    before = tree(home)
    output = call(bundle, home, "--help")
    for word in ("--prefix", "--dry-run", "--uninstall", "--purge", "FOLDER/bin/edgeembed"):
        assert word in output
    assert tree(home) == before


@pytest.mark.parametrize("arguments", [["--dry-run"], ["--uninstall", "--dry-run"], ["--uninstall", "--purge", "--dry-run"]])
def test_a_dry_run_prints_the_changes_and_makes_none(bundle: Path, home: Path, arguments: list[str]) -> None:
    if "--uninstall" in arguments:
        call(bundle, home)
    before = tree(home)
    output = call(bundle, home, *arguments)
    assert "would run" in output and str(home / ".local" / "lib" / "edgeembed") in output
    assert tree(home) == before


def test_install_and_upgrade(bundle: Path, home: Path) -> None:
    call(bundle, home)
    program = home / ".local" / "bin" / "edgeembed"
    run = subprocess.run([str(program), "serve", "two words"], capture_output=True, text=True, check=True)
    assert run.stdout == "first: serve two words\n"
    installed = tree(home)
    assert {
        ".local/share/fish/vendor_completions.d/edgeembed.fish",
        ".local/share/man/man1/edgeembed-serve.1.gz",
    } <= installed
    entry = (home / ".local/share/applications/edgeembed.desktop").read_text(encoding="utf-8")
    assert f'Exec="{program}" tray' in entry

    (home / ".local/lib/edgeembed/stale.py").write_text("of the old version", encoding="utf-8")
    (bundle / "edgeembed").write_text("#!/bin/sh\necho second\n", encoding="utf-8")
    call(bundle, home)
    assert subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout == "second\n"
    assert tree(home) == installed


def test_uninstall_keeps_models_and_cache_and_prints_their_folders(bundle: Path, home: Path) -> None:
    before = tree(home)
    call(bundle, home)
    output = call(bundle, home, "--uninstall")
    assert tree(home) == before
    for folder in (".local/share/edgeembed", ".cache/edgeembed", ".config/edgeembed"):
        assert f"kept: {home / folder}" in output
    assert "first: autostart disable" in output


def test_purge_removes_models_and_cache(bundle: Path, home: Path) -> None:
    call(bundle, home)
    call(bundle, home, "--uninstall", "--purge")
    assert tree(home) == set()


def test_programs_of_other_installations_are_not_touched(bundle: Path, home: Path) -> None:
    other = home / ".local" / "bin" / "edgeembed"
    other.parent.mkdir(parents=True)
    other.write_text("#!/bin/sh\necho pip\n", encoding="utf-8")
    assert "another installation" in call(bundle, home, status=1)
    call(bundle, home, "--uninstall")
    assert other.read_text(encoding="utf-8").endswith("echo pip\n")


def test_another_prefix_and_wrong_arguments(bundle: Path, home: Path, tmp_path: Path) -> None:
    call(bundle, home, "--prefix", str(tmp_path / "opt"))
    assert (tmp_path / "opt" / "bin" / "edgeembed").exists()
    assert not (home / ".local" / "bin").exists()
    assert "unknown argument: --purgee" in call(bundle, home, "--purgee", status=2)
    assert "--purge requires --uninstall" in call(bundle, home, "--purge", status=2)
