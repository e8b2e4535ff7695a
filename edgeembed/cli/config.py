"""`edgeembed config`: show, set, add, unset, path."""

from __future__ import annotations

import click

SET = "(set)"
"""Shown in place of a secret."""


@click.group()
def config() -> None:
    """Show and change settings.

    \b
    edgeembed config show               list all settings, their values and where they come from
    edgeembed config set port 9000      write a setting to config.toml
    edgeembed config add allowed_hosts box.example
                                        add to a list or table, and keep what is in it
    edgeembed config unset port         return to the default
    edgeembed config path               print where config.toml is
    """


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(as_json: bool) -> None:
    """Show all settings, their values and where they come from."""
    import json

    from edgeembed.config.resolution import resolve
    from edgeembed.config.secrets import secret_names
    from edgeembed.config.values import field_names

    resolved = resolve()
    rows = {name: (getattr(resolved.settings, name), resolved.origins[name]) for name in field_names()}
    for secret in secret_names():
        if rows[secret][0]:
            rows[secret] = (SET, rows[secret][1])
    if as_json:
        click.echo(json.dumps({name: {"value": value, "from": origin} for name, (value, origin) in rows.items()}, indent=2))
        return
    width = max(map(len, rows))
    for name, (value, origin) in rows.items():
        click.echo(f"{name:<{width}}  {'none' if value is None else value!s:<24}  {origin}")


@config.command(name="set")
@click.argument("key")
@click.argument("value")
def set_(key: str, value: str) -> None:
    """Write one setting to config.toml and keep the rest of the file.

    \b
    edgeembed config set model qwen3-embedding-0.6b
    edgeembed config set cache_disk_mib 4096

    Other users of this machine can see the arguments of a running command, with ps, and shells keep them: write an API key
    into config.toml with an editor, or use a variable or api_key_file. A config.toml that holds a key is made readable by
    its owner only.
    """
    from edgeembed.config.file import write_setting
    from edgeembed.config.paths import Paths
    from edgeembed.config.secrets import secret_names

    path, name = Paths.resolve().config_file, key.replace("-", "_")
    tightened = write_setting(path, name, value)
    click.echo(f"{path}: {key} = {SET if name in secret_names() else value}")
    if tightened:
        click.echo(f"{path} holds an API key: from now on only its owner can read it")


@config.command()
@click.argument("key")
@click.argument("value")
def add(key: str, value: str) -> None:
    """Add to a list or a table of config.toml, and keep what is in it.

    \b
    edgeembed config add allowed_origins https://notes.example
    edgeembed config add aliases text-embedding-3-small=qwen3-embedding-0.6b
    """
    import os

    from edgeembed.config.file import add_to_setting
    from edgeembed.config.paths import Paths
    from edgeembed.config.secrets import ENV_PREFIX

    path, name = Paths.resolve().config_file, key.replace("-", "_")
    values = add_to_setting(path, name, value)
    words = [f"{one}={other}" for one, other in values.items()] if isinstance(values, dict) else values
    click.echo(f"{path}: {key} = {', '.join(words)}")
    if os.environ.get(variable := f"{ENV_PREFIX}{name.upper()}"):
        click.echo(f"the variable {variable} is set, and wins over {path.name}: add {value} to it, too", err=True)


@config.command()
@click.argument("key")
def unset(key: str) -> None:
    """Remove one setting from config.toml, so that its default applies.

    \b
    edgeembed config unset model        choose a model again at the next start
    """
    from edgeembed.config.file import remove_setting
    from edgeembed.config.paths import Paths

    path = Paths.resolve().config_file
    was_there = remove_setting(path, key.replace("-", "_"))
    click.echo(f"{path}: {key} removed" if was_there else f"{path}: {key} was not set")


@config.command()
def path() -> None:
    """Print the path of config.toml, whether it exists or not."""
    from edgeembed.config.paths import Paths

    click.echo(Paths.resolve().config_file)
