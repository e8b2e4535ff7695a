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
    help="Draw the icon for a light or a dark panel; auto asks the system.",
)
@setting_options("model", "host", "port", "uds")
def tray(icon: Literal["auto", "light", "dark"], **flags: str | None) -> None:
    """Show an icon with a menu for the daemon: the one that runs, or else one that is started for it.

    The icon tells whether the daemon is ready, busy, loading, paused, not well or stopped; its menu opens the dashboard,
    copies what clients need, chooses the model, pauses and clears the cache. Quit ends a daemon that the icon has started,
    and leaves any other alone. The daemon needs no icon: it goes on when the icon is killed.

    Needs the extra `tray` (pip install 'edgeembed[tray]'). On Linux a menu needs PyGObject and a panel that takes
    StatusNotifierItems (Debian: apt install python3-gi gir1.2-ayatanaappindicator3-0.1); with neither, a click on the icon
    opens the dashboard. PYSTRAY_BACKEND (appindicator, gtk, xorg) chooses another way to show it.

    \b
    edgeembed tray
    edgeembed tray --icon light             for a light panel
    edgeembed tray --port 9000              a daemon on another port

    Ends with status 1 where no icon can be shown; `edgeembed serve` runs the daemon there.
    """
    from edgeembed.common.logs import setup_logging
    from edgeembed.config.resolution import resolve
    from edgeembed.tray.host import NoTrayError
    from edgeembed.tray.run import run
    from edgeembed.tray.system import notify

    resolved = resolve(flags)
    setup_logging(resolved.settings.log_level, resolved.settings.log_format)
    told = [word for name, value in flags.items() if value is not None for word in (f"--{name.replace('_', '-')}", value)]
    try:
        if not run(resolved, told, icon):
            click.echo("the tray icon is already running", err=True)
    except NoTrayError as error:
        # Whoever chose it in the desktop's menu sees no terminal.
        in_terminal = sys.stderr is not None and sys.stderr.isatty()
        if not in_terminal and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            notify("edgeembed", error.message)
        raise
