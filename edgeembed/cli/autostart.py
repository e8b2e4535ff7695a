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
    edgeembed autostart enable          start the daemon from the next login on
    edgeembed autostart enable --now    and start it now, too
    edgeembed autostart disable         stop starting it; upgrades do not turn it on again
    edgeembed autostart status          show whether it starts, and through what

    Needs no administrator: systemd's user units or XDG autostart on Linux, launchd on macOS, a task on Windows. The
    daemon uses the settings in config.toml; of the environment, only EDGEEMBED_HOME is kept.
    """


@autostart.command()
@click.option("--now", is_flag=True, help="Also start it now, if it does not run, and wait until it is ready.")
@click.option("--unless-off", is_flag=True, help="For installers: do nothing if the user disabled it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as `status` does.")
def enable(now: bool, unless_off: bool, as_json: bool) -> None:
    """Start the daemon at every login, beginning with the next one, or with --now at once.

    Run it again after moving this installation.
    """
    from edgeembed.autostart import current

    here = current()
    if unless_off:
        here.enable_unless_off()
    else:
        here.enable()
    seen = None
    if now and here.status():
        from edgeembed.cli.start import make_background, wait_for

        background = make_background({})
        seen, _ = wait_for(background.start, background.report)
    if as_json:
        print_json(_report(here))
    elif here.status():
        click.echo(f"edgeembed starts at login ({here.system}): {here.place}")
        print_prose(here.hint)
        click.echo(f"It runs at {seen.url}." if seen else "To start it now, too: edgeembed start")
    else:
        click.echo("Autostart stays disabled, as you chose before. To enable it: edgeembed autostart enable")


@autostart.command()
@click.option("--now", is_flag=True, help="Also stop it now.")
@click.option("--forget", is_flag=True, help="For uninstallers: remove the entry without recording it as the user's choice.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as `status` does.")
def disable(now: bool, forget: bool, as_json: bool) -> None:
    """Do not start the daemon at login; upgrades do not enable autostart again.

    Without --now, a running daemon keeps running.
    """
    from edgeembed.autostart import current

    here = current()
    if now:
        from edgeembed.cli.start import make_background

        make_background({}).stop()  # first: the service manager knows it as long as the entry is there
    here.disable(forget=forget)
    if as_json:
        print_json(_report(here))
    else:
        click.echo("edgeembed does not start at login.")


@autostart.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Show whether the daemon starts at login, and through what. Exits with 1 if it does not."""
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
                ("your choice", {"on": "enabled", "off": "disabled", None: "none yet"}[here.choice]),
            ]
        )
        if report["enabled"] and not report["current"]:
            print_prose("The entry belongs to another installation or version. To update it: edgeembed autostart enable")
        if report["entry"] and not report["enabled"]:
            print_prose("The entry is disabled in the settings of the system. To enable it: edgeembed autostart enable")
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
