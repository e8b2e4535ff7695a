"""`edgeembed autostart`: enable, disable, status."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgeembed.cli.printing import print_fields, print_json, print_prose

if TYPE_CHECKING:
    from edgeembed.autostart.base import Autostart


@click.group()
def autostart() -> None:
    """Start the daemon when you log in.

    \b
    edgeembed autostart enable          from the next login on
    edgeembed autostart disable         nothing starts, after upgrades neither
    edgeembed autostart status          whether it starts, and what says so

    No administrator is needed: systemd's user units or XDG autostart on Linux, launchd on macOS, the Run key on Windows.
    Settings are those of config.toml; of the variables only EDGEEMBED_HOME goes along.
    """


@autostart.command()
@click.option("--unless-off", is_flag=True, help="For installers: leave it off where the user has switched it off.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as `status` does.")
def enable(unless_off: bool, as_json: bool) -> None:
    """Start the daemon at every login from the next one on.

    Call it again when this installation has moved.
    """
    from edgeembed.autostart import current

    here = current()
    if unless_off:
        here.enable_unless_off()
    else:
        here.enable()
    if as_json:
        print_json(_report(here))
    elif here.status():
        click.echo(f"edgeembed starts at login ({here.system}): {here.place}")
        print_prose(here.hint)
    else:
        click.echo("It was switched off before, and stays off; `edgeembed autostart enable` starts it at login.")


@autostart.command()
@click.option("--forget", is_flag=True, help="For uninstallers: remove the entry, and do not take that for the user's word.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as `status` does.")
def disable(forget: bool, as_json: bool) -> None:
    """Start nothing at login. A running daemon goes on; upgrades do not switch it on again."""
    from edgeembed.autostart import current

    here = current()
    here.disable(forget=forget)
    if as_json:
        print_json(_report(here))
    else:
        click.echo("edgeembed does not start at login.")


@autostart.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Say whether the daemon starts at login, and what says so. Ends with status 1 when it does not."""
    from edgeembed.autostart import current

    here = current()
    report = _report(here)
    if as_json:
        print_json(report)
    else:
        print_fields(
            [
                ("starts at login", "yes" if report["enabled"] else "no"),
                ("through", here.system),
                ("entry", str(report["entry"]) if report["entry"] else "none"),
                ("you said", {"on": "enable", "off": "disable", None: "nothing yet"}[here.choice]),
            ]
        )
        if report["enabled"] and not report["current"]:
            print_prose("The entry is not what this installation would write; `edgeembed autostart enable` renews it.")
        if report["entry"] and not report["enabled"]:
            print_prose("The entry was switched off by the system's own settings; `edgeembed autostart enable` undoes that.")
    click.get_current_context().exit(0 if report["enabled"] else 1)


def _report(here: Autostart) -> dict[str, object]:
    found = here.found()
    return {
        "enabled": found is not None and found.active,
        "system": here.system,
        "entry": None if found is None else found.place,
        "current": None if found is None else found.current,
        "choice": here.choice,
        "command": list(here.program.command),
        "environment": dict(here.program.environment),
    }
