"""`edgeembed logs`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edgeembed.cli.printing import to_stderr
from edgeembed.cli.settings import setting_options
from edgeembed.common.log_content import printable


@click.command()
@click.option("-f", "--follow", "follows", is_flag=True, help="Print new lines as they come, until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=50, show_default=True, help="Number of lines.")
@setting_options("host", "port", "uds")
def logs(follows: bool, lines: int, **flags: str | None) -> None:
    """Print the last lines of the daemon's log.

    They come from the journal for a daemon that systemd runs, else from the log file of `edgeembed start`, the tray icon,
    launchd or Windows. A daemon in a terminal (`edgeembed serve`) writes there, and nowhere else.

    \b
    edgeembed logs
    edgeembed logs -f                       and go on with new lines
    edgeembed logs -n 500 | grep WARNING
    """
    from edgeembed.background.log_file import follow, last_lines
    from edgeembed.background.process import listener
    from edgeembed.cli.address import resolve_address
    from edgeembed.cli.start import make_background
    from edgeembed.errors import EdgeEmbedError

    background = make_background(flags)
    seen, process = background.inspect(), listener(resolve_address(flags).settings)
    manager = background.manager_of(seen, process)
    if manager is None and not seen.running and process is None:
        manager = background.last_manager()
    command = manager.log_command(lines, follow=follows) if manager else None
    if command is not None:
        _run(command)
        return
    if seen.running and process is None:
        raise EdgeEmbedError(f"the daemon at {seen.url} is another user's, or another machine's; its log is not here")
    file = background.log_file
    elsewhere = ""
    if process is not None and not writes_to(process, file):
        elsewhere = f"the daemon that runs now (process {process.pid}) writes its log elsewhere, such as to its terminal"
    if not file.exists():
        why = elsewhere or f"there is no log: no daemon was started in the background, which would write to {file}"
        raise EdgeEmbedError(why)
    if elsewhere:
        to_stderr(f"{elsewhere}; this is the log of an earlier one")
    if not follows:
        for line in last_lines(file, lines):
            click.echo(printable(line))
        return
    try:
        for line in follow(file, lines):
            click.echo(printable(line))
    except KeyboardInterrupt:
        return


def writes_to(process: Any, file: Path) -> bool:
    """Return whether a process has a file open; True if that cannot be seen."""
    import psutil

    try:
        return any(Path(each.path) == file.resolve() for each in process.open_files())
    except (psutil.Error, OSError):
        return True


def command_for_people(command: Sequence[str]) -> str:
    """Return the part of a command of `log_command` that says which log it is."""
    return " ".join(command[:2])


def _run(command: list[str]) -> None:
    """Print what another program prints. Exits with its status."""
    from edgeembed.errors import EdgeEmbedError

    if shutil.which(command[0]) is None:
        raise EdgeEmbedError(f"{command[0]} is not installed, which reads the log")
    try:
        raise SystemExit(subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode)
    except KeyboardInterrupt:
        raise SystemExit(0) from None
