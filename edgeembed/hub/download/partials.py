"""Partial downloads on the disk, and locks that keep two processes from downloading the same model."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from edgeembed.common.files import file_sizes, matching

PARTIALS = ".partial"
LOCK = ".lock"


class LockedError(Exception):
    """Another process holds a lock."""


class Partials:
    """A folder of partial files, with a subfolder for each commit of a repository.

    They stay across calls, processes and restarts, until the model is installed. Users of this class hold the model's lock.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, repo: str, commit: str | None) -> Path:
        """Create and return the folder of a commit; those of the repository's other commits are removed."""
        stem = repo.replace("/", "--").lower()
        # A branch may have any name, and a mirror may send any commit.
        wanted = self.root / f"{stem}@{re.sub(r'[^0-9A-Za-z_-]', '-', commit or 'unknown')[:12]}"
        for other in matching(self.root, f"{stem}@*"):
            if other != wanted:
                remove_tree(other)
        wanted.mkdir(parents=True, exist_ok=True)
        return wanted

    def finished(self, used: Path) -> None:
        """Remove what is useless once a model is installed: the parts of all other sources, and empty folders.

        Parts of other files of the same commit stay: they may be of another quantisation type.
        """
        for path in matching(self.root, "*@*"):
            if not used.is_relative_to(path):
                remove_tree(path)
        self.prune()

    def prune(self) -> None:
        """Remove empty folders."""
        for folder, _, _ in os.walk(self.root, topdown=False):
            remove_empty(Path(folder))

    def size(self) -> int:
        """Return the bytes of all partial files."""
        return sum(file_sizes(self.root).values())

    def clear(self) -> None:
        """Remove everything except the lock."""
        for path in matching(self.root, "*@*"):
            remove_tree(path)

    def remove_if_empty(self) -> None:
        """Remove the folder itself if it is empty, and no other process waits for its lock."""
        with contextlib.suppress(OSError):
            (self.root / LOCK).unlink(missing_ok=True)
        remove_empty(self.root)


def remove_empty(folder: Path) -> None:
    """Remove a folder if it is empty."""
    with contextlib.suppress(OSError):  # not empty, or already gone
        folder.rmdir()


def remove_tree(folder: Path) -> None:
    """Remove a folder, ignoring errors."""
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def hold(lock: Path, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold a lock across processes; the operating system releases it when its holder dies.

    waiting: called if another process holds it; without it, LockedError is raised then.
    """
    from filelock import FileLock, Timeout  # the daemon starts sooner without it

    lock.parent.mkdir(parents=True, exist_ok=True)
    file_lock = FileLock(lock)
    try:
        file_lock.acquire(timeout=0.2)
    except Timeout as error:
        if waiting is None:
            raise LockedError(f"{lock} is held by another process") from error
        waiting()
        file_lock.acquire()
    try:
        yield
    finally:
        file_lock.release()
