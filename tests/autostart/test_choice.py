"""Every mechanism: on, off, and a user's "off" that survives upgrades."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeembed.autostart.base import Autostart, Program
from edgeembed.autostart.launchd import LABEL, Launchd
from edgeembed.autostart.systemd import SystemdUser
from edgeembed.autostart.windows import APPROVED_KEY, WindowsRun
from edgeembed.autostart.xdg import XdgAutostart
from edgeembed.errors import ConfigError
from tests.autostart.fakes import FakeLaunchctl, FakeRegistry, program


@dataclass
class Mechanism:
    """A system's mechanism to start at login, and what users can do to it without edgeembed."""

    make: Callable[[Program], Autostart]
    switch_off: Callable[[], None]
    remove: Callable[[], None]


@pytest.fixture(params=["systemd", "xdg", "launchd", "launchd of macOS 12", "windows"])
def mechanism(request: pytest.FixtureRequest, tmp_path: Path) -> Mechanism:
    config, choice = tmp_path / "config", tmp_path / "state" / "autostart.json"
    if request.param == "systemd":
        if sys.platform == "win32":
            pytest.skip("Windows allows links only for administrators, and has no systemd")
        unit = config / "systemd" / "user" / "edgeembed.service"
        link = unit.parent / "default.target.wants" / "edgeembed.service"

        def remove() -> None:
            link.unlink()
            unit.unlink()

        return Mechanism(lambda started: SystemdUser(started, choice, config), link.unlink, remove)
    if request.param == "xdg":
        entry = config / "autostart" / "edgeembed.desktop"

        def hide() -> None:
            with entry.open("a") as file:
                file.write("Hidden=true\n")

        return Mechanism(lambda started: XdgAutostart(started, choice, config), hide, entry.unlink)
    if request.param.startswith("launchd"):
        launchctl = FakeLaunchctl("true" if "12" in request.param else "disabled")
        return Mechanism(
            lambda started: Launchd(started, choice, agents=tmp_path / "agents", user=501, launchctl=launchctl),
            lambda: launchctl.disabled.add(LABEL),
            (tmp_path / "agents" / f"{LABEL}.plist").unlink,
        )
    registry = FakeRegistry()

    def in_task_manager() -> None:
        registry.keys.setdefault(APPROVED_KEY, {})["edgeembed"] = (b"\x03" + bytes(11), registry.REG_BINARY)

    def by_hand() -> None:
        with registry.OpenKey(registry.HKEY_CURRENT_USER, _run_key(registry), 0, registry.KEY_SET_VALUE) as key:
            registry.DeleteValue(key, "edgeembed")

    return Mechanism(lambda started: WindowsRun(started, choice, registry=registry), in_task_manager, by_hand)


def _run_key(registry: FakeRegistry) -> str:
    (path,) = (path for path, values in registry.keys.items() if "edgeembed" in values)
    return path


def test_enable_and_disable_change_the_status_and_can_be_repeated(mechanism: Mechanism, tmp_path: Path) -> None:
    autostart = mechanism.make(program(tmp_path))
    assert not autostart.status() and autostart.choice is None
    autostart.disable()
    assert not autostart.status() and autostart.choice == "off"
    for _ in range(2):
        autostart.enable()
        assert autostart.status() and autostart.choice == "on"
        found = autostart.found()
        assert found is not None and found.current and found.place == autostart.place
    for _ in range(2):
        autostart.disable()
        assert not autostart.status() and autostart.entry() is None and autostart.choice == "off"


def test_upgrades_enable_it_unless_the_user_turned_it_off(mechanism: Mechanism, tmp_path: Path) -> None:
    old, new = mechanism.make(program(tmp_path / "old")), mechanism.make(program(tmp_path / "new"))
    assert old.enable_unless_off() and old.status()
    found = new.found()
    assert found is not None and not found.current, "the entry starts the old installation"
    assert new.enable_unless_off()
    found = new.found()
    assert found is not None and found.current
    new.disable()
    assert not new.enable_unless_off() and not new.status()
    new.enable()
    assert new.status(), "users may change their mind"


def test_an_entry_disabled_with_the_systems_tools_stays_off(mechanism: Mechanism, tmp_path: Path) -> None:
    autostart = mechanism.make(program(tmp_path))
    autostart.enable()
    mechanism.switch_off()
    assert not autostart.status()
    assert not autostart.enable_unless_off() and not autostart.status()
    autostart.enable()
    assert autostart.status(), "enable reverts it"


def test_an_entry_removed_by_hand_stays_off(mechanism: Mechanism, tmp_path: Path) -> None:
    autostart = mechanism.make(program(tmp_path))
    autostart.enable()
    mechanism.remove()
    assert not autostart.status()
    assert not autostart.enable_unless_off() and not autostart.status()


def test_uninstalling_is_not_a_choice_of_the_user(mechanism: Mechanism, tmp_path: Path) -> None:
    autostart = mechanism.make(program(tmp_path))
    autostart.enable()
    autostart.disable(forget=True)
    assert not autostart.status() and autostart.choice is None
    assert autostart.enable_unless_off(), "installed again, with the installer's default"
    autostart.disable()
    autostart.disable(forget=True)
    assert not autostart.enable_unless_off(), "off stays off"


def test_an_unreadable_choice_counts_as_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    choice = tmp_path / "autostart.json"
    choice.write_text('{"choice": "perhaps"}')
    autostart = XdgAutostart(program(tmp_path), choice, tmp_path)
    with caplog.at_level(logging.WARNING):
        assert not autostart.enable_unless_off()
    assert str(choice) in caplog.text
    autostart.enable()
    assert autostart.choice == "on"


@pytest.mark.parametrize("made", [SystemdUser, XdgAutostart])
def test_files_of_the_user_are_neither_replaced_nor_removed(
    made: type[SystemdUser] | type[XdgAutostart], tmp_path: Path
) -> None:
    autostart = made(program(tmp_path), tmp_path / "choice.json", tmp_path)
    path = Path(autostart.place)
    path.parent.mkdir(parents=True)
    path.write_text("[Unit]\nDescription=my own\n")
    for call in (autostart.enable, autostart.disable, autostart.status, autostart.enable_unless_off):
        with pytest.raises(ConfigError, match="was not written by edgeembed"):
            call()
    assert path.read_text() == "[Unit]\nDescription=my own\n"
    assert autostart.choice is None


def test_the_error_for_an_unwritable_folder_names_it(tmp_path: Path) -> None:
    (tmp_path / "autostart").write_text("a file where the folder should be")
    with pytest.raises(ConfigError, match="autostart"):
        XdgAutostart(program(tmp_path), tmp_path / "choice.json", tmp_path).enable()
