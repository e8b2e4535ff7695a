"""Every test has a tier; unit tests are kept to theirs."""

from __future__ import annotations

import ast
import contextlib
import functools
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import tiers

HERE = Path(__file__).parent


class Item(SimpleNamespace):
    """As much of a pytest item as tiers are chosen by."""

    def __init__(self, path: str, *marks: str, fixtures: tuple[str, ...] = ()) -> None:
        super().__init__(path=HERE / path, nodeid=f"tests/{path}::test_it[1]", fixturenames=fixtures, marks=set(marks))

    def get_closest_marker(self, name: str) -> str | None:
        return name if name in self.marks else None

    def add_marker(self, mark: Any) -> None:
        self.marks.add(mark if isinstance(mark, str) else mark.name)


def tiers_of(item: Any) -> set[str]:
    tiers.assign([item], HERE)
    return set(item.marks)


def test_marks_fixtures_and_folders_add_up_and_unit_is_what_is_left() -> None:
    assert tiers_of(Item("hub/test_store.py")) == {"unit"}
    assert tiers_of(Item("hub/test_store.py", "model", "slow")) == {"model", "slow"}
    assert tiers_of(Item("engine/test_modes.py", fixtures=("minilm",))) == {"model"}
    assert tiers_of(Item("e2e/test_logs.py")) == {"e2e"}
    assert tiers_of(Item("e2e/test_dashboard.py", fixtures=("minilm", "chromium"))) == {"e2e", "model", "desktop"}


def test_a_test_without_a_tier_stops_the_run() -> None:
    with pytest.raises(pytest.UsageError, match=r"no tier for tests/nowhere/test_new.py::test_it: mark them"):
        tiers.assign([Item("nowhere/test_new.py")], HERE)


def test_the_guard_notices_who_leaves_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as one:
        one.settimeout(0.01)
        with contextlib.suppress(OSError):
            one.connect(("192.0.2.1", 9))  # an address for documentation, which nobody has
    assert tiers.guard.seen == ["it connects to 192.0.2.1"]
    tiers.guard.seen.clear()


@functools.cache
def calls_and_imports() -> list[tuple[Path, ast.Call | ast.ImportFrom]]:
    """Return what the modules of the tests call and import, benchmarks apart."""
    return [
        (path, node)
        for path in HERE.rglob("*.py")
        if path.relative_to(HERE).parts[0] not in ("benchmarks", "reference")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Call, ast.ImportFrom))
    ]


def test_no_test_module_and_no_conftest_is_imported_from() -> None:
    found = [
        f"{path.relative_to(HERE)}: {node.module}"
        for path, node in calls_and_imports()
        if isinstance(node, ast.ImportFrom) and re.match(r"tests\.(\w+\.)*(test_\w+|conftest)$", node.module or "")
    ]
    assert not found, "put what they share into a module of its own, or into a conftest's fixture"


@pytest.mark.parametrize(
    ("ci", "reason", "outcome"),
    [
        ("", "Skipped: shellcheck is not on this machine", "skipped"),
        ("1", "Skipped: shellcheck is not on this machine", "failed"),
        ("1", "Skipped: plutil is a tool of macOS", "skipped"),
    ],
)
def test_what_ci_skips_for_want_of_a_package_fails_there(
    ci: str, reason: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    report = pytest.TestReport("tests/x.py::test_it", ("x.py", 1, "x"), {}, "skipped", ("x.py", 1, reason), "setup")
    tiers.fail_skipped_in_ci(report)
    assert report.outcome == outcome and reason in str(report.longrepr)


def test_tests_of_a_group_are_run_by_one_worker(tmp_path: Path) -> None:
    """By the versions of pytest and pytest-xdist that are installed: they once were not, and clusters of Ray met."""
    (tmp_path / "test_group.py").write_text(
        "import pytest\n\n"
        "@pytest.mark.xdist_group('one')\n"
        "@pytest.mark.parametrize('number', range(8))\n"
        "def test_it(number, worker_id):\n"
        "    with open('workers', 'a') as file:\n"
        "        file.write(f'{worker_id} ')\n"
    )
    words = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist=loadgroup", "-p", "no:cacheprovider", "test_group.py"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    found = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    ran = (tmp_path / "workers").read_text().split()
    assert len(ran) == 8 and len(set(ran)) == 1


def test_tests_wait_for_conditions_and_do_not_sleep() -> None:
    """`sleep(0)` lets others run; in a string it is what a process under test does; a comment gives any other reason."""
    found = []
    for path, node in calls_and_imports():
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "asyncio.sleep"):
            line = path.read_text(encoding="utf-8").splitlines()[node.lineno - 1]
            if ast.unparse(node.args[0]) != "0" and "  # " not in line:
                found.append(f"{path.relative_to(HERE)}:{node.lineno}")
    assert not found, "wait with tests/waiting.py or for an event, or say in a comment why there is none"
