"""`edgeembed open`."""

from __future__ import annotations

import click

from edgeembed.cli.printing import to_stderr
from edgeembed.cli.settings import setting_options


@click.command("open")
@setting_options("host", "port", "uds")
def open_(**flags: str | None) -> None:
    """Open the daemon's dashboard in the browser, and print its address.

    \b
    edgeembed open
    edgeembed open --port 9000              a daemon on another port

    Exits with 1 if no daemon is running, or if there is no browser.
    """
    from edgeembed.cli.start import make_background
    from edgeembed.errors import EdgeEmbedError
    from edgeembed.tray.system import open_page

    seen = make_background(flags).inspect()
    if seen.who == "another program":
        raise EdgeEmbedError(f"a program other than edgeembed answers at {seen.url}; give the daemon's port with --port")
    if not seen.running:
        raise EdgeEmbedError(f"no daemon is running at {seen.url}; start one: edgeembed start")
    if "+unix" in seen.url:
        raise EdgeEmbedError("browsers cannot open a Unix socket; set host and port instead of uds to use the dashboard")
    click.echo(f"{seen.url}/")
    if not open_page(f"{seen.url}/"):
        to_stderr("no browser was found; open the address above")
        raise SystemExit(1)
