"""The tray without its icon: polls the daemon, starts it, carries out the menu's actions, sends notifications."""

from __future__ import annotations

import datetime
import logging
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from edgeembed.background.end_reason import reason_in
from edgeembed.background.process import popen
from edgeembed.client import daemon_url
from edgeembed.config.file import write_setting
from edgeembed.config.resolution import Resolved
from edgeembed.errors import EdgeEmbedError
from edgeembed.tray import snippets, system
from edgeembed.tray.child import DaemonChild
from edgeembed.tray.menu import Action, MenuContext, MenuEntry, is_default, make_menu
from edgeembed.tray.notifications import notifications
from edgeembed.tray.state import IconState, View, make_view
from edgeembed.tray.watcher import UnsupportedError, Watcher

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
MENU_SECONDS = 15.0
"""Seconds between updates of the menu when only its numbers change: an update closes an open menu."""
CLEAR_CACHE_SECONDS = 120.0
"""Timeout for clearing the cache, which may be large."""
LOAD_SECONDS = 60.0
"""Timeout for choosing a model, which begins to load."""
SHUTDOWN_MARGIN_SECONDS = 5.0
"""Seconds beyond its grace period before a daemon that is shutting down is killed."""

_ACTIVITY = {IconState.READY: IconState.READY, IconState.BUSY: IconState.READY}
"""States that differ only in activity: a change between them does not update the menu."""


class TrayIcon(Protocol):
    """The icon on the desktop. Its methods may be called in any thread."""

    def show(self, state: IconState, title: str, menu: tuple[MenuEntry, ...] | None) -> None:
        """Show a state. menu: None keeps the current one."""

    def notify(self, title: str, text: str) -> None:
        """Show a notification."""

    def close(self) -> None:
        """Remove the icon and end the toolkit's loop."""


class AutostartSwitch(Protocol):
    """The part of `edgeembed.autostart.Autostart` that the menu needs."""

    def status(self) -> bool: ...

    def enable(self) -> None: ...

    def disable(self) -> None: ...


class Controller:
    """Runs in its own thread. Only `submit` may be called from other threads."""

    def __init__(
        self,
        resolved: Resolved,
        icon: TrayIcon,
        child: DaemonChild,
        *,
        autostart: AutostartSwitch | None = None,
        catalogue: tuple[str, ...] = (),
        sizes: Mapping[str, int] | None = None,
        last_lines: Callable[[], Sequence[str]] = tuple,
        start_pull: Callable[[str], subprocess.Popen[bytes]] = lambda name: popen(["pull", name], stderr=subprocess.PIPE),
        now: Callable[[], datetime.datetime] = datetime.datetime.now,
    ) -> None:
        """Prepare; nothing happens before `run`.

        catalogue, sizes: see MenuContext. last_lines: returns the end of the log of a daemon that is not the tray's own.
        """
        self._resolved = resolved
        self._settings = resolved.settings
        self._icon = icon
        self._watcher = Watcher(resolved.settings)
        self._child = child
        self._autostart = autostart
        self._catalogue = catalogue
        self._sizes = sizes or {}
        self._last_lines = last_lines
        self._start_pull = start_pull
        self._now = now
        self._submitted: queue.SimpleQueue[tuple[Action, str]] = queue.SimpleQueue()
        self._view: View | None = None
        self._menu: tuple[MenuEntry, ...] | None = None
        self._structure: object = None  # the menu without its numbers
        self._menu_at = self._loading_since = float("-inf")
        self._pulls: set[str] = set()
        self._starts_at_login = self._read_autostart()
        self._closed = False
        self._actions: dict[Action, Callable[[str], None]] = {
            Action.OPEN_DASHBOARD: self._open_dashboard,
            Action.COPY_BASE_URL: lambda _: self._copy(snippets.base_url(self._settings)),
            Action.COPY_SNIPPET: self._copy_snippet,
            Action.CHOOSE_MODEL: self._choose_model,
            Action.PULL_MODEL: self._pull,
            Action.PAUSE: lambda _: self._watcher.send("pause"),
            Action.RESUME: lambda _: self._watcher.send("resume"),
            Action.START: lambda _: self._child.start(),
            Action.CLEAR_CACHE: self._clear_cache,
            Action.AUTOSTART: self._switch_autostart,
            Action.OPEN_LOGS: self._open_logs,
            Action.OPEN_SETTINGS: self._open_settings,
            Action.QUIT: self._quit,
        }

    def submit(self, action: Action, argument: str = "") -> None:
        """Queue an action. May be called in any thread."""
        self._submitted.put((action, argument))

    def run(self) -> None:
        """Use the running daemon or start one; then poll it and carry out submitted actions until Quit."""
        first = self._watcher.poll()
        if first.status is None and first.problem is None:
            self._child.start()
        self.refresh()
        while not self._closed:
            try:
                action, argument = self._submitted.get(timeout=POLL_SECONDS)
            except queue.Empty:
                pass
            else:
                self.perform(action, argument)
            if not self._closed:
                self.refresh()

    def refresh(self) -> None:
        """Poll the daemon once, and update the icon."""
        self._child.check()
        polled = self._watcher.poll(self._child.status)
        if polled.status is None and polled.child is None and self._view is not None and self._view.answers:
            polled = replace(polled, end_reason=reason_in(self._last_lines()))
        before, self._view = self._view, make_view(polled, self._view, self._now())
        waited = time.monotonic() - self._loading_since
        for title, text in notifications(before, self._view, waited):
            self._icon.notify(title, text)
        if self._view.state is IconState.LOADING and (before is None or before.state is not IconState.LOADING):
            self._loading_since = time.monotonic()
        self._show(self._view)

    def perform(self, action: Action, argument: str = "") -> None:
        """Carry out an action; failures become notifications."""
        try:
            self._actions[action](argument)
        except EdgeEmbedError as error:
            self._icon.notify("edgeembed", error.message)
        except OSError as error:
            self._icon.notify("edgeembed", str(error))
        self._menu_at = float("-inf")  # choosing an entry closed the menu: it may show the result at once

    def _show(self, view: View) -> None:
        context = MenuContext(
            browsable=not self._settings.uds,
            autostart=self._starts_at_login,
            catalogue=self._catalogue,
            sizes=self._sizes,
            pulling=frozenset(self._pulls),
        )
        menu = make_menu(view, context)
        structure = (
            make_menu(replace(view, day=None, cache=None, state=_ACTIVITY.get(view.state, view.state), line=""), context),
            view.line if view.state not in _ACTIVITY else None,
        )
        now = time.monotonic()
        update = structure != self._structure or (menu != self._menu and now - self._menu_at >= MENU_SECONDS)
        if update:
            self._menu, self._structure, self._menu_at = menu, structure, now
        self._icon.show(view.state, view.line, menu if update else None)

    # --- actions of the menu ------------------------------------------------------------------------------------------

    def _open_dashboard(self, _argument: str) -> None:
        if self._view is not None and not self._view.answers:
            # Reached by a click on the icon, on desktops where it has no menu.
            if self._view.state is IconState.STOPPED:
                self._child.start()
            return
        if self._settings.uds:
            raise EdgeEmbedError("browsers cannot open a Unix socket; set host and port instead of uds to use the dashboard")
        if not system.open_page(f"{daemon_url(self._settings)}/"):
            raise EdgeEmbedError(f"no browser found; open {daemon_url(self._settings)}/")

    def _copy(self, text: str) -> None:
        if not system.copy(text):
            raise EdgeEmbedError(f"cannot access the clipboard (Linux: install xclip or wl-clipboard). The text: {text}")

    def _copy_snippet(self, language: str) -> None:
        snippet = {"curl": snippets.curl, "python": snippets.python}[language]
        self._copy(snippet(self._settings, self._view.model if self._view else None))

    def _choose_model(self, name: str) -> None:
        if self._resolved.origins.get("model") in ("environment", "flag"):
            raise EdgeEmbedError("the model is set by EDGEEMBED_MODEL or --model; remove that setting first")
        if self._view is not None and is_default(name, self._view):
            return  # a click on the one that is in use
        if self._view is not None and self._view.answers and self._make_default(name):
            return
        write_setting(self._resolved.paths.config_file, "model", name)
        if not self._child.running:
            self._icon.notify(
                "edgeembed", f"Restart the daemon to use {name}. The tray did not start it and cannot restart it."
            )
            return
        self._stop_child()
        self._child.start()
        self._icon.notify("edgeembed", f"Loading {name}. Its vectors are not compatible with those of other models.")

    def _make_default(self, name: str) -> bool:
        """Have the running daemon take another default model; return whether its version can."""
        try:
            self._watcher.send("models/default", LOAD_SECONDS, {"model": name})
        except UnsupportedError:
            return False
        self._watcher.refresh_all()
        self._icon.notify("edgeembed", f"{name} is used now. Its vectors are not compatible with those of other models.")
        return True

    def _pull(self, name: str) -> None:
        if name in self._pulls:
            return
        process = self._start_pull(name)
        self._pulls.add(name)

        def wait() -> None:
            assert process.stderr is not None
            output = process.stderr.read().decode(errors="replace").strip().splitlines()
            status = process.wait()
            self._pulls.discard(name)
            self._watcher.refresh_all()
            if status != 0:
                self._icon.notify(f"Could not download {name}", output[-1] if output else f"exit status {status}")
            elif self._view is None or not self._view.answers:  # else the daemon's list of models does it
                self._icon.notify("Model installed", f"{name} is ready to use.")

        threading.Thread(target=wait, name=f"pull {name}", daemon=True).start()

    def _clear_cache(self, _argument: str) -> None:
        self._watcher.send("cache/clear", CLEAR_CACHE_SECONDS)
        self._watcher.refresh_all()
        self._icon.notify("Cache cleared", "All vectors will be computed again when requested.")

    def _switch_autostart(self, _argument: str) -> None:
        if self._autostart is None:
            return
        if self._autostart.status():
            self._autostart.disable()
        else:
            self._autostart.enable()
        self._starts_at_login = self._read_autostart()

    def _read_autostart(self) -> bool | None:
        return None if self._autostart is None else self._autostart.status()

    def _open_logs(self, _argument: str) -> None:
        if not self._child.log_file.exists():
            raise EdgeEmbedError(
                "the tray did not start this daemon, so it does not know its log (systemd: journalctl --user -u edgeembed)"
            )
        if not system.open_file(self._child.log_file):
            raise EdgeEmbedError(f"no program found to open the log, {self._child.log_file}")

    def _open_settings(self, _argument: str) -> None:
        file = self._resolved.paths.config_file
        if not system.open_settings(file):
            raise EdgeEmbedError(f"no program found to open the settings, {file}")

    def _quit(self, _argument: str) -> None:
        self._closed = True
        try:
            if self._child.running:
                self._icon.show(IconState.LOADING, "edgeembed: shutting down", None)
                self._stop_child()
        finally:
            self._icon.close()

    def _stop_child(self) -> None:
        """Shut down the daemon that the tray started: over HTTP if possible, else by a signal."""
        self._child.expect_exit()
        # Another daemon may answer on the port as long as ours does not listen.
        if self._view is not None and self._view.pid is not None and self._child.is_process(self._view.pid):
            try:
                self._watcher.send("shutdown")
                self._child.wait(self._settings.grace_period + SHUTDOWN_MARGIN_SECONDS)
            except EdgeEmbedError as error:
                log.info("shutting the daemon down by a signal: %s", error.message)
        self._child.stop(SHUTDOWN_MARGIN_SECONDS)
