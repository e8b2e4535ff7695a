"""What is made once for all workers of pytest-xdist."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def once(path: Path, make: Callable[[Path], object]) -> Path:
    """Return `path`, made by the first worker that asks for it."""
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not path.exists():
            unfinished = path.with_name(f"unfinished-{path.name}")
            make(unfinished)
            unfinished.rename(path)
    return path
