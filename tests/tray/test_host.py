"""Where an icon can be shown, and the error where it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from edgeembed.config.paths import Paths
from edgeembed.config.resolution import resolve
from edgeembed.errors import ConfigError
from edgeembed.tray import host, system
from edgeembed.tray.run import LOCK_FILE, run
from tests.cli.helpers import edgeembed

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have only one kind of tray")


def choose(monkeypatch: pytest.MonkeyPatch, *, gi: bool, watcher: bool, x_tray: bool, display: str = ":0") -> str | None:
    monkeypatch.setattr(host.importlib.util, "find_spec", lambda name: object() if gi and name == "gi" else None)
    monkeypatch.setattr(host, "_has_gtk", lambda: gi)
    return host.choose({"DISPLAY": display}, lambda: watcher, lambda _display: x_tray)


@pytest.mark.parametrize(
    ("there", "backend"),
    [
        ({"gi": True, "watcher": True, "x_tray": True}, "appindicator"),
        ({"gi": True, "watcher": False, "x_tray": True}, "gtk"),
        ({"gi": False, "watcher": True, "x_tray": True}, "xorg"),
        ({"gi": False, "watcher": True, "x_tray": False}, None),
        ({"gi": True, "watcher": False, "x_tray": False}, None),
        ({"gi": True, "watcher": False, "x_tray": True, "display": ""}, None),
    ],
)
def test_backends_with_menus_are_preferred(
    monkeypatch: pytest.MonkeyPatch, there: dict[str, bool], backend: str | None
) -> None:
    assert choose(monkeypatch, **there) == backend  # type: ignore[arg-type]


@LINUX
def test_no_waiting_without_a_graphical_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.time, "sleep", lambda _seconds: pytest.fail("there is nothing to wait for"))
    backend, why = host.backend({})
    assert backend is None and "no graphical session" in why


@LINUX
def test_a_panel_that_starts_late_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([None, None, "gtk"])
    monkeypatch.setattr(host, "choose", lambda *_: next(answers))
    monkeypatch.setattr(host.time, "sleep", lambda _seconds: None)
    assert host.backend({"DISPLAY": ":0"}) == ("gtk", "")


@LINUX
def test_the_error_says_what_the_desktop_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "choose", lambda *_: None)
    monkeypatch.setattr(host.importlib.util, "find_spec", lambda _name: None)
    backend, why = host.backend({"WAYLAND_DISPLAY": "wayland-0"}, seconds=0)
    assert backend is None and "python3-gi" in why
    monkeypatch.setattr(host.importlib.util, "find_spec", lambda _name: object())
    assert "AppIndicator" in host.backend({"WAYLAND_DISPLAY": "wayland-0"}, seconds=0)[1]


def test_pystray_backend_overrides_the_choice() -> None:
    assert host.backend({"PYSTRAY_BACKEND": "gtk"}) == ("gtk", "")


@LINUX
def test_the_error_names_the_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "PYSTRAY_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    done = edgeembed("tray")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "run `edgeembed serve` for a daemon without an icon" in done.stderr


@LINUX
def test_the_error_is_also_a_notification(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Users who start it from the desktop's menu see no terminal."""
    tool = tmp_path / "notify-send"
    tool.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >"{tmp_path}/notified"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DISPLAY", ":9999")
    monkeypatch.setenv("PYSTRAY_BACKEND", "of-nobody")
    assert edgeembed("tray").returncode == 1
    notified = (tmp_path / "notified").read_text().splitlines()
    assert notified[1] == "edgeembed" and "run `edgeembed serve` for a daemon without an icon" in notified[2]
    monkeypatch.setattr(system.shutil, "which", lambda _name: None)
    assert system.notify("edgeembed", "no notification service") is False


def test_a_second_tray_exits() -> None:
    state = Paths.resolve().state
    state.mkdir(parents=True)
    with FileLock(state / LOCK_FILE):
        assert run(resolve(), []) is False
        done = edgeembed("tray")
    assert (done.returncode, done.stderr) == (0, "the tray icon is already running\n")


def test_a_random_port_is_rejected() -> None:
    with pytest.raises(ConfigError, match="random port"):
        run(resolve({"port": "0"}), [])


def test_the_tray_imports_neither_engine_nor_server() -> None:
    code = (
        "import sys, edgeembed.tray.run\n"
        "print([name for name in sys.modules if name.startswith(('edgeembed.engine', 'edgeembed.server', 'edgeembed.cache', "
        "'llama_cpp', 'edgeembed.service'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
