"""The menu in a real panel: xfce4-panel shows the icon, and every entry is chosen over D-Bus, as the panel does."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tray.daemon import Daemon
from tests.waiting import until

DEBIAN_PACKAGES = Path("/usr/lib/python3/dist-packages")
"""Where Debian installs PyGObject, which has no wheel."""
TOOLS = ("Xvfb", "xfce4-panel", "dbus-daemon", "xclip")

PANEL = """<?xml version="1.0" encoding="UTF-8"?>
<channel name="xfce4-panel" version="1.0">
  <property name="configver" type="int" value="2"/>
  <property name="panels" type="array">
    <value type="int" value="1"/>
    <property name="panel-1" type="empty">
      <property name="position" type="string" value="p=6;x=0;y=0"/>
      <property name="size" type="uint" value="26"/>
      <property name="length" type="uint" value="100"/>
      <property name="plugin-ids" type="array"><value type="int" value="1"/></property>
    </property>
  </property>
  <property name="plugins" type="empty"><property name="plugin-1" type="string" value="systray"/></property>
</channel>
"""
"""xfce4-panel's settings: a panel with icons only. The default one has a dozen plugins, and takes seconds to start."""


def gobject() -> Any:
    """Return PyGObject, from Debian's packages if this environment has none; None if it is not installed."""
    folder = str(DEBIAN_PACKAGES)
    sys.path.append(folder)
    try:
        gi = importlib.import_module("gi")
        gi.require_version("AyatanaAppIndicator3", "0.1")
        for name in ("Gio", "GLib"):
            importlib.import_module(f"gi.repository.{name}")
        return importlib.import_module("gi.repository")
    except (ImportError, ValueError):
        return None
    finally:
        sys.path.remove(folder)


MISSING = [
    *(name for name in TOOLS if shutil.which(name) is None),
    *(name for name in ("pystray", "PIL") if importlib.util.find_spec(name) is None),
    *([] if gobject() else ["python3-gi and gir1.2-ayatanaappindicator3-0.1"]),
]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"needs a panel with menus; missing: {MISSING}")]


@pytest.fixture
def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Start a session with its own display, bus and panel; yield its environment. What it opens is listed in a file."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("browser", "xdg-open"):
        (tools / name).write_text(f'#!/bin/sh\necho "$1" >> "{tmp_path}/opened"\n')
        (tools / name).chmod(0o755)
    (tools / "systemctl").write_text("#!/bin/sh\nexit 1\n")  # so that XDG autostart is used
    (tools / "systemctl").chmod(0o755)
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    (tmp_path / "gi").mkdir()
    (tmp_path / "gi" / "gi").symlink_to(DEBIAN_PACKAGES / "gi")
    settings = tmp_path / "config" / "xfce4" / "xfconf" / "xfce-perchannel-xml" / "xfce4-panel.xml"
    settings.parent.mkdir(parents=True)
    settings.write_text(PANEL)
    environ = {
        **os.environ,
        "HOME": str(tmp_path / "user"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_RUNTIME_DIR": str(runtime),
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "BROWSER": str(tools / "browser"),
        "PYTHONPATH": str(tmp_path / "gi"),
        "LANG": "C.UTF-8",
        "NO_AT_BRIDGE": "1",
    }
    for name in ("WAYLAND_DISPLAY", "PYSTRAY_BACKEND", "SUDO_USER"):
        environ.pop(name, None)
    processes: list[subprocess.Popen[bytes]] = []

    def start(*command: str, pipe: bool = False, **options: Any) -> subprocess.Popen[bytes]:
        out = subprocess.PIPE if pipe else subprocess.DEVNULL
        processes.append(subprocess.Popen(command, env=environ, stdout=out, stderr=subprocess.DEVNULL, **options))
        return processes[-1]

    reader, writer = os.pipe()
    start("Xvfb", "-displayfd", str(writer), "-screen", "0", "640x400x24", "-nolisten", "tcp", pass_fds=[writer])
    os.close(writer)
    with os.fdopen(reader) as numbers:
        environ["DISPLAY"] = f":{numbers.readline().strip()}"
    bus = start("dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address", pipe=True)
    assert bus.stdout is not None
    environ["DBUS_SESSION_BUS_ADDRESS"] = bus.stdout.readline().decode().strip()
    start("xfce4-panel")
    try:
        yield environ
    finally:
        for process in reversed(processes):
            process.kill()  # xfce4-panel may wait for a bus that is gone before it reacts to SIGTERM
            process.wait(20)
        bus.stdout.close()


class Panel:
    """A panel's requests to an icon and its menu, over D-Bus (StatusNotifierItem and com.canonical.dbusmenu)."""

    def __init__(self, address: str) -> None:
        self._gi = gobject()
        flags = self._gi.Gio.DBusConnectionFlags
        self._bus = self._gi.Gio.DBusConnection.new_for_address_sync(
            address, flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION, None, None
        )
        self._item: tuple[str, str] | None = None
        self._menu = ""

    def shows_icon(self) -> bool:
        """Return whether an icon has registered with a panel that shows such icons."""
        name, path = "org.kde.StatusNotifierWatcher", "/StatusNotifierWatcher"
        try:
            items = self._get(name, path, name, "RegisteredStatusNotifierItems")
            hosted = self._get(name, path, name, "IsStatusNotifierHostRegistered")
        except self._gi.GLib.Error:
            return False
        if not items or not hosted:
            return False
        owner, _, rest = items[0].partition("/")
        self._item = owner, f"/{rest}"
        self._menu = self._get(*self._item, "org.kde.StatusNotifierItem", "Menu")
        return True

    def entries(self) -> dict[str, dict[str, Any]]:
        """Return the properties of the entries of the menu and its submenus, by label."""
        assert self._item is not None
        arguments = self._gi.GLib.Variant("(iias)", (0, -1, []))
        answer = self._call(self._item[0], self._menu, "com.canonical.dbusmenu", "GetLayout", arguments)
        found: dict[str, dict[str, Any]] = {}

        def walk(node: tuple[int, dict[str, Any], list[Any]]) -> None:
            number, properties, inner = node
            if properties.get("visible", True) and "label" in properties:
                found[properties["label"].replace("__", "_")] = {"id": number, **properties}
            for each in inner:
                walk(each)

        walk(answer[1])
        return found

    def choose(self, label: str) -> None:
        """Choose an enabled entry; retried if the menu is rebuilt before the choice reaches it."""
        until(lambda: self._chosen(label))

    def _chosen(self, label: str) -> bool:
        assert self._item is not None
        entry = self.entries()[label]
        assert entry.get("enabled", True), f"{label} is grey"
        variant = self._gi.GLib.Variant
        arguments = variant("(isvu)", (entry["id"], "clicked", variant("i", 0), 0))
        try:
            self._call(self._item[0], self._menu, "com.canonical.dbusmenu", "Event", arguments)
        except self._gi.GLib.Error as error:
            if "does not refer to a menu item" not in error.message:
                raise
            return False  # the entry has a new number
        return True

    def _get(self, name: str, path: str, interface: str, attribute: str) -> Any:
        arguments = self._gi.GLib.Variant("(ss)", (interface, attribute))
        return self._call(name, path, "org.freedesktop.DBus.Properties", "Get", arguments)[0]

    def _call(self, name: str, path: str, interface: str, method: str, arguments: Any) -> Any:
        none = self._gi.Gio.DBusCallFlags.NONE
        return self._bus.call_sync(name, path, interface, method, arguments, None, none, 5000, None).unpack()


def test_every_entry_works(desktop: dict[str, str], daemon: Daemon, port: int, tmp_path: Path) -> None:
    def lines() -> list[str]:
        opened = tmp_path / "opened"
        return opened.read_text().splitlines() if opened.exists() else []

    def clipboard() -> str:
        command = ["xclip", "-selection", "clipboard", "-o"]
        return subprocess.run(command, env=desktop, capture_output=True, text=True, timeout=20, check=False).stdout

    daemon.up()
    daemon.embed("known")
    daemon.embed("known")
    panel = Panel(desktop["DBUS_SESSION_BUS_ADDRESS"])
    command = [sys.executable, "-m", "edgeembed", "tray", "--port", str(port)]
    with (tmp_path / "output").open("w") as output:
        tray = subprocess.Popen(command, env=desktop, stderr=output)
    try:
        until(panel.shows_icon, 60)
        until(lambda: "fake-model · fake · ready" in panel.entries())
        until(lambda: "2 requests today, 50% of texts from the cache" in panel.entries())

        panel.choose("Open dashboard")
        assert until(lines) == [f"http://127.0.0.1:{port}/"]
        panel.choose("Copy base URL")
        until(lambda: clipboard() == f"http://127.0.0.1:{port}/v1")
        panel.choose("curl")
        until(lambda: clipboard().startswith("curl "))
        panel.choose("Python")
        until(lambda: "from openai import OpenAI" in clipboard())

        panel.choose("Pause")
        until(lambda: "Resume" in panel.entries())
        with pytest.raises(urllib.error.HTTPError, match="503"):
            daemon.embed("new")
        panel.choose("Resume")
        until(lambda: "Pause" in panel.entries())
        daemon.embed("new")

        assert daemon.engine.computed.count("known") == 1
        panel.choose("Remove all vectors")
        until(lambda: any(label.startswith("0 B in memory") for label in panel.entries()))
        daemon.embed("known")
        assert daemon.engine.computed.count("known") == 2

        entry = Path(desktop["XDG_CONFIG_HOME"]) / "autostart" / "edgeembed.desktop"
        panel.choose("Start at login")
        until(entry.exists)
        until(lambda: panel.entries()["Start at login"].get("toggle-state") == 1)
        panel.choose("Start at login")
        until(lambda: not entry.exists())

        panel.choose("Open settings")
        assert until(lambda: lines()[1:]) == [str(Path(desktop["EDGEEMBED_HOME"]) / "config.toml")]
        assert panel.entries()["fake-model:F32"]["toggle-type"] == "radio"

        daemon.down()
        until(lambda: "edgeembed: stopped" in panel.entries())
        assert panel.entries()["Start"].get("enabled", True)
        daemon.up()
        until(lambda: "fake-model · fake · ready" in panel.entries())

        panel.choose("Quit (the daemon keeps running)")
        assert tray.wait(30) == 0
        daemon.embed("still running")
    finally:
        tray.kill()
        tray.wait()
    assert "Traceback" not in (tmp_path / "output").read_text()
