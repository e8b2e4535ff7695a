"""`edgeembed config`: show, get, set, add, unset, path."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from edgeembed.cli.completion import complete_entry, complete_setting, complete_value
from edgeembed.cli.printing import print_json, to_stderr
from edgeembed.common.log_content import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeembed.background.control import Background

SET = "(set)"
"""Shown in place of a secret."""
_ADDRESS = ("host", "port", "uds", "certfile", "keyfile")
"""Settings that change where the daemon answers."""


@click.group()
def config() -> None:
    """Show and change settings.

    \b
    edgeembed config show               list all settings, their values and where they come from
    edgeembed config get port           print one value
    edgeembed config set port 9000      write a setting to config.toml
    edgeembed config set aliases.text-embedding-3-small bge-m3
                                        write one entry of a table, and keep the others
    edgeembed config add allowed_hosts box.example
                                        add to a list or table, and keep what is in it
    edgeembed config unset port         return to the default
    edgeembed config path               print where config.toml is
    """


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(as_json: bool) -> None:
    """Show all settings, their values and where they come from, as TOML that can be pasted into config.toml.

    Settings without a value, and keys, are comments.
    """
    from edgeembed.config.resolution import resolve
    from edgeembed.config.secrets import secret_names
    from edgeembed.config.toml_text import toml_value
    from edgeembed.config.values import field_names

    resolved = resolve()
    rows = {name: (getattr(resolved.settings, name), resolved.origins[name]) for name in field_names()}
    for secret in secret_names():
        if rows[secret][0]:
            rows[secret] = (SET, rows[secret][1])
    if as_json:
        print_json({name: {"value": value, "from": origin} for name, (value, origin) in rows.items()})
        return
    for name, (value, origin) in rows.items():
        if value is None:
            click.echo(printable(f"# {name} is not set"))
        elif value == SET and name in secret_names():
            click.echo(printable(f"# {name} = {SET}  # {origin}"))
        else:
            click.echo(printable(f"{name} = {toml_value(value)}  # {origin}"))


@config.command()
@click.argument("key", metavar="NAME", shell_complete=complete_entry)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def get(key: str, as_json: bool) -> None:
    """Print the value of a setting that is in effect, from wherever it comes.

    Lists are printed with one value on each line, tables as NAME=VALUE.

    \b
    edgeembed config get port
    edgeembed config get aliases.text-embedding-3-small

    Exits with 1, without output, if the setting or entry has no value. Keys are not shown.
    """
    from edgeembed.config.file import split_key
    from edgeembed.config.resolution import resolve
    from edgeembed.config.secrets import secret_names

    name, entry = split_key(key)
    value: Any = getattr(resolve().settings, name)
    if entry is not None:
        value = value.get(entry)
    if value is not None and name in secret_names():
        value = SET
    if as_json:
        print_json(value)
    elif value is not None:
        lines = (
            [f"{one}={other}" for one, other in value.items()]
            if isinstance(value, dict)
            else value
            if isinstance(value, tuple)
            else [str(value).lower() if isinstance(value, bool) else str(value)]
        )
        for line in lines:
            click.echo(printable(line))
    if value is None:
        click.get_current_context().exit(1)


_RESTART = click.option("--restart", is_flag=True, help="Restart a running daemon, so that it takes effect, without asking.")


@config.command(name="set")
@click.argument("key", metavar="NAME", shell_complete=complete_setting)
@click.argument("value", shell_complete=complete_value)
@_RESTART
def set_(key: str, value: str, restart: bool) -> None:
    """Write one setting to config.toml and keep the rest of the file.

    A list is replaced (`add` adds to it). In a table, the named entries are set, and the others stay; to remove all entries,
    `unset` the table.

    \b
    edgeembed config set model qwen3-embedding-0.6b
    edgeembed config set cache_disk_mib 4096 --restart
    edgeembed config set aliases.text-embedding-3-small bge-m3
    edgeembed config set aliases text-embedding-3-small=bge-m3,default=bge-m3

    Other users of this machine can see the arguments of a running command, with ps, and shells keep them: write an API key
    into config.toml with an editor, or use a variable or api_key_file. A config.toml that holds a key is made readable by
    its owner only.
    """
    from edgeembed.config.file import add_to_setting, split_key, write_setting
    from edgeembed.config.paths import Paths
    from edgeembed.config.secrets import secret_names
    from edgeembed.config.values import is_table

    path, (name, entry) = Paths.resolve().config_file, split_key(key)
    daemon = _daemon()
    given = _checked(name, {entry: value} if entry is not None else value)
    if is_table(name):
        add_to_setting(path, name, given)
        for each, meant in given.items():
            click.echo(printable(f"{path}: {name}.{each} = {meant}"))
    else:
        tightened = write_setting(path, name, given)
        shown = ", ".join(given) if isinstance(given, tuple) else str(given).lower() if isinstance(given, bool) else given
        click.echo(printable(f"{path}: {name} = {SET if name in secret_names() else shown}"))
        if tightened:
            click.echo(f"{path} holds an API key: from now on only its owner can read it")
    _after_change(name, daemon, restart)


@config.command()
@click.argument("key", metavar="NAME", shell_complete=complete_setting)
@click.argument("value", shell_complete=complete_value)
@_RESTART
def add(key: str, value: str, restart: bool) -> None:
    """Add to a list or a table of config.toml, and keep what is in it.

    \b
    edgeembed config add allowed_origins https://notes.example
    edgeembed config add aliases text-embedding-3-small=qwen3-embedding-0.6b
    """
    from edgeembed.config.file import add_to_setting, split_key
    from edgeembed.config.paths import Paths
    from edgeembed.config.values import is_list, is_table

    path, (name, entry) = Paths.resolve().config_file, split_key(key)
    daemon = _daemon()
    given: Any = {entry: value} if entry is not None else value
    if is_table(name) or is_list(name):
        given = _checked(name, given)
    values = add_to_setting(path, name, given)
    words = [f"{one}={other}" for one, other in values.items()] if isinstance(values, dict) else values
    click.echo(printable(f"{path}: {name} = {', '.join(words)}"))
    _after_change(name, daemon, restart, f"add {value} to it, too")


@config.command()
@click.argument("key", metavar="NAME", shell_complete=complete_entry)
@_RESTART
def unset(key: str, restart: bool) -> None:
    """Remove one setting from config.toml, so that its default applies, or one entry of a table.

    \b
    edgeembed config unset model        choose a model again at the next start
    edgeembed config unset aliases.text-embedding-3-small
    """
    from edgeembed.config.file import remove_entry, remove_setting, split_key
    from edgeembed.config.paths import Paths

    path, (name, entry) = Paths.resolve().config_file, split_key(key)
    daemon = _daemon()
    was_there = remove_setting(path, name) if entry is None else remove_entry(path, name, entry)
    click.echo(printable(f"{path}: {key} removed" if was_there else f"{path}: {key} was not set"))
    if was_there:
        _after_change(name, daemon, restart, "unset it, too")


@config.command()
def path() -> None:
    """Print the path of config.toml, whether it exists or not."""
    from edgeembed.config.paths import Paths

    click.echo(Paths.resolve().config_file)


def _checked(name: str, value: Any) -> Any:
    """Return the checked value of a setting, after a line about each model in it that is not installed."""
    from edgeembed.config.paths import Paths
    from edgeembed.config.resolution import resolve
    from edgeembed.config.values import check_value
    from edgeembed.hub.named import check_models

    paths = Paths.resolve()
    value = check_value(name, value, "config.toml", paths.config_file)
    value, notes = check_models(name, value, resolve().settings, paths)
    for note in notes:
        to_stderr(printable(note))
    return value


def _daemon() -> Background | None:
    """Return the daemon at the address that the settings have before a change; None if they have none that can be asked."""
    from edgeembed.cli.start import make_background
    from edgeembed.errors import ConfigError

    try:
        return make_background({})
    except ConfigError:  # a damaged config.toml, which the command itself reports, or a port that the system chooses
        return None


def _after_change(name: str, daemon: Background | None, restart: bool, advice: str = "change it, too") -> None:
    """Print what keeps a change of config.toml from taking effect, and restart the daemon if the user wants that."""
    from edgeembed.config.secrets import ENV_PREFIX

    if os.environ.get(variable := f"{ENV_PREFIX}{name.upper()}"):
        to_stderr(f"the variable {variable} is set, and wins over config.toml: {advice}")
    if daemon is None or not daemon.inspect().running:
        return
    on_terminal = sys.stdin is not None and sys.stdin.isatty() and sys.stderr is not None and sys.stderr.isatty()
    if not restart and on_terminal:
        restart = click.confirm("Restart the daemon now, so that it takes effect?", default=False, err=True)
    if not restart:
        to_stderr("restart needed: the running daemon has the old settings. To restart it: edgeembed restart")
        return
    from edgeembed.cli.start import make_background, print_ready, wait_for

    act: Callable[[], Any] = daemon.restart
    after = daemon
    if name in _ADDRESS:
        daemon.stop()
        after = make_background({})
        act = after.start
    now, _ = wait_for(act, after.report)
    print_ready(now, after)
