"""The value of the Run key, in a fake registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeembed.autostart.base import Program
from edgeembed.autostart.windows import APPROVED_KEY, ENVIRONMENT_KEY, RUN_KEY, WindowsRun
from edgeembed.errors import ConfigError
from tests.autostart.fakes import FakeRegistry

PYTHON = r"C:\Users\Ann Lee\edgeembed\Scripts\pythonw.exe"


def windows(registry: FakeRegistry, tmp_path: Path, python: str = PYTHON, **environment: str) -> WindowsRun:
    command = (python, "-P", "-m", "edgeembed", "serve")
    return WindowsRun(Program(command, environment, tmp_path / "log"), tmp_path / "choice.json", registry=registry)


def test_enable_writes_one_value_and_disable_removes_only_that(tmp_path: Path) -> None:
    registry = FakeRegistry()
    registry.keys = {RUN_KEY: {"Other": ("other.exe", 1)}, APPROVED_KEY: {"Other": (b"\x03", 3)}}
    autostart = windows(registry, tmp_path)
    autostart.enable()
    command = rf'"{PYTHON}" -P -m edgeembed serve'
    assert registry.keys == {
        RUN_KEY: {"Other": ("other.exe", 1), "edgeembed": (command, registry.REG_SZ)},
        APPROVED_KEY: {"Other": (b"\x03", 3)},
    }
    registry.keys[APPROVED_KEY]["edgeembed"] = (b"\x02" + bytes(11), registry.REG_BINARY)
    assert autostart.status(), "an even first byte means enabled"
    autostart.disable()
    assert registry.keys == {RUN_KEY: {"Other": ("other.exe", 1)}, APPROVED_KEY: {"Other": (b"\x03", 3)}}


def test_enable_creates_the_run_key(tmp_path: Path) -> None:
    registry = FakeRegistry()
    autostart = windows(registry, tmp_path)
    assert not autostart.status()
    autostart.enable()
    assert set(registry.keys) == {RUN_KEY} and autostart.status()


def test_a_too_long_command_is_rejected(tmp_path: Path) -> None:
    registry = FakeRegistry()
    with pytest.raises(ConfigError, match="260"):
        windows(registry, tmp_path, "C:\\" + "long " * 50 + "\\pythonw.exe").enable()
    assert registry.keys == {}


def test_a_variable_that_is_missing_at_login_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = FakeRegistry()
    autostart = windows(registry, tmp_path, EDGEEMBED_HOME=r"D:\embed")
    with pytest.raises(ConfigError, match="setx EDGEEMBED_HOME"):
        autostart.enable()
    assert registry.keys == {} and autostart.choice is None
    monkeypatch.setenv("DRIVE", "D:")
    registry.keys[ENVIRONMENT_KEY] = {"EDGEEMBED_HOME": (r"${DRIVE}\embed", 2)}
    autostart.enable()
    assert autostart.status()
