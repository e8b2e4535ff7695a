"""Start at login: one interface, one module per mechanism.

    current() -> Autostart      systemd's user units or XDG autostart on Linux, launchd on macOS, a task on Windows
    status(), enable(), disable()    the same, in one call

The user's "off" is stored in the state folder and survives upgrades: installers call `enable_unless_off`.
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
    """Return the mechanism of this system. Raises ConfigError if there is none, or under sudo."""
    from edgeembed.autostart.base import CHOICE_FILE, Program, config_home
    from edgeembed.config.paths import Paths
    from edgeembed.errors import ConfigError

    environ = os.environ if environ is None else environ
    if hasattr(os, "geteuid") and os.geteuid() == 0 and environ.get("SUDO_USER"):
        raise ConfigError(
            "start at login is a setting of each user: run this without sudo. For a system service see "
            "installers/systemd/README.md"
        )
    program, choice_file = Program.this(environ), Paths.resolve(environ).state / CHOICE_FILE
    if sys.platform == "win32":
        from edgeembed.autostart.windows import WindowsRun
        from edgeembed.autostart.windows_task import WindowsTask

        return WindowsTask(program, choice_file, WindowsRun(program, choice_file))
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
    raise ConfigError(f"start at login is not supported on {sys.platform}")


def status() -> bool:
    """Return whether the daemon starts at login. Raises ConfigError."""
    return current().status()


def enable() -> None:
    """Start the daemon at every login, beginning with the next one. Raises ConfigError."""
    current().enable()


def disable() -> None:
    """Do not start the daemon at login, even after upgrades; a running daemon keeps running. Raises ConfigError."""
    current().disable()
