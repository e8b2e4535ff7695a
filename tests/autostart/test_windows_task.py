"""The task on Windows, with a stand-in for schtasks and Get-ScheduledTask; nothing here ran on Windows."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgeembed.autostart.base import Managed, Program
from edgeembed.autostart.windows import RUN_KEY, WindowsRun
from edgeembed.autostart.windows_task import WindowsTask
from edgeembed.errors import ConfigError
from tests.autostart.fakes import NASTY, FakeRegistry


class FakeScheduler:
    """One task, kept as its XML."""

    def __init__(self) -> None:
        self.task: str | None = None
        self.refuses = False
        self.state = "Ready"
        self.calls: list[str] = []

    def __call__(self, command: Sequence[str]) -> str | None:
        self.calls.append(command[1])
        match command[1]:
            case "/Create" if not self.refuses:
                self.task = Path(command[command.index("/XML") + 1]).read_bytes().decode("utf-16")
            case "/Query" if self.task is not None:
                return self.task
            case "/Delete" if self.task is not None:
                self.task = None
            case "/Run" if self.task is not None:
                self.state = "Running"
            case "/End" if self.task is not None:
                self.state = "Ready"
            case "-NoProfile" if self.task is not None:
                return f"{self.state}\r\n"
            case _:
                return None
        return ""


def task(scheduler: FakeScheduler, registry: FakeRegistry, tmp_path: Path, folder: str = "C:\\e") -> WindowsTask:
    program = Program((f"{folder}\\pythonw.exe", "-P", "-m", "edgeembed", "serve"), {}, tmp_path / "log")
    choice = tmp_path / "choice.json"
    return WindowsTask(program, choice, WindowsRun(program, choice, registry=registry), scheduler)


def test_enable_creates_a_task_that_can_be_started_and_ended(tmp_path: Path) -> None:
    scheduler, registry = FakeScheduler(), FakeRegistry()
    autostart = task(scheduler, registry, tmp_path)
    assert autostart.entry() is None and autostart.manager() is None
    autostart.enable()
    assert autostart.status() and registry.keys.get(RUN_KEY, {}) == {}
    entry, manager = autostart.entry(), autostart.manager()
    assert entry is not None and entry.current and manager is not None
    assert manager.inspect() == Managed("stopped")
    manager.start()
    assert manager.inspect() == Managed("running")
    manager.stop()
    assert manager.inspect() == Managed("stopped")
    autostart.disable()
    assert scheduler.task is None and autostart.entry() is None


def test_a_task_of_another_installation_or_a_disabled_one(tmp_path: Path) -> None:
    scheduler, registry = FakeScheduler(), FakeRegistry()
    task(scheduler, registry, tmp_path, "C:\\old").enable()
    entry = task(scheduler, registry, tmp_path).entry()
    assert entry is not None and entry.active and not entry.current
    assert scheduler.task is not None
    scheduler.task = scheduler.task.replace("<Priority>", "<Enabled>false</Enabled><Priority>")
    assert not task(scheduler, registry, tmp_path, "C:\\old").status()


def test_any_path_is_escaped(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    autostart = task(scheduler, FakeRegistry(), tmp_path, f"C:\\<a & b>{NASTY}")
    autostart.enable()
    assert scheduler.task is not None
    ElementTree.fromstring(scheduler.task[scheduler.task.index("<Task") :])
    entry = autostart.entry()
    assert entry is not None and entry.current


def test_where_tasks_are_refused_the_run_key_is_used(tmp_path: Path) -> None:
    scheduler, registry = FakeScheduler(), FakeRegistry()
    scheduler.refuses = True
    autostart = task(scheduler, registry, tmp_path)
    autostart.enable()
    assert "edgeembed" in registry.keys[RUN_KEY] and autostart.status() and autostart.manager() is None
    assert "Run" in autostart.place
    scheduler.refuses = False
    autostart.enable()
    assert registry.keys[RUN_KEY] == {} and scheduler.task is not None, "later it moves"
    scheduler.task = None
    with pytest.raises(ConfigError, match="does not start"):
        manager = task(scheduler, registry, tmp_path)
        scheduler.task = "<Task/>"
        found = manager.manager()
        scheduler.task = None
        assert found is not None
        found.start()
