#!/usr/bin/env python3
"""Print values of pyproject.toml for the installers, so that no version is stored twice.

Usage: `metadata.py VALUE`, where VALUE is a key of VALUES. Needs only the standard library of Python 3.11.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
DEBIAN_REVISION = "1"


def read_project(pyproject: Path = PYPROJECT) -> dict[str, Any]:
    """Return the table [project] of pyproject.toml."""
    project: dict[str, Any] = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    return project


def debian_version(version: str) -> str:
    """Return a PEP 440 version for dpkg, with the same order: pre-releases get a tilde."""
    return re.sub(r"\.?(a|b|rc|dev)(\d)", r"~\1\2", version) + f"-{DEBIAN_REVISION}"


def _requirement(project: dict[str, Any]) -> str:
    found: str = next(entry for entry in project["dependencies"] if entry.startswith("llama-cpp-python"))
    return found


VALUES: dict[str, Callable[[dict[str, Any]], str]] = {
    "version": lambda project: project["version"],
    "debian-version": lambda project: debian_version(project["version"]),
    "description": lambda project: project["description"],
    "python": lambda project: project["requires-python"].removeprefix(">="),
    "llama": _requirement,
}
"""`python` is the oldest supported version, `llama` the pinned requirement of llama-cpp-python."""


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in VALUES:
        sys.exit(f"usage: {sys.argv[0]} {' | '.join(VALUES)}")
    sys.stdout.write(VALUES[sys.argv[1]](read_project()) + "\n")
