"""`edgeembed update`."""

from __future__ import annotations

import click

from edgeembed.cli.printing import print_json
from edgeembed.cli.settings import setting_options
from edgeembed.common.log_content import printable


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@setting_options("offline")
def update(as_json: bool, **flags: str | None) -> None:
    """Show whether there is a newer version, where this one came from, and how to get the newer one. Installs nothing.

    Only this command asks, and only when you run it: the release page that a package came from, the git remote of a source
    tree, else the package index of your own pip or uv configuration. With `offline` nothing is asked.

    \b
    edgeembed update
    edgeembed update --json

    Exits with 0 if it is known which version is the newest, or offline is set, and with 1 if there is no answer.
    """
    from edgeembed import __version__
    from edgeembed.common.installation import find_installation
    from edgeembed.config.resolution import resolve
    from edgeembed.diagnostics.newest import find_newest, is_newer

    installation = find_installation()
    offline = resolve(flags).settings.offline
    if not as_json:
        click.echo(f"edgeembed {__version__} from {printable(installation.title)}")
    newest = None if offline else find_newest(installation)
    newer = None if newest is None else is_newer(newest.version, __version__)
    command = installation.upgrade(newest.version) if newest and newer else None
    if as_json:
        found = {
            "installed": __version__,
            "kind": installation.kind,
            "from": installation.title,
            "newest": newest.version if newest else None,
            "newer": newer,
            "asked": newest.asked if newest else None,
            "command": command,
        }
        print_json(found)
    elif newest is None:
        click.echo("offline is set, so nothing was asked")
    elif command is None:
        click.echo(f"that is the newest version; asked: {printable(newest.asked)}")
    else:
        click.echo(f"there is a newer version, {newest.version}; asked: {printable(newest.asked)}")
        click.echo(f"to get it: {printable(command)}")
