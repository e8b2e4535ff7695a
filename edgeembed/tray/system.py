"""The desktop: opens files and pages, copies to the clipboard, knows whether the theme is light or dark."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import webbrowser
from pathlib import Path

import click

from edgeembed.tray.state import Theme

log = logging.getLogger(__name__)

_CLIPBOARDS = (("wl-copy",), ("xclip", "-selection", "clipboard"), ("xsel", "--clipboard", "--input"))
_TOOL_SECONDS = 5.0
_NEW_SETTINGS = (
    "# Settings of edgeembed. `edgeembed serve --help` explains them; `edgeembed config show` prints those in effect.\n"
)


def open_page(url: str) -> bool:
    """Open a page in the user's browser; return whether there is one."""
    return webbrowser.open(url)


def open_settings(file: Path) -> bool:
    """Open config.toml in the user's editor, and create it if it is missing. Return as `open_file`. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(_NEW_SETTINGS)
    except FileExistsError:
        pass
    return open_file(file)


def open_file(path: Path) -> bool:
    """Open a file or a folder in the desktop's program for it; return whether there is one."""
    if sys.platform.startswith("linux") and shutil.which("xdg-open") is None:
        return False
    return click.launch(str(path)) == 0


def copy(text: str) -> bool:
    """Copy a text to the clipboard; return whether that worked."""
    if sys.platform == "darwin":
        tools: tuple[tuple[str, ...], ...] = (("pbcopy",),)
    elif sys.platform == "win32":
        tools = (("clip",),)
    else:
        tools = _CLIPBOARDS
    data = text.encode("utf-16" if sys.platform == "win32" else "utf-8")
    for tool in tools:
        if shutil.which(tool[0]) is None:
            continue
        try:
            # xclip keeps running to serve the text, so it must not inherit a pipe that somebody reads to its end.
            done = subprocess.run(
                tool,
                input=data,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_TOOL_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("%s: %s", tool[0], error)
            continue
        if done.returncode == 0:
            return True
    return False


def notify(title: str, text: str) -> bool:
    """Show a notification without an icon; return whether that worked. Linux only."""
    if shutil.which("notify-send") is None:
        return False
    try:
        done = subprocess.run(
            ["notify-send", "--app-name=edgeembed", title, text],
            capture_output=True,
            timeout=_TOOL_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.debug("notify-send: %s", error)
        return False
    return done.returncode == 0


def theme() -> Theme:
    """Return the theme of the panel; dark, like most panels, if the system does not say."""
    if sys.platform == "win32":
        return _windows_theme()
    if sys.platform == "darwin":
        # The key exists only in dark mode.
        answer = _output("defaults", "read", "-g", "AppleInterfaceStyle")
        return "dark" if "Dark" in answer else "light"
    answer = _output("gsettings", "get", "org.gnome.desktop.interface", "color-scheme")
    return "light" if "light" in answer else "dark"


def _windows_theme() -> Theme:
    if sys.platform != "win32":
        return "dark"
    import winreg

    subkey = r"Software\Microsoft\Windows\CurrentVersion\Themes\Personalize"
    try:
        with winreg.OpenKey(winreg.HKEY_CURRENT_USER, subkey) as key:
            return "light" if winreg.QueryValueEx(key, "SystemUsesLightTheme")[0] else "dark"
    except OSError:
        return "dark"


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=2, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
