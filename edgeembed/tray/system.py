"""What the menu asks of the desktop: opening files and pages, the clipboard, light or dark."""

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
_NEW_SETTINGS = "# Settings of edgeembed; `edgeembed serve --help` tells all, `edgeembed config show` those in force.\n"


def open_page(url: str) -> bool:
    """Open a page in the user's browser; says whether there is one."""
    return webbrowser.open(url)


def open_settings(file: Path) -> bool:
    """Open config.toml in the user's editor; a file that is missing is begun. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(_NEW_SETTINGS)
    except FileExistsError:
        pass
    return open_file(file)


def open_file(path: Path) -> bool:
    """Open a file or a folder with what the desktop has for it; says whether there is something."""
    if sys.platform.startswith("linux") and shutil.which("xdg-open") is None:
        return False
    return click.launch(str(path)) == 0


def copy(text: str) -> bool:
    """Put a text on the clipboard; says whether that was possible."""
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
            # xclip stays to hand the text out: it must not hold a pipe of ours that somebody reads to its end.
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
    """Show a notification where there is no icon to show it; says whether the desktop took it. Linux alone."""
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
    """Say whether the panel is light or dark, as far as the system tells; most panels are dark."""
    if sys.platform == "win32":
        return _windows_theme()
    if sys.platform == "darwin":
        # The key exists in dark mode alone.
        answer = _output("defaults", "read", "-g", "AppleInterfaceStyle")
        return "dark" if "Dark" in answer else "light"
    answer = _output("gsettings", "get", "org.gnome.desktop.interface", "color-scheme")
    return "light" if "light" in answer else "dark"


def _windows_theme() -> Theme:
    if sys.platform != "win32":
        return "dark"
    import winreg

    place = r"Software\Microsoft\Windows\CurrentVersion\Themes\Personalize"
    try:
        with winreg.OpenKey(winreg.HKEY_CURRENT_USER, place) as key:
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
