"""Which files of a folder are indexed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeembed.mcp.text_files import MOST_BYTES, Skipped, TextFile, text_files
from tests.mcp.files import written


def paths(folder: Path) -> list[str]:
    return [file.path for file in text_files(folder) if isinstance(file, TextFile)]


IGNORING: dict[str, str | bytes] = {
    ".gitignore": "*.log\n/build/\n!kept.log\nsecret*\n",
    "a.py": "a = 1\n",
    "b.log": "no\n",
    "kept.log": "yes\n",
    "build/out.txt": "no\n",
    "src/build/in.txt": "yes\n",
    "src/.gitignore": "*.txt\n!in.txt\n!secret.md\n",
    "src/notes.txt": "no\n",
    "src/secret.md": "yes, as the nearer file says\n",
    "src/deep/c.py": "c = 1\n",
    "src/deep/secret.txt": "no\n",
}


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_what_git_ignores_is_left_out_as_git_leaves_it_out(tmp_path: Path) -> None:
    written(tmp_path, IGNORING)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    expected = sorted(name for name in listed.stdout.splitlines() if not name.endswith(".gitignore"))
    assert sorted(paths(tmp_path)) == expected
    assert "src/secret.md" in expected and "b.log" not in expected
    assert paths(tmp_path / "src") == [name.removeprefix("src/") for name in expected if name.startswith("src/")]


def test_rules_above_a_folder_count_within_its_repository_only(tmp_path: Path) -> None:
    written(tmp_path, {".gitignore": "*.md\n", "repo/.git/HEAD": "", "repo/.gitignore": "*.log\n", "repo/src/a.md": "a"})
    assert paths(tmp_path / "repo" / "src") == ["a.md"]


def test_hidden_files_links_and_what_is_not_text_are_left_out(tmp_path: Path) -> None:
    folder = written(
        tmp_path / "folder",
        {
            ".env": "PASSWORD=secret\n",
            ".ssh/id": "secret\n",
            "a.txt": "\ufeffa\n",
            "image.png": b"\x89PNG\r\n\x1a\n\x00",
            "latin.txt": "caf\xe9".encode("latin-1"),
            "nul.txt": "a\0b",
            "big.csv": b"1,2\n" * (MOST_BYTES // 4 + 1),
        },
    )
    written(tmp_path / "outside", {"secret.txt": "secret"})
    if os.name == "posix":
        (folder / "link.txt").symlink_to(tmp_path / "outside" / "secret.txt")
        (folder / "linked").symlink_to(tmp_path / "outside")
    found = list(text_files(folder))
    assert [file.text for file in found if isinstance(file, TextFile)] == ["a\n"]
    reasons = {file.path: file.reason for file in found if isinstance(file, Skipped)}
    assert reasons.keys() == {"image.png", "latin.txt", "nul.txt", "big.csv"}
    assert "1 MiB" in reasons["big.csv"] and "UTF-8" in reasons["latin.txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_file_whose_name_is_not_utf_8_is_left_out(tmp_path: Path) -> None:
    written(tmp_path, {"a.txt": "a"})
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("b")
    text, skipped = text_files(tmp_path)
    assert text.path == "a.txt" and isinstance(skipped, Skipped)
    assert (skipped.path, skipped.reason) == ("caf\\udce9.txt", "its name is not text in UTF-8")


@pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
def test_rules_are_read_from_ordinary_files_alone(tmp_path: Path) -> None:
    """A link may lead to an endless file, and nobody may write to a pipe."""
    rules = b"*.txt\n" * 200_000
    written(tmp_path, {"rules": "*.txt\n", "a.txt": "a", "b/c.txt": "c", "d/.gitignore": rules, "d/e.txt": "e"})
    (tmp_path / ".gitignore").symlink_to(tmp_path / "rules")
    os.mkfifo(tmp_path / "b" / ".gitignore")
    assert paths(tmp_path) == ["a.txt", "b/c.txt", "d/e.txt", "rules"]
