"""The tray without its icon, against a real server: joining, starting, pausing, notifications, Quit."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgeembed.config.file import read_config
from edgeembed.config.resolution import Resolved, resolve
from edgeembed.tray import system
from edgeembed.tray.child import DaemonChild
from edgeembed.tray.control import Controller
from edgeembed.tray.menu import Action, MenuEntry
from edgeembed.tray.state import IconState
from edgeembed.tray.watcher import Watcher
from tests.tray.daemon import Daemon
from tests.tray.menus import find, flat

SLEEPS = "import time; time.sleep(60)"


class RecordingIcon:
    """Records what it would show."""

    def __init__(self) -> None:
        self.state: IconState | None = None
        self.title = ""
        self.menu: tuple[MenuEntry, ...] = ()
        self.notified: list[tuple[str, str]] = []
        self.closed = threading.Event()

    def show(self, state: IconState, title: str, menu: tuple[MenuEntry, ...] | None) -> None:
        self.state, self.title, self.menu = state, title, menu or self.menu

    def notify(self, title: str, text: str) -> None:
        self.notified.append((title, text))

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def resolved(port: int) -> Resolved:
    return resolve({"port": str(port)})


@pytest.fixture
def icon() -> RecordingIcon:
    return RecordingIcon()


class Switch:
    """An AutostartSwitch."""

    on = False

    def status(self) -> bool:
        return self.on

    def enable(self) -> None:
        self.on = True

    def disable(self) -> None:
        self.on = False


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def make(
    resolved: Resolved, icon: RecordingIcon, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> Callable[..., Controller]:
    def start(_arguments: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", SLEEPS], **how))
        return started[-1]

    def make(settings: Resolved = resolved, **options: Any) -> Controller:
        return Controller(settings, icon, DaemonChild(list, tmp_path / "logs", start=start), **options)

    return make


def test_the_icon_follows_a_daemon_that_stops_and_comes_back(
    make: Callable[..., Controller], icon: RecordingIcon, daemon: Daemon
) -> None:
    controller = make()
    controller.refresh()
    assert icon.state is IconState.STOPPED
    daemon.up()
    controller.refresh()
    assert (icon.state, icon.title) == (IconState.READY, "fake-model · fake · ready")
    assert find(icon.menu, "fake-model:F32").checked is True
    assert icon.notified == []
    daemon.down()
    controller.refresh()
    assert icon.state is IconState.STOPPED and find(icon.menu, "Start").enabled
    assert icon.notified == [("edgeembed has stopped", "The daemon does not respond.")]
    daemon.up()
    controller.refresh()
    assert icon.state is IconState.READY and len(icon.notified) == 1


def test_pause_and_resume_reach_the_daemon(make: Callable[..., Controller], icon: RecordingIcon, daemon: Daemon) -> None:
    daemon.up()
    controller = make()
    controller.refresh()
    for action, state, then in ((Action.PAUSE, IconState.PAUSED, "Resume"), (Action.RESUME, IconState.READY, "Pause")):
        controller.perform(action)
        controller.refresh()
        assert icon.state is state and find(icon.menu, then).enabled
    assert icon.notified == []


def test_a_failed_engine_shows_as_degraded_with_a_notification(
    make: Callable[..., Controller], icon: RecordingIcon, daemon: Daemon
) -> None:
    daemon.up()
    controller = make()
    controller.refresh()
    daemon.engine.state, daemon.engine.reason = "failed", "no mode holds"
    controller.refresh()
    assert icon.state is IconState.DEGRADED and "no mode holds" in icon.title
    assert icon.notified == [("edgeembed has a problem", "no mode holds")]


def test_no_daemon_is_started_if_another_program_uses_the_port(
    make: Callable[..., Controller], icon: RecordingIcon, port: int, started: list[subprocess.Popen[bytes]]
) -> None:
    from tests.cli.helpers import answering

    with answering({}, server="nginx") as (other, _):
        controller = make(resolve({"port": str(other)}))
        thread = threading.Thread(target=controller.run)
        thread.start()
        controller.submit(Action.QUIT)
        thread.join(30)
    assert not thread.is_alive() and icon.closed.is_set() and started == []
    assert "another program answers" in icon.title


def test_a_daemon_is_started_if_none_runs_and_stopped_by_quit(
    make: Callable[..., Controller], icon: RecordingIcon, started: list[subprocess.Popen[bytes]]
) -> None:
    controller = make()
    thread = threading.Thread(target=controller.run)
    thread.start()
    controller.submit(Action.QUIT)
    thread.join(30)
    assert not thread.is_alive() and icon.closed.is_set()
    assert len(started) == 1 and started[0].poll() is not None
    assert icon.state is IconState.LOADING and icon.notified == []


def test_quit_does_not_stop_a_daemon_that_the_tray_did_not_start(
    make: Callable[..., Controller], icon: RecordingIcon, daemon: Daemon, started: list[subprocess.Popen[bytes]]
) -> None:
    daemon.up()
    controller = make()
    thread = threading.Thread(target=controller.run)
    thread.start()
    controller.submit(Action.QUIT)
    thread.join(30)
    assert icon.closed.is_set() and started == [] and not daemon.stopped.is_set()
    assert "Quit (the daemon keeps running)" in [entry.label for entry in icon.menu]


def test_quit_does_not_stop_another_daemon_while_ours_is_starting(
    make: Callable[..., Controller], icon: RecordingIcon, daemon: Daemon, started: list[subprocess.Popen[bytes]]
) -> None:
    controller = make()
    controller.perform(Action.START)
    daemon.up()
    controller.refresh()
    controller.perform(Action.QUIT)
    assert started[0].poll() is not None and not daemon.stopped.is_set()


def test_choosing_a_model_writes_config_toml(
    make: Callable[..., Controller], icon: RecordingIcon, daemon: Daemon, resolved: Resolved
) -> None:
    daemon.up()
    controller = make()
    controller.refresh()
    controller.perform(Action.CHOOSE_MODEL, "beta:F16")
    assert read_config(resolved.paths.config_file) == {"model": "beta:F16"}
    assert "Restart the daemon" in icon.notified[-1][1]


def test_a_click_on_the_model_in_use_changes_nothing(
    make: Callable[..., Controller], icon: RecordingIcon, daemon: Daemon, resolved: Resolved
) -> None:
    daemon.up()
    controller = make()
    controller.refresh()
    (entry,) = (entry for entry in flat(icon.menu) if entry.radio and entry.checked)
    assert entry.label == entry.argument == "fake-model:F32"
    assert entry.action is not None
    controller.perform(entry.action, entry.argument)
    assert icon.notified == [] and not resolved.paths.config_file.exists()


def test_a_daemon_that_can_takes_another_model_at_once(
    make: Callable[..., Controller], icon: RecordingIcon, daemon: Daemon, resolved: Resolved, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []
    monkeypatch.setattr(Watcher, "send", lambda _watcher, command, _seconds, body: sent.append((command, body)))
    daemon.up()
    controller = make()
    controller.refresh()
    controller.perform(Action.CHOOSE_MODEL, "beta:F16")
    assert sent == [("models/default", {"model": "beta:F16"})]
    assert "beta:F16 is used now" in icon.notified[-1][1]
    assert not resolved.paths.config_file.exists(), "the daemon writes it"


def test_a_daemon_of_others_that_died_tells_why(
    make: Callable[..., Controller], icon: RecordingIcon, daemon: Daemon
) -> None:
    words = [
        "2026-05-04 12:00:00 INFO    edgeembed.daemon: hello",
        "2026-05-04 12:00:01 ERROR   edgeembed.daemon: the disk is full",
    ]
    daemon.up()
    controller = make(last_lines=lambda: words)
    controller.refresh()
    daemon.down()
    controller.refresh()
    controller.refresh()
    assert icon.title == "edgeembed: stopped: the disk is full"
    assert icon.notified == [("edgeembed has stopped", "the disk is full")]


def test_choosing_a_model_fails_if_the_environment_sets_it(
    make: Callable[..., Controller], icon: RecordingIcon, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    monkeypatch.setenv("EDGEEMBED_MODEL", "alpha")
    resolved = resolve({"port": str(port)})
    make(resolved).perform(Action.CHOOSE_MODEL, "beta")
    assert "EDGEEMBED_MODEL" in icon.notified[-1][1]
    assert not resolved.paths.config_file.exists()


def test_a_failed_pull_sends_a_notification(make: Callable[..., Controller], icon: RecordingIcon, daemon: Daemon) -> None:
    def pull(_name: str) -> subprocess.Popen[bytes]:
        code = "import sys; print('10 %', file=sys.stderr); sys.exit('error: the disk is full')"
        return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)

    daemon.up()
    controller = make(catalogue=("beta",), start_pull=pull)
    controller.perform(Action.PULL_MODEL, "beta")
    controller.refresh()
    for thread in threading.enumerate():
        if thread.name == "pull beta":
            thread.join(30)
    assert icon.notified == [("Could not download beta", "error: the disk is full")]
    controller.refresh()
    assert [entry.argument for entry in flat(icon.menu) if entry.action is Action.PULL_MODEL] == ["beta"]


def test_start_at_login_can_be_switched_on(make: Callable[..., Controller], icon: RecordingIcon) -> None:
    switch = Switch()
    controller = make(autostart=switch)
    controller.refresh()
    assert find(icon.menu, "Start at login").checked is False
    controller.perform(Action.AUTOSTART)
    controller.refresh()
    assert switch.on and find(icon.menu, "Start at login").checked is True


def test_clear_cache_asks_the_daemon(make: Callable[..., Controller], icon: RecordingIcon, daemon: Daemon) -> None:
    daemon.up()
    daemon.embed("known")
    daemon.embed("known")
    controller = make()
    controller.refresh()
    assert daemon.engine.computed.count("known") == 1
    controller.perform(Action.CLEAR_CACHE)
    assert icon.notified[-1][0] == "Cache cleared"
    daemon.embed("known")
    assert daemon.engine.computed.count("known") == 2


def test_a_cache_that_cannot_be_cleared_sends_a_notification(make: Callable[..., Controller], icon: RecordingIcon) -> None:
    controller = make()
    controller.refresh()
    controller.perform(Action.CLEAR_CACHE)
    assert icon.notified[-1][1].startswith("no daemon answers")


def test_copied_texts_and_opened_pages(
    make: Callable[..., Controller], icon: RecordingIcon, daemon: Daemon, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    opened: list[str] = []
    monkeypatch.setattr(system, "copy", lambda text: copied.append(text) is None)
    monkeypatch.setattr(system, "open_page", lambda url: opened.append(url) is None)
    daemon.up()
    controller = make()
    controller.refresh()
    controller.perform(Action.COPY_BASE_URL)
    controller.perform(Action.COPY_SNIPPET, "curl")
    controller.perform(Action.OPEN_DASHBOARD)
    assert copied[0] == f"http://127.0.0.1:{port}/v1" and '"model": "fake-model"' in copied[1]
    assert opened == [f"http://127.0.0.1:{port}/"]
    monkeypatch.setattr(system, "copy", lambda _text: False)
    controller.perform(Action.COPY_BASE_URL)
    assert copied[0] in icon.notified[-1][1], "the notification has the text if there is no clipboard"


def test_a_click_on_a_stopped_icon_starts_the_daemon(
    make: Callable[..., Controller], started: list[subprocess.Popen[bytes]]
) -> None:
    controller = make()
    controller.refresh()
    controller.perform(Action.OPEN_DASHBOARD)
    assert len(started) == 1
    controller.perform(Action.QUIT)


def test_open_settings_creates_the_file_and_never_overwrites_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "open_file", lambda _path: True)
    file = tmp_path / "new" / "config.toml"
    assert system.open_settings(file) and read_config(file) == {}
    file.write_text('model = "alpha"\n')
    assert system.open_settings(file) and read_config(file) == {"model": "alpha"}
