"""The icon on a virtual X display with a real tray: it docks, follows the daemon, reacts to clicks, disappears on Quit."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tray.daemon import Daemon
from tests.waiting import until

MISSING = [
    *(name for name in ("Xvfb", "trayer") if shutil.which(name) is None),
    *(name for name in ("pystray", "PIL", "Xlib") if importlib.util.find_spec(name) is None),
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs xvfb, trayer and the extra `tray`; missing: {MISSING}")


@pytest.fixture
def display() -> Iterator[str]:
    """Start an X display with nothing but a tray; yield its name."""
    reader, writer = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writer), "-screen", "0", "300x100x24", "-nolisten", "tcp"],
        pass_fds=[writer],
        stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    with os.fdopen(reader) as numbers:
        name = f":{numbers.readline().strip()}"
    tray = subprocess.Popen(
        ["trayer", "--edge", "top", "--align", "left", "--widthtype", "request", "--height", "32"],
        env={**os.environ, "DISPLAY": name},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield name
    for process in (tray, server):
        process.terminate()
        process.wait(10)


class Screen:
    """The contents of the display, and its pointer."""

    def __init__(self, name: str) -> None:
        from Xlib.display import Display

        self._display = Display(name)

    def icon(self) -> Any:
        """Return the icon's window, None unless it is docked and visible."""
        from Xlib import X
        from Xlib.error import BadDrawable, BadWindow

        def search(window: Any) -> Any:
            for child in window.query_tree().children:
                named = (child.get_wm_class() or ("",))[0] == "edgeembedSystemTrayIcon"
                if named and child.get_attributes().map_state == X.IsViewable:
                    return child
                if found := search(child):
                    return found
            return None

        try:
            return search(self._display.screen().root)
        except (BadWindow, BadDrawable):  # one went away meanwhile
            return None

    def title(self) -> str:
        icon = self.icon()
        return str(icon.get_wm_name()) if icon else ""

    def colours(self) -> set[bytes]:
        """Return the colours of the icon's pixels; none while the tray makes room for it."""
        from Xlib import X
        from Xlib.error import BadDrawable, BadMatch

        if (icon := self.icon()) is None:
            return set()
        try:
            size = icon.get_geometry()
            pixels: bytes = icon.get_image(0, 0, size.width, size.height, X.ZPixmap, 0xFFFFFFFF).data
        except (BadDrawable, BadMatch):
            return set()
        return {pixels[at : at + 3] for at in range(0, len(pixels), 4)}

    def click(self) -> None:
        from Xlib import X
        from Xlib.ext.xtest import fake_input

        icon = self.icon()
        place = icon.translate_coords(self._display.screen().root, 0, 0)
        size = icon.get_geometry()
        fake_input(self._display, X.MotionNotify, x=size.width // 2 - place.x, y=size.height // 2 - place.y)
        fake_input(self._display, X.ButtonPress, 1)
        fake_input(self._display, X.ButtonRelease, 1)
        self._display.sync()


def test_the_icon_in_a_real_tray(
    display: str, daemon: Daemon, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nenv > {tmp_path}/environ\necho "$1" >> {opened}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setenv("BROWSER", str(browser))
    monkeypatch.setenv("PYSTRAY_BACKEND", "xorg")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for name in ("EDGEEMBED_API_KEY", "EDGEEMBED_FORWARD_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "sesame")
    command = [sys.executable, "-m", "edgeembed", "tray", "--port", str(port)]
    daemon.up()
    with (tmp_path / "output").open("w") as output:
        tray = subprocess.Popen(command, stderr=output)
    try:
        screen = Screen(display)
        until(lambda: "ready" in screen.title())
        ready = until(lambda: len(found := screen.colours()) > 1 and found)
        second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (second.returncode, second.stderr) == (0, "the tray icon is already running\n")
        screen.click()
        assert until(lambda: opened.exists() and opened.read_text()) == f"http://127.0.0.1:{port}/\n"
        assert "sesame" not in (tmp_path / "environ").read_text(), "a browser gets no key"
        daemon.down()
        until(lambda: "stopped" in screen.title())
        until(lambda: screen.colours() != ready)
        daemon.up()
        until(lambda: "ready" in screen.title())
        until(lambda: screen.colours() == ready)
        tray.send_signal(signal.SIGTERM)
        assert tray.wait(30) == 0
        until(lambda: screen.icon() is None)
        assert not daemon.stopped.is_set(), "the tray did not start it"
    finally:
        tray.kill()
        tray.wait()
    assert "Traceback" not in (tmp_path / "output").read_text()
