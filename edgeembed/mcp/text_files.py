"""The text files of a folder that a person would search: no hidden ones, none that Git ignores, none that are not text."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
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
    for path in _paths(folder, "", _rules_of(folder)):
        try:
            path.encode()
        except UnicodeEncodeError:
            yield Skipped(path.encode(errors="backslashreplace").decode(), "its name is not text in UTF-8")
        else:
            yield read_file(folder, path)


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


def _paths(folder: Path, below: str, rules: Sequence[_Rules]) -> Iterator[str]:
    """Yield the paths of files, relative to a folder. below: a folder in it, such as "a/b/", or "". rules: for `below`."""
    try:
        entries = sorted(os.scandir(folder / below), key=lambda entry: entry.name)
    except OSError:  # a folder that this user may not read
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        path = below + entry.name
        if entry.is_dir():
            path += "/"
            if not _ignored(path, rules):
                own = _read_rules(folder / path, path)
                yield from _paths(folder, path, rules if own is None else [own, *rules])
        elif entry.is_file() and not _ignored(path, rules):
            yield path


class _Rules(NamedTuple):
    """What a .gitignore file says.

    cut, added: how a path that is relative to the indexed folder becomes one that is relative to the file's folder: without
    its first characters, or with others before it.
    """

    spec: Any
    cut: int
    added: str


def _rules_of(folder: Path) -> list[_Rules]:
    """Return the rules of a folder and of those above it in the same repository, the nearest first."""
    above = [folder, *folder.parents]
    repository = next((number for number, each in enumerate(above) if (each / ".git").exists()), 0)
    found = (_read_rules(each, "", folder.relative_to(each).as_posix() + "/") for each in above[: repository + 1])
    return [rules for rules in found if rules is not None]


def _read_rules(folder: Path, below: str, added: str = "") -> _Rules | None:
    """Return the rules of a folder's own file, if it has one. As in Git, a link is not followed."""
    file = folder / ".gitignore"
    try:
        found = file.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
            return None
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    spec = import_extra("pathspec", "mcp", "an index of a folder").GitIgnoreSpec.from_lines(lines)
    return _Rules(spec, len(below), "" if added == "./" else added)


def _ignored(path: str, rules: Sequence[_Rules]) -> bool:
    """Return what the file nearest to a path says about it. path: of a folder with a slash at its end."""
    for spec, cut, added in rules:
        found = spec.check_file(added + path[cut:])
        if found.include is not None:
            return bool(found.include)
    return False
