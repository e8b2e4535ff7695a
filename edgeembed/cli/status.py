"""`edgeembed status`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from edgeembed.cli.printing import iso_time, print_fields, print_json, short_duration
from edgeembed.cli.settings import setting_options

if TYPE_CHECKING:
    from edgeembed.background.control import Background
    from edgeembed.background.seen import Seen

_PAUSED = {True: "yes: only texts in the cache are answered", False: "no"}
NOT_RUNNING = 3
"""Exit status, as of `systemctl status`."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@setting_options("host", "port", "uds")
def status(as_json: bool, **flags: str | None) -> None:
    """Show whether the daemon runs, since when, where, with which model, and who started it.

    \b
    edgeembed status
    edgeembed status --json
    edgeembed status > /dev/null || edgeembed start

    Exits with 0 if it runs, also while it is starting, and with 3 if it does not. For the loaded models see `edgeembed ps`.
    """
    from edgeembed.background.process import listener
    from edgeembed.cli.address import resolve_address
    from edgeembed.cli.start import make_background

    background = make_background(flags)
    seen = background.inspect()
    process = listener(resolve_address(flags).settings)
    manager = background.manager_of(seen, process)
    entry = background.autostart.found() if background.autostart else None
    managed = manager.inspect() if manager else None
    words: dict[str, Any] = {
        "running": seen.running,
        "url": seen.url,
        "version": seen.status.version if seen.status else None,
        "pid": seen.pid or (process.pid if process else None),
        "since": iso_time(time.time() - seen.status.uptime_seconds) if seen.status else None,
        "uptime_seconds": seen.status.uptime_seconds if seen.status else None,
        "state": _state(seen, process is not None, managed.state if managed else None),
        "model": seen.status.model.name if seen.status and seen.status.model else None,
        "paused": seen.paused,
        "started_by": background.started_by(process, manager) if seen.running or process else None,
        "autostart": entry is not None and entry.active,
        "log": _log(background, seen, process, manager),
        "problem": seen.problem or seen.failure,
    }
    if as_json:
        print_json(words)
    else:
        _print(words, seen)
        if seen.who == "nobody" and managed is None and process is None:
            address = "".join(f" {word}" for word in background.address_flags)
            click.echo(f"To start it: edgeembed start{address}")
    click.get_current_context().exit(0 if seen.running else NOT_RUNNING)


def _state(seen: Seen, listens: bool, managed: str | None) -> str:
    if seen.running:
        return seen.stage or ("paused" if seen.paused else "failed" if seen.failure else "ready")
    if seen.who == "another program":
        return "another program answers there"
    if listens:
        return "does not answer"
    return {"restarting": "ends again and again", "starting": "starting"}.get(managed or "", "stopped")


def _log(background: Background, seen: Seen, process: Any, manager: Any) -> str | None:
    from edgeembed.cli.logs import command_for_people, writes_to

    if manager is not None and (command := manager.log_command(0, follow=False)) is not None:
        return command_for_people(command)
    if seen.running and process is None:  # another user's
        return None
    if process is not None and not writes_to(process, background.log_file):
        return None
    return str(background.log_file) if background.log_file.exists() else None


def _print(words: dict[str, Any], seen: Seen) -> None:
    state = words["state"] if words["state"] != "stopped" else "not running"
    since = None
    if words["uptime_seconds"] is not None:
        began = time.localtime(time.time() - words["uptime_seconds"])
        since = f"{time.strftime('%Y-%m-%d %H:%M', began)} ({short_duration(words['uptime_seconds'])})"
    print_fields(
        [
            ("edgeembed", f"running: {state}" if words["running"] else state),
            ("address", words["url"]),
            ("since", since),
            ("model", seen.model if seen.running else None),
            ("paused", _PAUSED.get(words["paused"])),
            ("process", None if words["pid"] is None else f"{words['pid']}, version {words['version'] or '?'}"),
            ("started by", words["started_by"]),
            ("at login", "yes" if words["autostart"] else "no (edgeembed autostart enable)"),
            ("log", words["log"]),
            ("problem", words["problem"]),
        ],
        prose=("problem",),
    )
