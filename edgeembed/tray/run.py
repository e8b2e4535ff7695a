"""The tray put together: one icon for each user, until Quit."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from typing import Literal

from filelock import FileLock, Timeout

from edgeembed.config.resolution import Resolved
from edgeembed.errors import ConfigError, EdgeEmbedError
from edgeembed.hub.catalogue import catalogue
from edgeembed.tray import host, system
from edgeembed.tray.child import DaemonChild
from edgeembed.tray.control import AutostartSwitch, Controller
from edgeembed.tray.watcher import Watcher

log = logging.getLogger(__name__)

LOCK_FILE = "tray.lock"


def run(resolved: Resolved, flags: Sequence[str], look: Literal["auto", "light", "dark"] = "auto") -> bool:
    """Show the icon until Quit; False when one is shown already.

    flags: what a daemon is told that has to be started. Raises NoTrayError with the way out, ConfigError for settings.
    """
    if resolved.settings.port == 0 and not resolved.settings.uds:
        raise ConfigError("with port 0 nobody can know where the daemon will listen; the tray needs a port")
    resolved.paths.state.mkdir(parents=True, exist_ok=True)
    lock = FileLock(resolved.paths.state / LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    with lock:
        if importlib.util.find_spec("pystray") is None or importlib.util.find_spec("PIL") is None:
            raise host.NoTrayError(f"the tray needs two more packages: pip install 'edgeembed[tray]'; {host.WAY_OUT}")
        backend, why_not = host.backend()
        if backend is None:
            raise host.NoTrayError(f"no icon can be shown: {why_not}; {host.WAY_OUT}")
        from edgeembed.tray.app import PystrayFace

        face = PystrayFace(backend, system.theme() if look == "auto" else look)
        if not face.has_menu:
            log.warning("this desktop's tray shows no menu: a click on the icon opens the dashboard")
        child = DaemonChild(lambda: flags, resolved.paths.logs)
        controller = Controller(
            resolved,
            face,
            Watcher(resolved.settings),
            child,
            autostart=_autostart(),
            catalogue=tuple(catalogue()),
        )
        face.run(controller.run, controller.ask)
    return True


def _autostart() -> AutostartSwitch | None:
    """Give this system's way to start at login; None where it has none."""
    from edgeembed import autostart

    try:
        switch: AutostartSwitch = autostart.current()
        switch.status()
    except EdgeEmbedError as error:
        log.info("no start at login: %s", error.message)
        return None
    return switch
