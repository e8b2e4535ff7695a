"""Start at login: one interface, a file for each system's way.

    current() -> Autostart      systemd's user units or XDG autostart on Linux, launchd on macOS, the Run key on Windows
    status(), enable(), disable()    the same, in one call

A user's "off" is remembered in the state folder, and holds through upgrades: installers call `enable_unless_off`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeembed.autostart.base import Autostart

__all__ = ["current", "disable", "enable", "status"]


def current(environ: Mapping[str, str] | None = None) -> Autostart:
    """Return this system's way to start the daemon at login. Raises ConfigError where there is none, or under sudo."""
    from edgeembed.autostart.base import CHOICE_FILE, Program, config_home
    from edgeembed.config.paths import Paths
    from edgeembed.errors import ConfigError

    environ = os.environ if environ is None else environ
    if hasattr(os, "geteuid") and os.geteuid() == 0 and environ.get("SUDO_USER"):
        raise ConfigError(
            "start at login is each user's own: run this without sudo. For a service of the whole machine see "
            "installers/systemd/README.md"
        )
    program, choice_file = Program.this(environ), Paths.resolve(environ).state / CHOICE_FILE
    if sys.platform == "win32":
        from edgeembed.autostart.windows import WindowsRun

        return WindowsRun(program, choice_file)
    if sys.platform == "darwin":
        from edgeembed.autostart.launchd import Launchd

        return Launchd(program, choice_file)
    if sys.platform.startswith(("linux", "freebsd", "openbsd", "netbsd")):
        from edgeembed.autostart.systemd import SystemdUser, user_manager_runs
        from edgeembed.autostart.xdg import XdgAutostart

        folder = config_home(environ)
        if user_manager_runs():
            return SystemdUser(program, choice_file, folder, others=[XdgAutostart(program, choice_file, folder)])
        return XdgAutostart(program, choice_file, folder, others=[SystemdUser(program, choice_file, folder)])
    raise ConfigError(f"no way is known to start at login on {sys.platform}")


def status() -> bool:
    """Return whether the daemon starts at login. Raises ConfigError."""
    return current().status()


def enable() -> None:
    """Start the daemon at every login from the next one on. Raises ConfigError."""
    current().enable()


def disable() -> None:
    """Start nothing at login, through upgrades too; a running daemon goes on. Raises ConfigError."""
    current().disable()
