"""The icon on the desktop, shown by pystray. No other module imports it, except xorg.py."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

from edgeembed.tray import icons
from edgeembed.tray.host import ALTERNATIVE, NoTrayError
from edgeembed.tray.menu import SEPARATOR, Action, MenuEntry
from edgeembed.tray.state import IconState, Theme

log = logging.getLogger(__name__)

Submit = Callable[[Action, str], None]
"""Takes an action of the menu and its argument; may be called in any thread."""

_FIRST = (MenuEntry("edgeembed: starting", enabled=False, default=True),)
"""AppIndicator hides an icon whose menu is empty or lacks a default entry."""
_BIG, _PANEL, _WINDOWS = 64, 48, 32
"""Image sizes in pixels. _PANEL is a multiple of the usual panel icons of 16, 24 and 48 pixels."""


class PystrayIcon:
    """Shows the icon, its menu and notifications with one of pystray's backends.

    If the backend has no menu, a left click opens the dashboard.
    """

    def __init__(self, backend: str, theme: Theme) -> None:
        """Create the icon; `run` shows it. Raises NoTrayError if the backend does not work here."""
        os.environ["PYSTRAY_BACKEND"] = backend
        try:
            self._pystray: Any = importlib.import_module("pystray")
            self._backend = backend
            self._theme = theme
            self._submit: Submit | None = None
            self._state = IconState.LOADING
            self._stopped = threading.Event()
            icon_class: Any = self._pystray.Icon
            if backend == "xorg":
                icon_class = importlib.import_module("edgeembed.tray.xorg").XorgIcon
            self._icon: Any = icon_class("edgeembed", self._image(IconState.LOADING), "edgeembed", self._menu(_FIRST))
        except Exception as error:  # toolkits raise their own types: no display, no bus, a missing library
            raise NoTrayError(f"the tray backend {backend!r} does not work here: {error}; {ALTERNATIVE}") from error

    @property
    def has_menu(self) -> bool:
        return bool(self._pystray.Icon.HAS_MENU)

    def run(self, work: Callable[[], None], submit: Submit) -> None:
        """Show the icon until `close`, and run `work` in a thread meanwhile. Must be called in the main thread.

        Ctrl-C and SIGTERM submit Quit. Raises NoTrayError.
        """
        self._submit = submit
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

        def begin(icon: Any) -> None:
            icon.visible = True
            self._keep_signals()
            threading.Thread(target=self._guarded, args=(work,), name="tray", daemon=True).start()

        try:
            self._icon.run(setup=begin)
        except Exception as error:  # toolkits raise their own types
            if not self._stopped.is_set():
                raise NoTrayError(f"the icon cannot be shown: {error}; {ALTERNATIVE}") from error
            # Without a notification service, GTK's backends raise while they stop.
            log.debug("the icon ended with %s", error)

    def show(self, state: IconState, title: str, menu: tuple[MenuEntry, ...] | None) -> None:
        """Show a state. menu: None keeps the current one."""
        if state is not self._state:
            self._state = state
            self._icon.icon = self._image(state)
        if self._backend == "xorg":
            title = title.encode("latin-1", "replace").decode("latin-1")  # X's WM_NAME is Latin-1
        if title != self._icon.title:
            self._icon.title = title
        if menu is not None:
            self._icon.menu = self._menu(menu)

    def notify(self, title: str, text: str) -> None:
        """Log a message and show it as a notification if the desktop has them."""
        log.info("%s: %s", title, text)
        if self._pystray.Icon.HAS_NOTIFICATION and (
            self._backend not in ("appindicator", "gtk") or _has_notification_service()
        ):
            self._icon.notify(text, title)

    def close(self) -> None:
        """Remove the icon."""
        self._stopped.set()
        self._icon.stop()

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run `work`, and close the icon when it ends: it would show an outdated state."""
        try:
            work()
        except Exception:
            log.exception("unexpected error in the tray")
        finally:
            if not self._stopped.is_set():
                self.close()

    def _on_signal(self, _number: int, _frame: object) -> None:
        if self._submit is not None:
            self._submit(Action.QUIT, "")

    def _keep_signals(self) -> None:
        """Restore our handler for Ctrl-C: that of GTK's backends would end the process before the daemon is shut down."""
        if self._backend in ("appindicator", "gtk"):
            glib = importlib.import_module("gi.repository.GLib")
            glib.idle_add(lambda: signal.signal(signal.SIGINT, self._on_signal) and False)

    def _image(self, state: IconState) -> Any:
        size = {"appindicator": _PANEL, "gtk": _PANEL, "win32": _WINDOWS}.get(self._backend, _BIG)
        return icons.scalable(state, size, self._theme, opaque=self._backend == "xorg")

    def _menu(self, entries: Sequence[MenuEntry]) -> Any:
        return self._pystray.Menu(*map(self._item, entries))

    def _item(self, entry: MenuEntry) -> Any:
        if entry is SEPARATOR:
            return self._pystray.Menu.SEPARATOR
        checked = entry.checked
        return self._pystray.MenuItem(
            entry.label.replace("&", "&&") if self._backend == "win32" else entry.label,
            self._menu(entry.submenu) if entry.submenu else self._action(entry),
            checked=None if checked is None else lambda _item: checked,
            radio=entry.radio,
            default=entry.default,
            enabled=entry.enabled,
        )

    def _action(self, entry: MenuEntry) -> Callable[[Any, Any], None]:
        def act(_icon: Any, _item: Any) -> None:
            if entry.action is not None and self._submit is not None:
                self._submit(entry.action, entry.argument)

        return act


def _has_notification_service() -> bool:
    """Return whether the session bus has a notification service, running or activatable; pystray does not check."""
    gio: Any = importlib.import_module("gi.repository.Gio")
    glib: Any = importlib.import_module("gi.repository.GLib")
    name = "org.freedesktop.Notifications"
    try:
        bus = gio.bus_get_sync(gio.BusType.SESSION, None)
        for method in ("ListNames", "ListActivatableNames"):
            address = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
            answer = bus.call_sync(*address, method, None, None, gio.DBusCallFlags.NONE, 1000, None)
            if name in answer.unpack()[0]:
                return True
    except glib.Error as error:
        log.debug("cannot look for a notification service: %s", error)
    return False
