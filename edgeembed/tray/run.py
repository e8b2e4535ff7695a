"""Runs the tray: one icon per user, until Quit."""

from __future__ import annotations

import functools
import importlib.util
import logging
import subprocess
from collections.abc import Sequence
from typing import Literal

from filelock import FileLock, Timeout

from edgeembed.background.control import Background
from edgeembed.background.process import popen
from edgeembed.common.installation import find_installation
from edgeembed.config.resolution import Resolved
from edgeembed.config.secrets import hide_secrets
from edgeembed.errors import ConfigError, EdgeEmbedError
from edgeembed.hub.catalogue import catalogue
from edgeembed.hub.file_sizes import size_of
from edgeembed.tray import host, system
from edgeembed.tray.child import DaemonChild
from edgeembed.tray.control import AutostartSwitch, Controller

log = logging.getLogger(__name__)

LOCK_FILE = "tray.lock"


def run(resolved: Resolved, flags: Sequence[str], theme: Literal["auto", "light", "dark"] = "auto") -> bool:
    """Show the icon until Quit; return False if another tray is running.

    flags: for a daemon that has to be started. Raises NoTrayError, ConfigError for settings.
    """
    if resolved.settings.port == 0 and not resolved.settings.uds:
        raise ConfigError("the tray cannot find a daemon on a random port; set a port other than 0")
    resolved.paths.state.mkdir(parents=True, exist_ok=True)
    lock = FileLock(resolved.paths.state / LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    with lock:
        if importlib.util.find_spec("pystray") is None or importlib.util.find_spec("PIL") is None:
            raise host.NoTrayError(
                f"the tray needs the packages pystray and Pillow: {find_installation().add('tray')}; {host.ALTERNATIVE}"
            )
        backend, why_not = host.backend()
        if backend is None:
            raise host.NoTrayError(f"cannot show an icon: {why_not}; {host.ALTERNATIVE}")
        from edgeembed.tray.app import PystrayIcon

        icon = PystrayIcon(backend, system.theme() if theme == "auto" else theme)
        if not icon.has_menu:
            log.warning("the tray of this desktop has no menus: a click on the icon opens the dashboard")
        start = functools.partial(popen, environ=hide_secrets())  # browsers and editors that the menu starts get no key
        child = DaemonChild(lambda: flags, resolved.paths.logs, start=start)
        controller = Controller(
            resolved,
            icon,
            child,
            autostart=_autostart(),
            catalogue=tuple(catalogue()),
            sizes={name: size for name, entry in catalogue().items() if (size := size_of(entry, entry.default_type))},
            last_lines=Background(resolved, flags).lines_of_ended,
            start_pull=lambda name: start(["pull", name], stderr=subprocess.PIPE),
        )
        icon.run(controller.run, controller.submit)
    return True


def _autostart() -> AutostartSwitch | None:
    """Return the start-at-login mechanism of this system; None if there is none."""
    from edgeembed import autostart

    try:
        switch: AutostartSwitch = autostart.current()
        switch.status()
    except EdgeEmbedError as error:
        log.info("start at login is not available: %s", error.message)
        return None
    return switch
