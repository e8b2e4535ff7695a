"""`edgeembed start`, `stop` and `restart`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeembed.background.report import Report
from edgeembed.cli.printing import print_prose, to_stderr
from edgeembed.cli.settings import setting_options
from edgeembed.common.log_content import printable

if TYPE_CHECKING:
    from edgeembed.background.control import Background
    from edgeembed.background.seen import Seen

T = TypeVar("T")


@click.command()
@setting_options("model", "host", "port", "uds")
def start(**flags: str | None) -> None:
    """Start the daemon in the background, wait until it is ready, and print its address.

    Where `edgeembed autostart enable` has installed a systemd unit, a launchd agent or a task, it starts it. Otherwise,
    and with flags or EDGEEMBED_… variables, it is a process of its own, which stays when this terminal is closed and writes
    to a log file. The first start downloads a model. If the daemon runs already, nothing is started.

    \b
    edgeembed start
    edgeembed start --port 9000             another daemon, on another port
    edgeembed autostart enable --now        from now on also at every login

    Exits with 2 if the settings are unusable, and with 1 if the daemon does not start for another reason.
    """
    background = make_background(flags)
    seen, started = wait_for(background.start, background.report)
    if started:
        print_ready(seen, background)
        if note := _other_model(seen, background):
            print_prose(note)
    else:
        stage = f"; {seen.stage}" if seen.stage else ""
        process = f" (process {seen.pid})" if seen.pid else ""
        click.echo(printable(f"edgeembed runs already at {seen.url}{process}{stage}"))


@click.command()
@setting_options("host", "port", "uds", "grace_period")
def stop(**flags: str | None) -> None:
    """Stop the daemon, and wait until it is gone.

    Requests in flight are finished first, for up to the setting grace_period; after that it is killed. A daemon that systemd
    or launchd runs is stopped through them, so that they do not start it again before the next login.

    \b
    edgeembed stop
    edgeembed stop --port 9000              the daemon on another port

    Exits with 0 also if no daemon was running.
    """
    background = make_background(flags)
    if background.stop():
        click.echo("edgeembed has stopped.")
    else:
        click.echo(f"edgeembed is not running at {background.url}.")


@click.command()
@setting_options("model", "host", "port", "uds")
def restart(**flags: str | None) -> None:
    """Stop the daemon if it runs, and start it with the settings as they are now.

    It keeps the flags and variables with which it was started, except with --model.

    \b
    edgeembed restart                       after `edgeembed config set …`
    edgeembed restart --port 9000           the daemon on another port
    """
    background = make_background(flags)
    seen, _ = wait_for(background.restart, background.report)
    print_ready(seen, background)


def make_background(flags: dict[str, Any]) -> Background:
    """Return the daemon at the address of the settings. flags: settings, by name; None if not given."""
    from edgeembed.background.control import Background
    from edgeembed.cli.address import resolve_address

    given = [
        word
        for name, value in flags.items()
        if value is not None and name != "grace_period"
        for word in (f"--{name.replace('_', '-')}", value)
    ]
    return Background(resolve_address(flags), given, StageLine())


def print_ready(seen: Seen, background: Background) -> None:
    """Print the address of a daemon that has started."""
    address = "".join(f" {word}" for word in background.address_flags)
    click.echo(printable(f"edgeembed runs at {seen.url}: {seen.model}"))
    if "+unix" not in seen.url:
        click.echo(f"dashboard:  {seen.url}/    (edgeembed open{address})")
    click.echo(f"to stop it: edgeembed stop{address}")


def _other_model(seen: Seen, background: Background) -> str | None:
    """Return what a user should know who has chosen no model and does not get the default one."""
    from edgeembed.hub.catalogue import DEFAULT_MODEL

    model = seen.status.model if seen.status else None
    if model is None or background.model is not None or model.name == DEFAULT_MODEL:
        return None
    return f"{DEFAULT_MODEL}, the default model, could not be fetched; the next start tries again. Why: edgeembed logs"


def wait_for(act: Callable[[], T], report: Report) -> T:
    """Start the daemon and return what that returns; a Ctrl-C ends only our waiting."""
    try:
        return act()
    except KeyboardInterrupt:
        report("not waiting any longer; the daemon goes on starting. To see how far it is: edgeembed status")
        raise SystemExit(130) from None
    finally:
        report.clear()


class StageLine(Report):
    """Prints what happens to standard error: the stage as one line that is rewritten on a terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._shown = ""

    def __call__(self, line: str) -> None:
        self.clear()
        to_stderr(printable(line))

    def stage(self, what: str) -> None:
        what = printable(what)
        if self._terminal:
            what = what[: shutil.get_terminal_size().columns - 1]
            if what != self._shown:
                self.clear()
                click.echo(what, err=True, nl=False)
                self._shown = what
        elif (steady := what.rstrip("0123456789 %")) != self._shown:
            to_stderr(what)
            self._shown = steady

    def clear(self) -> None:
        """Remove the stage from the terminal."""
        if self._terminal and self._shown:
            click.echo("\r" + " " * len(self._shown) + "\r", err=True, nl=False)
        self._shown = ""
