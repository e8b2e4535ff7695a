"""The frozen program's entry: a double click is the icon, a shell's call without arguments is the usage."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.installers.loading import INSTALLERS, load

entry = load("frozen/entry.py")


class Stream:
    """A standard stream that is a terminal, or none."""

    def __init__(self, terminal: bool) -> None:
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def arguments_of(monkeypatch: pytest.MonkeyPatch, system: str, *given: str) -> list[str]:
    """Return the arguments that edgeembed's command line gets."""
    seen: list[str] = []
    monkeypatch.setattr(sys, "argv", ["edgeembed", *given])
    monkeypatch.setattr("edgeembed.cli.main.main", lambda: seen.extend(sys.argv[1:]))
    entry.main(system)
    return seen


def on_windows(monkeypatch: pytest.MonkeyPatch, program: str, *, own_console: bool = False) -> None:
    monkeypatch.setattr(sys, "executable", str(Path("programs") / program))
    monkeypatch.setattr(entry, "_owns_console", lambda: own_console)


@pytest.mark.parametrize(
    ("program", "own_console", "given", "arguments"),
    [
        ("edgeembedw.exe", False, [], ["tray"]),
        ("EdgeembedW.EXE", False, [], ["tray"]),
        ("edgeembed.exe", True, [], ["tray"]),
        ("edgeembed.exe", False, [], []),
        ("edgeembedw.exe", False, ["serve"], ["serve"]),
        ("edgeembed.exe", True, ["--help"], ["--help"]),
    ],
)
def test_on_windows_a_double_click_is_the_tray(
    program: str, own_console: bool, given: list[str], arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_windows(monkeypatch, program, own_console=own_console)
    assert arguments_of(monkeypatch, "win32", *given) == arguments


@pytest.mark.parametrize(
    ("parent", "terminal", "given", "arguments"),
    [
        (1, False, [], ["tray"]),
        (1, False, ["-psn_0_12345"], ["tray"]),
        (4711, True, [], []),
        (4711, False, [], []),
        (1, True, [], []),
        (1, False, ["serve"], ["serve"]),
    ],
)
def test_on_macos_a_double_click_is_the_tray(
    parent: int, terminal: bool, given: list[str], arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getppid", lambda: parent)
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, Stream(terminal))
    assert arguments_of(monkeypatch, "darwin", *given) == arguments


def test_a_worker_of_the_windowed_program_is_no_double_click(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, list[str]]] = []
    on_windows(monkeypatch, "edgeembedw.exe", own_console=True)
    monkeypatch.setattr(entry.runpy, "run_module", lambda name, **_: ran.append((name, sys.argv[1:])))
    monkeypatch.setattr(sys, "argv", ["edgeembedw", "-P", "-m", "edgeembed.engine.worker"])
    entry.main("win32")
    assert ran == [("edgeembed.engine.worker", [])]


def test_the_app_can_show_an_icon() -> None:
    """PyInstaller's default for a program with a console is an app that macOS lets show nothing."""
    spec = (INSTALLERS / "frozen" / "edgeembed.spec").read_text(encoding="utf-8")
    assert '"LSUIElement": True' in spec and '"LSBackgroundOnly": False' in spec
    assert f'name="{entry.WINDOWED}", console=False' in spec
