"""`edgeembed list` and `edgeembed show`: what is installed, what there is, and under which licences."""

from __future__ import annotations

from typing import Any

import click


@click.command("list")
@click.option("--available", is_flag=True, help="Show what the catalogue offers, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(available: bool, as_json: bool) -> None:
    """List the installed models.

    \b
    Examples:
      edgeembed list
      edgeembed list --available
      edgeembed list --json
    """
    from edgeembed.config import resolve
    from edgeembed.hub.catalogue import catalogue
    from edgeembed.hub.store import Store

    installed = Store(resolve().paths).installed()
    there = {model.name for model in installed}
    offered = [entry for name, entry in catalogue().items() if available and name not in there]
    if as_json:
        rows = [_installed_row(model) | {"installed": True} for model in installed]
        rows += [_offered_row(entry) | {"installed": False} for entry in offered]
        _print_json(rows)
        return
    if not installed and not offered:
        click.echo("No model is installed. See what there is: edgeembed list --available")
        return
    from edgeembed.hub.progress import human_size

    table: list[tuple[str, ...]] = [("NAME", "TYPE", "SIZE", "DIMENSIONS", "LICENCE", "PATH")]
    table += [
        (
            model.name,
            model.type,
            human_size(model.size_bytes),
            str(model.dimensions or "?"),
            model.license or "?",
            str(model.path),
        )
        for model in installed
    ]
    table += [
        (entry.name, entry.default_type, "", str(entry.dimensions), entry.license, f"edgeembed pull {entry.name}")
        for entry in offered
    ]
    _print_table(table)


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str | None, as_json: bool) -> None:
    """Show everything about a model; without a name, about edgeembed itself and the licences it brings along.

    \b
    Examples:
      edgeembed show qwen3-embedding-0.6b     prompts, dimensions, sources, installed files
      edgeembed show ./my-model.gguf          what a file of your own says about itself
      edgeembed show                          versions and licences
      edgeembed show --json
    """
    shown = _about_model(name) if name else _about_edgeembed()
    if as_json:
        _print_json(shown)
    elif name:
        _print_fields(shown)
    else:
        click.echo(f"edgeembed {shown['version']}  {shown['license']}")
        click.echo("\nRuns on:")
        _print_table([(row["name"], row["version"], row["license"]) for row in shown["dependencies"]], indent="  ")
        click.echo("\nModels of the catalogue:")
        _print_table(
            [(row["name"], row["license"], source) for row in shown["models"] for source in row["sources"]], indent="  "
        )


def _about_model(name: str) -> dict[str, Any]:
    import msgspec

    from edgeembed.config import resolve
    from edgeembed.hub.install import parse_spec
    from edgeembed.hub.store import Store

    paths = resolve().paths
    store = Store(paths)
    spec = parse_spec(name, paths)
    if spec.path is not None:
        installed = [store.local(spec.path)]
    else:
        installed = [model for model in store.installed() if model.name == spec.name and spec.type in (None, model.type)]
    known: dict[str, Any] = msgspec.to_builtins(spec.entry) if spec.entry else {"name": spec.name}
    return known | {"installed": [_installed_row(model) for model in installed]}


def _about_edgeembed() -> dict[str, Any]:
    from edgeembed import __version__
    from edgeembed.hub.catalogue import catalogue
    from edgeembed.hub.licenses import dependencies, license_of

    return {
        "version": __version__,
        "license": license_of("edgeembed"),
        "dependencies": [
            {"name": found.name, "version": found.version, "license": found.license} for found in dependencies("edgeembed")
        ],
        "models": [_offered_row(entry) for entry in catalogue().values()],
    }


def _installed_row(model: Any) -> dict[str, Any]:
    import msgspec

    return {
        "name": model.name,
        "type": model.type,
        "size_bytes": model.size_bytes,
        "dimensions": model.dimensions,
        "license": model.license,
        "path": str(model.path),
        "sha256": model.digest,
        "source": model.source,
        "prompts": msgspec.to_builtins(model.prompts),
    }


def _offered_row(entry: Any) -> dict[str, Any]:
    return {
        "name": entry.name,
        "type": entry.default_type,
        "dimensions": entry.dimensions,
        "license": entry.license,
        "sources": [source.describe() for source in entry.sources],
    }


def _print_json(value: Any) -> None:
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _print_table(rows: list[tuple[str, ...]], indent: str = "") -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo(indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_fields(value: dict[str, Any], indent: str = "") -> None:
    for key, content in value.items():
        label = key.replace("_", " ")
        if isinstance(content, dict):
            click.echo(f"{indent}{label}:")
            _print_fields(content, indent + "  ")
        elif isinstance(content, list | tuple) and content and isinstance(content[0], dict):
            for number, item in enumerate(content, 1):
                click.echo(f"{indent}{label} {number}:")
                _print_fields(item, indent + "  ")
        elif isinstance(content, list | tuple):
            click.echo(f"{indent}{label}: {', '.join(map(str, content)) or 'none'}")
        elif content is not None:
            text = content.replace("\n", "\\n") if isinstance(content, str) else content
            click.echo(f"{indent}{label}: {text}")
