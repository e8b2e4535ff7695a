"""The tiers of the tests: what a test needs, as a marker. pyproject.toml describes them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest

TIERS = ("unit", "model", "e2e", "desktop")
"""A test has at least one. `slow` comes on top: at least five seconds, worth starting first."""
FIXTURES = {
    "minilm": "model",
    "minilm_checkpoint": "model",
    "contract": "model",
    "chromium": "desktop",
    "display": "desktop",
    "desktop": "desktop",
}
"""Fixtures that tell the tier of each test that asks for them."""
FOLDERS = {
    "autostart": "unit",
    "background": "unit",
    "bulk": "unit",
    "cache": "unit",
    "chaos": "e2e",
    "cli": "unit",
    "clients": "e2e",
    "common": "unit",
    "config": "unit",
    "convert": "unit",
    "diagnostics": "unit",
    "docs": "unit",
    "e2e": "e2e",
    "engine": "unit",
    "hub": "unit",
    "inference": "unit",
    "installers": "unit",
    "mcp": "unit",
    "models": "unit",
    "published": "e2e",
    "ray_serve": "unit",
    "runtime": "unit",
    "server": "unit",
    "tray": "unit",
    "upstream": "unit",
    "test_client.py": "unit",
    "test_embedder.py": "unit",
    "test_errors.py": "unit",
    "test_packaging.py": "e2e",
    "test_tiers.py": "unit",
    "test_vocabulary.py": "unit",
}
"""The tier of a folder or top module; `unit` only where neither tests nor fixtures say more. New ones are added here."""
LOOPBACK = ("127.0.0.1", "::1", "localhost", b"localhost", "", None)
NOT_OF_CI = re.compile(r"macOS|Windows|POSIX|no IPv6|this (processor|bash|systemd-analyze) ")
"""Reasons for which CI may skip a test: what it needs is another system, processor or version, not a package."""
HOST_NAME = re.compile(r"[\w-]+(\.[\w-]+)*\.?")
"""What a name server would be asked for; tests look up worse to see it refused."""


def assign(items: Iterable[pytest.Item], root: Path) -> None:
    """Mark each test with its tiers, and put those that share a module's fixtures into one group of pytest-xdist.

    Raises:
        pytest.UsageError: a test has no tier.
    """
    without = []
    for item in items:
        for name in getattr(item, "fixturenames", ()):
            if name in FIXTURES:
                item.add_marker(FIXTURES[name])
        folder = FOLDERS.get(item.path.relative_to(root).parts[0])
        marked = any(item.get_closest_marker(tier) for tier in TIERS)
        if folder and (folder != "unit" or not marked):
            item.add_marker(folder)
        elif not marked:
            without.append(item.nodeid.partition("[")[0])
        if item.get_closest_marker("xdist_group") is None and _shares_module_fixtures(item):
            item.add_marker(pytest.mark.xdist_group(item.path.relative_to(root).as_posix()))
    if without:
        names = ", ".join(dict.fromkeys(without))
        raise pytest.UsageError(f"no tier for {names}: mark them ({', '.join(TIERS)}), or add their folder to {__name__}")


def _shares_module_fixtures(item: pytest.Item) -> bool:
    """Return whether a fixture that is set up once per module would be set up by each worker."""
    info = getattr(item, "_fixtureinfo", None)
    definitions = info.name2fixturedefs.items() if info else ()
    return any(
        found[-1].scope in ("module", "class", "package") and found[-1].baseid.startswith("tests")
        for _, found in definitions
        if found
    )


R = TypeVar("R", pytest.TestReport, pytest.CollectReport)


def fail_skipped_in_ci(report: R) -> R:
    """Return the report of a test or module; where CI is set, a skip for want of a package is a failure."""
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not NOT_OF_CI.search(reason):
            report.outcome = "failed"
            report.longrepr = f"CI has to run this test: {reason}"
    return report


class UnitGuard:
    """Notices what a unit test must not do: reach another machine, or start a worker with a model."""

    def __init__(self) -> None:
        self.watching = False
        self.seen: list[str] = []
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        match event:
            case "socket.connect" if isinstance(arguments[1], tuple) and arguments[1][0] not in LOOPBACK:
                self.seen.append(f"it connects to {arguments[1][0]}")
            case "socket.getaddrinfo" if arguments[0] not in LOOPBACK and HOST_NAME.fullmatch(os.fsdecode(arguments[0])):
                self.seen.append(f"it looks up {arguments[0]}")
            case "subprocess.Popen" if "edgeembed.engine.worker" in " ".join(map(os.fsdecode, arguments[1])):
                self.seen.append("it starts a worker with a model")


guard = UnitGuard()
"""Of this process: hooks of the interpreter cannot be taken back."""
