"""The text files of a folder that a person would search: no hidden ones, none that Git ignores, none that are not text."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from edgeembed.bulk.stores.interface import import_extra
from edgeembed.common.files import describe_os_error

MOST_BYTES = 2**20
"""Longer files are data more often than something that people wrote."""


class TextFile(NamedTuple):
    """A file. path: relative to the folder, with slashes. hash: SHA-256 of its bytes."""

    path: str
    hash: str
    text: str


class Skipped(NamedTuple):
    """A file that is left out, and why."""

    path: str
    reason: str


def text_files(folder: Path) -> Iterator[TextFile | Skipped]:
    """Yield the files below a folder, sorted by path. Links are not followed, so that nothing outside the folder is read."""
    for path in _paths(folder, _IgnoreRules(folder)):
        yield read_file(folder, path.relative_to(folder).as_posix())


def read_file(folder: Path, relative: str) -> TextFile | Skipped:
    """Return a file below a folder."""
    path = folder / relative
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            return Skipped(relative, f"it has {size / 2**20:.1f} MiB; files of more than 1 MiB are left out")
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return Skipped(relative, "it is not text in UTF-8")
    except OSError as error:
        return Skipped(relative, describe_os_error(error))
    if "\0" in text:
        return Skipped(relative, "it is not text")
    return TextFile(relative, hashlib.sha256(raw).hexdigest(), text)


def _paths(folder: Path, rules: _IgnoreRules) -> Iterator[Path]:
    rules.enter(folder)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # a folder that this user may not read
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith(".") or entry.is_symlink() or rules.ignores(path, is_folder=entry.is_dir()):
            continue
        if entry.is_dir():
            yield from _paths(path, rules)
        elif entry.is_file():
            yield path


class _IgnoreRules:
    """What the .gitignore files of a folder, of those below it and of those above it in the same repository say."""

    def __init__(self, folder: Path) -> None:
        self._specs: dict[Path, Any] = {}
        above = [folder, *folder.parents]
        repository = next((number for number, each in enumerate(above) if (each / ".git").exists()), 0)
        for each in above[: repository + 1]:
            self.enter(each)

    def enter(self, folder: Path) -> None:
        """Read the file of a folder."""
        if folder in self._specs:
            return
        try:
            lines = (folder / ".gitignore").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            self._specs[folder] = None
            return
        self._specs[folder] = import_extra("pathspec", "mcp", "an index of a folder").GitIgnoreSpec.from_lines(lines)

    def ignores(self, path: Path, *, is_folder: bool) -> bool:
        """Return what the file nearest to a path says about it."""
        for folder in path.parents:
            spec = self._specs.get(folder)
            if spec is None:
                continue
            found = spec.check_file(path.relative_to(folder).as_posix() + ("/" if is_folder else ""))
            if found.include is not None:
                return bool(found.include)
        return False
