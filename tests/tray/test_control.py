"""The tray's work against a real server, minus the icon: joining, starting, pausing, news, Quit."""

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
from edgeembed.tray.menu import Do, Entry
from edgeembed.tray.state import State
from edgeembed.tray.watcher import Watcher
from tests.tray.daemon import Daemon
from tests.tray.menus import find, flat

SLEEPS = "import time; time.sleep(60)"


class Face:
    """Remembers what it was to show."""

    def __init__(self) -> None:
        self.state: State | None = None
        self.title = ""
        self.menu: tuple[Entry, ...] = ()
        self.told: list[tuple[str, str]] = []
        self.closed = threading.Event()

    def show(self, state: State, title: str, menu: tuple[Entry, ...] | None) -> None:
        self.state, self.title, self.menu = state, title, menu or self.menu

    def tell(self, title: str, text: str) -> None:
        self.told.append((title, text))

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def resolved(port: int) -> Resolved:
    return resolve({"port": str(port)})


@pytest.fixture
def face() -> Face:
    return Face()


class Switch:
    """Start at login."""

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
    resolved: Resolved, face: Face, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> Callable[..., Controller]:
    def start(_arguments: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", SLEEPS], **how))
        return started[-1]

    def make(**more: Any) -> Controller:
        child = DaemonChild(list, tmp_path / "logs", start=start)
        return Controller(resolved, face, Watcher(resolved.settings), child, **more)

    return make


def test_the_icon_follows_a_daemon_that_goes_and_comes_back(
    make: Callable[..., Controller], face: Face, daemon: Daemon
) -> None:
    controller = make()
    controller.step()
    assert face.state is State.STOPPED
    daemon.up()
    controller.step()
    assert (face.state, face.title) == (State.READY, "fake-model · fake · ready")
    assert find(face.menu, "fake-model").checked is True
    assert face.told == []
    daemon.down()
    controller.step()
    assert face.state is State.STOPPED and find(face.menu, "Start").enabled
    assert face.told == [("edgeembed has stopped", "No daemon answers any more.")]
    daemon.up()
    controller.step()
    assert face.state is State.READY and len(face.told) == 1


def test_pause_and_resume_reach_the_daemon(make: Callable[..., Controller], face: Face, daemon: Daemon) -> None:
    daemon.up()
    controller = make()
    controller.step()
    for do, state, then in ((Do.PAUSE, State.PAUSED, "Resume"), (Do.RESUME, State.READY, "Pause")):
        controller.perform(do)
        controller.step()
        assert face.state is state and find(face.menu, then).enabled
    assert face.told == []


def test_a_fall_is_seen_and_told(make: Callable[..., Controller], face: Face, daemon: Daemon) -> None:
    daemon.up()
    controller = make()
    controller.step()
    daemon.engine.state, daemon.engine.reason = "failed", "no mode holds"
    controller.step()
    assert face.state is State.DEGRADED and "no mode holds" in face.title
    assert face.told == [("edgeembed is not well", "no mode holds")]


def test_another_program_on_the_port_is_named_and_no_daemon_started(
    make: Callable[..., Controller], face: Face, port: int, started: list[subprocess.Popen[bytes]]
) -> None:
    from tests.cli.helpers import answering

    with answering({}, server="nginx") as (other, _):
        resolved = resolve({"port": str(other)})
        controller = make()
        controller._watcher = Watcher(resolved.settings)
        thread = threading.Thread(target=controller.run)
        thread.start()
        controller.ask(Do.QUIT)
        thread.join(30)
    assert not thread.is_alive() and face.closed.is_set() and started == []
    assert "another program answers" in face.title


def test_a_daemon_is_started_where_none_runs_and_ended_by_quit(
    make: Callable[..., Controller], face: Face, started: list[subprocess.Popen[bytes]]
) -> None:
    controller = make()
    thread = threading.Thread(target=controller.run)
    thread.start()
    controller.ask(Do.QUIT)
    thread.join(30)
    assert not thread.is_alive() and face.closed.is_set()
    assert len(started) == 1 and started[0].poll() is not None
    assert face.state is State.LOADING and face.told == []


def test_quit_leaves_a_daemon_that_was_joined(
    make: Callable[..., Controller], face: Face, daemon: Daemon, started: list[subprocess.Popen[bytes]]
) -> None:
    daemon.up()
    controller = make()
    thread = threading.Thread(target=controller.run)
    thread.start()
    controller.ask(Do.QUIT)
    thread.join(30)
    assert face.closed.is_set() and started == [] and not daemon.stopped.is_set()
    assert "Quit (edgeembed goes on)" in [entry.label for entry in face.menu]


def test_quit_does_not_end_another_daemon_while_ours_is_still_starting(
    make: Callable[..., Controller], face: Face, daemon: Daemon, started: list[subprocess.Popen[bytes]]
) -> None:
    controller = make()
    controller.perform(Do.START)
    daemon.up()
    controller.step()
    controller.perform(Do.QUIT)
    assert started[0].poll() is not None and not daemon.stopped.is_set()


def test_a_model_that_is_chosen_is_written_down(
    make: Callable[..., Controller], face: Face, daemon: Daemon, resolved: Resolved
) -> None:
    daemon.up()
    controller = make()
    controller.step()
    controller.perform(Do.CHOOSE_MODEL, "beta:F16")
    assert read_config(resolved.paths.config_file) == {"model": "beta:F16"}
    assert "once edgeembed is started again" in face.told[-1][1]


def test_a_model_that_the_environment_decides_is_not_chosen_in_vain(
    make: Callable[..., Controller], face: Face, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    monkeypatch.setenv("EDGEEMBED_MODEL", "alpha")
    controller = make()
    controller._resolved = resolve({"port": str(port)})
    controller.perform(Do.CHOOSE_MODEL, "beta")
    assert "EDGEEMBED_MODEL" in face.told[-1][1]
    assert not controller._resolved.paths.config_file.exists()


def test_a_pull_is_told_when_it_ends(make: Callable[..., Controller], face: Face, daemon: Daemon) -> None:
    def pull(_name: str) -> subprocess.Popen[bytes]:
        code = "import sys; print('10 %', file=sys.stderr); sys.exit('error: the disk is full')"
        return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)

    daemon.up()
    controller = make(catalogue=("beta",), start_pull=pull)
    controller.perform(Do.PULL_MODEL, "beta")
    controller.step()
    for thread in threading.enumerate():
        if thread.name == "pull beta":
            thread.join(30)
    assert face.told == [("beta could not be fetched", "error: the disk is full")]
    controller.step()
    assert [entry.argument for entry in flat(face.menu) if entry.do is Do.PULL_MODEL] == ["beta"]


def test_start_at_login_is_switched(make: Callable[..., Controller], face: Face) -> None:
    switch = Switch()
    controller = make(autostart=switch)
    controller.step()
    assert find(face.menu, "Start at login").checked is False
    controller.perform(Do.AUTOSTART)
    controller.step()
    assert switch.on and find(face.menu, "Start at login").checked is True


def test_the_cache_is_cleared_by_the_daemon_itself(make: Callable[..., Controller], face: Face, daemon: Daemon) -> None:
    daemon.up()
    daemon.embed("known")
    daemon.embed("known")
    controller = make()
    controller.step()
    assert daemon.engine.computed.count("known") == 1
    controller.perform(Do.CLEAR_CACHE)
    assert face.told[-1][0] == "The cache is cleared"
    daemon.embed("known")
    assert daemon.engine.computed.count("known") == 2


def test_a_cache_that_is_not_cleared_is_told(make: Callable[..., Controller], face: Face) -> None:
    controller = make()
    controller.step()
    controller.perform(Do.CLEAR_CACHE)
    assert face.told[-1][1].startswith("no daemon answers")


def test_what_is_copied_and_opened(
    make: Callable[..., Controller], face: Face, daemon: Daemon, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    opened: list[str] = []
    monkeypatch.setattr(system, "copy", lambda text: copied.append(text) is None)
    monkeypatch.setattr(system, "open_page", lambda url: opened.append(url) is None)
    daemon.up()
    controller = make()
    controller.step()
    controller.perform(Do.COPY_BASE_URL)
    controller.perform(Do.COPY_SNIPPET, "curl")
    controller.perform(Do.OPEN_DASHBOARD)
    assert copied[0] == f"http://127.0.0.1:{port}/v1" and '"model": "fake-model"' in copied[1]
    assert opened == [f"http://127.0.0.1:{port}/"]
    monkeypatch.setattr(system, "copy", lambda _text: False)
    controller.perform(Do.COPY_BASE_URL)
    assert copied[0] in face.told[-1][1], "the text is shown where there is no clipboard"


def test_a_click_on_a_stopped_icon_starts_the_daemon(
    make: Callable[..., Controller], started: list[subprocess.Popen[bytes]]
) -> None:
    controller = make()
    controller.step()
    controller.perform(Do.OPEN_DASHBOARD)
    assert len(started) == 1
    controller.perform(Do.QUIT)


def test_settings_are_begun_and_never_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "open_file", lambda _path: True)
    file = tmp_path / "new" / "config.toml"
    assert system.open_settings(file) and read_config(file) == {}
    file.write_text('model = "alpha"\n')
    assert system.open_settings(file) and read_config(file) == {"model": "alpha"}
