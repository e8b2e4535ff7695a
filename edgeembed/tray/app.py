"""The icon itself, drawn by pystray. The one module that imports it."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

from edgeembed.tray import icons
from edgeembed.tray.host import WAY_OUT, NoTrayError
from edgeembed.tray.menu import SEPARATOR, Do, Entry
from edgeembed.tray.state import State, Theme

log = logging.getLogger(__name__)

Ask = Callable[[Do, str], None]

_FIRST = (Entry("edgeembed: starting", enabled=False, default=True),)
"""AppIndicator hides an icon whose menu is empty, or has no default entry."""
_BIG, _PANEL, _WINDOWS = 64, 48, 32
"""Pixels of the picture that a toolkit gets: a panel of 16, 24 or 48 pixels divides 48."""


class PystrayFace:
    """Shows the icon, its menu and notifications in whatever way this desktop has.

    Where a backend has no menu, a left click opens the dashboard.
    """

    def __init__(self, backend: str, theme: Theme) -> None:
        """Make the icon; `run` shows it. Raises NoTrayError when the backend cannot be used here."""
        os.environ["PYSTRAY_BACKEND"] = backend
        try:
            self._pystray: Any = importlib.import_module("pystray")
            self._backend = backend
            self._theme = theme
            self._ask: Ask | None = None
            self._state = State.LOADING
            self._stopped = threading.Event()
            make: Any = self._pystray.Icon
            if backend == "xorg":
                make = importlib.import_module("edgeembed.tray.xorg").Icon
            self._icon: Any = make("edgeembed", self._image(State.LOADING), "edgeembed", self._menu(_FIRST))
        except Exception as error:  # a toolkit's own kinds: no display, no bus, a missing library
            raise NoTrayError(f"the tray's backend {backend!r} cannot be used here: {error}; {WAY_OUT}") from error

    @property
    def has_menu(self) -> bool:
        return bool(self._pystray.Icon.HAS_MENU)

    def run(self, work: Callable[[], None], ask: Ask) -> None:
        """Show the icon until `close`; has to be called in the main thread. work: what runs beside it, in a thread.

        Ctrl-C and SIGTERM ask for Quit. Raises NoTrayError.
        """
        self._ask = ask
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

        def begin(icon: Any) -> None:
            icon.visible = True
            self._keep_signals()
            threading.Thread(target=self._guarded, args=(work,), name="tray", daemon=True).start()

        try:
            self._icon.run(setup=begin)
        except Exception as error:  # a toolkit's own kinds
            if not self._stopped.is_set():
                raise NoTrayError(f"the icon cannot be shown: {error}; {WAY_OUT}") from error
            # Without a service for notifications GTK's backends stumble over their own end.
            log.debug("the icon ended with %s", error)

    def show(self, state: State, title: str, menu: tuple[Entry, ...] | None) -> None:
        """Show a state."""
        if state is not self._state:
            self._state = state
            self._icon.icon = self._image(state)
        if self._backend == "xorg":
            title = title.encode("latin-1", "replace").decode("latin-1")  # X's old window names know nothing else
        if title != self._icon.title:
            self._icon.title = title
        if menu is not None:
            self._icon.menu = self._menu(menu)

    def tell(self, title: str, text: str) -> None:
        """Show a notification; where there are none, the log has it."""
        log.info("%s: %s", title, text)
        if self._pystray.Icon.HAS_NOTIFICATION and (self._backend not in ("appindicator", "gtk") or _notifies()):
            self._icon.notify(text, title)

    def close(self) -> None:
        """Take the icon away."""
        self._stopped.set()
        self._icon.stop()

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do the work; without it the icon would stand there and say what was once so."""
        try:
            work()
        except Exception:
            log.exception("the tray has failed for a reason that nobody foresaw")
        finally:
            if not self._stopped.is_set():
                self.close()

    def _on_signal(self, _number: int, _frame: object) -> None:
        if self._ask is not None:
            self._ask(Do.QUIT, "")

    def _keep_signals(self) -> None:
        """Take Ctrl-C back from GTK's backends, where it would end us before the daemon was asked to finish."""
        if self._backend in ("appindicator", "gtk"):
            glib = importlib.import_module("gi.repository.GLib")
            glib.idle_add(lambda: signal.signal(signal.SIGINT, self._on_signal) and False)

    def _image(self, state: State) -> Any:
        size = {"appindicator": _PANEL, "gtk": _PANEL, "win32": _WINDOWS}.get(self._backend, _BIG)
        return icons.scalable(state, size, self._theme, opaque=self._backend == "xorg")

    def _menu(self, entries: Sequence[Entry]) -> Any:
        return self._pystray.Menu(*map(self._item, entries))

    def _item(self, entry: Entry) -> Any:
        if entry is SEPARATOR:
            return self._pystray.Menu.SEPARATOR
        checked = entry.checked
        return self._pystray.MenuItem(
            entry.label.replace("&", "&&") if self._backend == "win32" else entry.label,
            self._menu(entry.inner) if entry.inner else self._action(entry),
            checked=None if checked is None else lambda _item: checked,
            radio=entry.radio,
            default=entry.default,
            enabled=entry.enabled,
        )

    def _action(self, entry: Entry) -> Callable[[Any, Any], None]:
        def act(_icon: Any, _item: Any) -> None:
            if entry.do is not None and self._ask is not None:
                self._ask(entry.do, entry.argument)

        return act


def _notifies() -> bool:
    """Say whether somebody shows notifications on the session bus, or would be started for it; pystray does not ask."""
    gio: Any = importlib.import_module("gi.repository.Gio")
    glib: Any = importlib.import_module("gi.repository.GLib")
    name = "org.freedesktop.Notifications"
    try:
        bus = gio.bus_get_sync(gio.BusType.SESSION, None)
        for method in ("ListNames", "ListActivatableNames"):
            place = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
            answer = bus.call_sync(*place, method, None, None, gio.DBusCallFlags.NONE, 1000, None)
            if name in answer.unpack()[0]:
                return True
    except glib.Error as error:
        log.debug("no notifications: %s", error)
    return False
