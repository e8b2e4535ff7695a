"""Whether this desktop can show an icon, and with which of pystray's backends."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping

from edgeembed.errors import EdgeEmbedError

log = logging.getLogger(__name__)


class NoTrayError(EdgeEmbedError):
    """This desktop cannot show an icon."""


WATCHER = "org.kde.StatusNotifierWatcher"
"""Bus name in the StatusNotifierItem specification."""
ALTERNATIVE = "run `edgeembed serve` for a daemon without an icon"


def backend(environ: Mapping[str, str] | None = None, seconds: float = 10.0) -> tuple[str | None, str]:
    """Return the name of the pystray backend to use, or None and the reason why there is none.

    seconds: how long to wait for a panel, which may start after us at login. PYSTRAY_BACKEND overrides the choice.
    """
    environ = os.environ if environ is None else environ
    if chosen := environ.get("PYSTRAY_BACKEND"):
        return chosen, ""
    if sys.platform == "darwin":
        return "darwin", ""
    if sys.platform == "win32":
        return "win32", ""
    if not (environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")):
        return None, "no graphical session (neither DISPLAY nor WAYLAND_DISPLAY is set)"
    until = time.monotonic() + seconds
    while (found := choose(environ, _has_watcher, _has_x_tray)) is None and time.monotonic() < until:
        time.sleep(0.5)
    return (found, "") if found else (None, _why_not(environ))


def choose(environ: Mapping[str, str], has_watcher: Callable[[], bool], has_x_tray: Callable[[str], bool]) -> str | None:
    """Return a backend for Linux, None if none works. Preference: AppIndicator menus, GTK menus, no menu (plain X)."""
    has_gi = importlib.util.find_spec("gi") is not None
    if has_gi and has_watcher():
        return "appindicator"
    display = environ.get("DISPLAY")
    if display and has_x_tray(display):
        return "gtk" if has_gi and _has_gtk() else "xorg"
    return None


def _why_not(environ: Mapping[str, str]) -> str:
    if importlib.util.find_spec("gi") is None:
        hint = "; most desktops need PyGObject (Debian: apt install python3-gi gir1.2-ayatanaappindicator3-0.1)"
    elif environ.get("WAYLAND_DISPLAY"):
        hint = "; GNOME needs the AppIndicator extension"
    else:
        hint = ""
    return f"this desktop has no system tray{hint}"


def _has_watcher() -> bool:
    """Return whether a panel shows StatusNotifierItems and the library that creates them is installed."""
    try:
        import gi
        from gi.repository import Gio, GLib

        for name in ("AyatanaAppIndicator3", "AppIndicator3"):
            try:
                gi.require_version(name, "0.1")
                break
            except ValueError:
                continue
        else:
            return False
        bus = Gio.bus_get_sync(Gio.BusType.SESSION, None)
        answer = bus.call_sync(
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            "NameHasOwner",
            GLib.Variant("(s)", (WATCHER,)),
            None,
            Gio.DBusCallFlags.NONE,
            1000,
            None,
        )
        return bool(answer.unpack()[0])
    except ImportError:
        return False
    except GLib.Error as error:
        log.debug("no session bus: %s", error)
        return False


def _has_gtk() -> bool:
    try:
        import gi

        gi.require_version("Gtk", "3.0")
    except (ImportError, ValueError):
        return False
    return True


def _has_x_tray(display: str) -> bool:
    """Return whether a panel of this X display embeds icons (freedesktop.org's System Tray Protocol)."""
    try:
        from Xlib.display import Display
        from Xlib.error import DisplayError, XauthError
    except ImportError:
        return False
    try:
        connection = Display(display)
    except (DisplayError, XauthError, OSError) as error:
        log.debug("no X display: %s", error)
        return False
    try:
        atom = connection.intern_atom(f"_NET_SYSTEM_TRAY_S{connection.get_default_screen()}")
        return bool(connection.get_selection_owner(atom))
    finally:
        connection.close()
