"""The tray's work, minus the icon: looks at the daemon, starts it, does what the menu says, tells the news."""

from __future__ import annotations

import datetime
import logging
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from edgeembed.client import daemon_url
from edgeembed.config.file import write_setting
from edgeembed.config.resolution import Resolved
from edgeembed.errors import EdgeEmbedError
from edgeembed.tray import snippets, system
from edgeembed.tray.child import DaemonChild, popen
from edgeembed.tray.menu import Do, Entry, Surroundings, make_menu
from edgeembed.tray.notifications import news
from edgeembed.tray.state import State, View, look
from edgeembed.tray.watcher import Watcher

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
NUMBERS_SECONDS = 15.0
"""How long new numbers wait for the menu: one that is open closes when it changes."""
CLEAR_SECONDS = 120.0
"""That a large cache may take until its rows are gone."""
EXTRA_SECONDS = 5.0
"""Beyond its grace period, that a daemon gets to end before it is killed."""

_ACTIVITY = {State.READY: State.READY, State.BUSY: State.READY}
"""States between which nothing changes but how much there is to do."""


class Face(Protocol):
    """What shows the icon. Its methods may be called in any thread."""

    def show(self, state: State, title: str, menu: tuple[Entry, ...] | None) -> None:
        """Show a state; menu: the new one, or None where it is as before."""

    def tell(self, title: str, text: str) -> None:
        """Show a notification."""

    def close(self) -> None:
        """Take the icon away and end the toolkit's loop."""


class AutostartSwitch(Protocol):
    """What starts edgeembed at login; see `edgeembed.autostart`."""

    def status(self) -> bool: ...

    def enable(self) -> None: ...

    def disable(self) -> None: ...


class Controller:
    """Runs in a thread of its own. Only `ask` may be called in others."""

    def __init__(
        self,
        resolved: Resolved,
        face: Face,
        watcher: Watcher,
        child: DaemonChild,
        *,
        autostart: AutostartSwitch | None = None,
        catalogue: tuple[str, ...] = (),
        start_pull: Callable[[str], subprocess.Popen[bytes]] = lambda name: popen(["pull", name], stderr=subprocess.PIPE),
        now: Callable[[], datetime.datetime] = datetime.datetime.now,
    ) -> None:
        """Tie the parts together; nothing happens before `run`."""
        self._resolved = resolved
        self._settings = resolved.settings
        self._face = face
        self._watcher = watcher
        self._child = child
        self._autostart = autostart
        self._catalogue = catalogue
        self._start_pull = start_pull
        self._now = now
        self._asked: queue.SimpleQueue[tuple[Do, str]] = queue.SimpleQueue()
        self._view: View | None = None
        self._menu: tuple[Entry, ...] | None = None
        self._structure: object = None
        self._menu_at = self._loading_since = float("-inf")
        self._pulls: set[str] = set()
        self._autostarts = self._read_autostart()
        self._closed = False
        self._work: dict[Do, Callable[[str], None]] = {
            Do.OPEN_DASHBOARD: self._open_dashboard,
            Do.COPY_BASE_URL: lambda _: self._copy(snippets.base_url(self._settings)),
            Do.COPY_SNIPPET: self._copy_snippet,
            Do.CHOOSE_MODEL: self._choose_model,
            Do.PULL_MODEL: self._pull,
            Do.PAUSE: lambda _: self._watcher.tell("pause"),
            Do.RESUME: lambda _: self._watcher.tell("resume"),
            Do.START: lambda _: self._child.start(),
            Do.CLEAR_CACHE: self._clear_cache,
            Do.AUTOSTART: self._switch_autostart,
            Do.OPEN_LOGS: self._open_logs,
            Do.OPEN_SETTINGS: self._open_settings,
            Do.QUIT: self._quit,
        }

    def ask(self, do: Do, argument: str = "") -> None:
        """Have something done soon. May be called in any thread."""
        self._asked.put((do, argument))

    def run(self) -> None:
        """Join the daemon that runs, or start one; then look and do what is asked for until Quit."""
        first = self._watcher.look()
        if first.status is None and first.problem is None:
            self._child.start()
        self.step()
        while not self._closed:
            try:
                do, argument = self._asked.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                pass
            else:
                self.perform(do, argument)
            if not self._closed:
                self.step()

    def step(self) -> None:
        """Look once, and show what there is."""
        self._child.watch()
        seen = self._watcher.look(self._child.status)
        before, self._view = self._view, look(seen, self._view, self._now())
        waited = time.monotonic() - self._loading_since
        for title, text in news(before, self._view, waited):
            self._face.tell(title, text)
        if self._view.state is State.LOADING and (before is None or before.state is not State.LOADING):
            self._loading_since = time.monotonic()
        self._show(self._view)

    def perform(self, do: Do, argument: str = "") -> None:
        """Do what an entry of the menu says; what does not work is told."""
        try:
            self._work[do](argument)
        except EdgeEmbedError as error:
            self._face.tell("edgeembed", error.message)
        except OSError as error:
            self._face.tell("edgeembed", str(error))

    def _show(self, view: View) -> None:
        around = Surroundings(
            browsable=not self._settings.uds,
            autostart=self._autostarts,
            catalogue=self._catalogue,
            pulling=frozenset(self._pulls),
            logs=True,
        )
        menu = make_menu(view, around)
        structure = (
            make_menu(replace(view, day=None, cache=None, state=_ACTIVITY.get(view.state, view.state), line=""), around),
            view.line if view.state not in _ACTIVITY else None,
        )
        now = time.monotonic()
        renew = structure != self._structure or (menu != self._menu and now - self._menu_at >= NUMBERS_SECONDS)
        if renew:
            self._menu, self._structure, self._menu_at = menu, structure, now
        self._face.show(view.state, view.line, menu if renew else None)

    # --- what the menu does -------------------------------------------------------------------------------------------

    def _open_dashboard(self, _argument: str) -> None:
        if self._view is not None and not self._view.answers:
            # A click on the icon, where there is no menu to start it from.
            if self._view.state is State.STOPPED:
                self._child.start()
            return
        if self._settings.uds:
            raise EdgeEmbedError("a browser cannot open a Unix socket; set a port to see the dashboard")
        if not system.open_page(f"{daemon_url(self._settings)}/"):
            raise EdgeEmbedError(f"no browser was found; the dashboard is at {daemon_url(self._settings)}/")

    def _copy(self, text: str) -> None:
        if not system.copy(text):
            raise EdgeEmbedError(f"no clipboard was found (Linux: apt install xclip or wl-clipboard). The text: {text}")

    def _copy_snippet(self, language: str) -> None:
        make = {"curl": snippets.curl, "python": snippets.python}[language]
        self._copy(make(self._settings, self._view.model if self._view else None))

    def _choose_model(self, name: str) -> None:
        if self._resolved.origins.get("model") in ("environment", "flag"):
            raise EdgeEmbedError("EDGEEMBED_MODEL or --model decides which model is served; take that away first")
        write_setting(self._resolved.paths.config_file, "model", name)
        if not self._child.running:
            self._face.tell("edgeembed", f"{name} answers once edgeembed is started again: the tray did not start this one.")
            return
        self._end_child()
        self._child.start()
        self._face.tell("edgeembed", f"{name} is being loaded. Its vectors do not mix with those of another model.")

    def _pull(self, name: str) -> None:
        if name in self._pulls:
            return
        process = self._start_pull(name)
        self._pulls.add(name)

        def wait() -> None:
            assert process.stderr is not None
            said = process.stderr.read().decode(errors="replace").strip().splitlines()
            status = process.wait()
            self._pulls.discard(name)
            self._watcher.look_closely()
            if status != 0:
                self._face.tell(f"{name} could not be fetched", said[-1] if said else f"status {status}")
            elif self._view is None or not self._view.answers:  # else the daemon's list tells it
                self._face.tell("A model is installed", f"{name} is there.")

        threading.Thread(target=wait, name=f"pull {name}", daemon=True).start()

    def _clear_cache(self, _argument: str) -> None:
        self._watcher.tell("cache/clear", CLEAR_SECONDS)
        self._watcher.look_closely()
        self._face.tell("The cache is cleared", "Frequent queries are computed once more.")

    def _switch_autostart(self, _argument: str) -> None:
        if self._autostart is None:
            return
        if self._autostart.status():
            self._autostart.disable()
        else:
            self._autostart.enable()
        self._autostarts = self._read_autostart()

    def _read_autostart(self) -> bool | None:
        return None if self._autostart is None else self._autostart.status()

    def _open_logs(self, _argument: str) -> None:
        if not self._child.log_file.exists():
            raise EdgeEmbedError(
                "this daemon was not started by the tray, and writes its log elsewhere (a service: journalctl --user)"
            )
        if not system.open_file(self._child.log_file):
            raise EdgeEmbedError(f"nothing opens it; the log is {self._child.log_file}")

    def _open_settings(self, _argument: str) -> None:
        file = self._resolved.paths.config_file
        if not system.open_settings(file):
            raise EdgeEmbedError(f"nothing opens it; the settings are in {file}")

    def _quit(self, _argument: str) -> None:
        self._closed = True
        try:
            if self._child.running:
                self._face.show(State.LOADING, "edgeembed: finishing", None)
                self._end_child()
        finally:
            self._face.close()

    def _end_child(self) -> None:
        """Ask the daemon that the tray started to finish, and see to it that it does."""
        self._child.let_go()
        # Before it listens itself, another daemon may answer in its place.
        if self._view is not None and self._view.pid is not None and self._child.is_process(self._view.pid):
            try:
                self._watcher.tell("shutdown")
                self._child.wait(self._settings.grace_period + EXTRA_SECONDS)
            except EdgeEmbedError as error:
                log.info("the daemon is ended by a signal: %s", error.message)
        self._child.end(EXTRA_SECONDS)
