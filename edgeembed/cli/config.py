"""`edgeembed config`: show, set, unset, path."""

from __future__ import annotations

import click


@click.group()
def config() -> None:
    """Show and change settings.

    \b
    edgeembed config show               list all settings, their values and where they come from
    edgeembed config set port 9000      write a setting to config.toml
    edgeembed config unset port         return to the default
    edgeembed config path               print where config.toml is
    """


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(as_json: bool) -> None:
    """Show all settings, their values and where they come from."""
    import json

    from edgeembed.config.resolution import resolve
    from edgeembed.config.values import field_names

    resolved = resolve()
    rows = {name: (getattr(resolved.settings, name), resolved.origins[name]) for name in field_names()}
    for secret in ("api_key", "upstream_key", "forward_key"):
        if rows[secret][0]:
            rows[secret] = ("(set)", rows[secret][1])
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
    """
    from edgeembed.config.file import write_setting
    from edgeembed.config.paths import Paths

    path = Paths.resolve().config_file
    write_setting(path, key.replace("-", "_"), value)
    click.echo(f"{path}: {key} = {value}")


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
