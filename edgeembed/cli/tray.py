"""`edgeembed tray`."""

from __future__ import annotations

import os
import sys
from typing import Literal

import click

from edgeembed.cli.settings import setting_options


@click.command()
@click.option(
    "--icon",
    type=click.Choice(("auto", "light", "dark")),
    default="auto",
    help="Icon for a light or dark panel; auto asks the system.",
)
@setting_options("model", "host", "port", "uds")
def tray(icon: Literal["auto", "light", "dark"], **flags: str | None) -> None:
    """Show an icon with a menu for the running daemon, which is started if necessary.

    The icon shows whether the daemon is ready, busy, loading, paused, unhealthy or stopped. The menu opens the dashboard,
    copies settings for clients, selects the model, pauses the daemon and clears the cache. Quit also stops the daemon if the
    icon started it. The daemon does not depend on the icon and keeps running if that is killed.

    Needs the extra `tray`, and says how to install it. On Linux the menu needs PyGObject and a panel that supports
    StatusNotifierItem (Debian: apt install python3-gi gir1.2-ayatanaappindicator3-0.1); without them, a click on the icon
    opens the dashboard. PYSTRAY_BACKEND selects another backend: appindicator, gtk or xorg.

    \b
    edgeembed tray
    edgeembed tray --icon light             for a light panel
    edgeembed tray --port 9000              a daemon on another port

    Exits with 1 if no icon can be shown; use `edgeembed serve` instead.
    """
    from edgeembed.common.logs import setup_logging
    from edgeembed.config.resolution import resolve
    from edgeembed.tray.host import NoTrayError
    from edgeembed.tray.run import run
    from edgeembed.tray.system import notify

    resolved = resolve(flags)
    setup_logging(resolved.settings.log_level, resolved.settings.log_format)
    given = [word for name, value in flags.items() if value is not None for word in (f"--{name.replace('_', '-')}", value)]
    try:
        if not run(resolved, given, icon):
            click.echo("the tray icon is already running", err=True)
    except NoTrayError as error:
        # Started from the desktop's menu, there is no terminal to print to.
        in_terminal = sys.stderr is not None and sys.stderr.isatty()
        if not in_terminal and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            notify("edgeembed", error.message)
        raise
