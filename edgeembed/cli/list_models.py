"""`edgeembed list`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from edgeembed.cli.catalogue_rows import offered_row, print_offered
from edgeembed.cli.installed_rows import installed_row, outputs_fields, print_damage
from edgeembed.cli.printing import ago, print_json, print_table

if TYPE_CHECKING:
    from pathlib import Path

    from edgeembed.config.settings import Settings
    from edgeembed.hub.catalogue import CatalogueEntry
    from edgeembed.hub.store import InstalledModel


@click.command("list")
@click.option("--available", is_flag=True, help="Also list the models of the catalogue.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(available: bool, as_json: bool) -> None:
    """List the installed models, and with --available also those of the catalogue.

    Models of the catalogue come in a second table, with their default type. SIZE is that of the file, MEMORY an estimate of
    what a loaded model takes, INSTALLED the types that are installed. A narrow terminal has fewer columns and, for languages
    and purpose, a second line; output to a pipe has all of them.

    \b
    Examples:
      edgeembed list
      edgeembed list --available              models that `edgeembed pull` can install
      edgeembed list --json                   with paths, digests and prompts
    """
    from edgeembed.config.resolution import resolve
    from edgeembed.hub.catalogue import DEFAULT_MODEL, catalogue
    from edgeembed.hub.store import Store

    resolved = resolve()
    store = Store(resolved.paths)
    installed, unfinished = store.installed(), store.unfinished()
    there: dict[str, list[str]] = {}
    for model in installed:
        there.setdefault(model.name, []).append(model.type)
    offered = list(catalogue().values()) if available else []
    if as_json:
        rows = [_row(model, resolved.settings, catalogue().get(model.name)) for model in installed]
        more = [entry for entry in offered if entry.name not in there]
        print_json(rows + [offered_row(entry, resolved.settings) | {"installed": False} for entry in more])
        return
    if not installed:
        hint = "" if offered else " To see what is available: edgeembed list --available"
        click.echo(f"No models are installed.{hint}")
    else:
        print_table(
            ("NAME", "TYPE", "TASK", "SIZE", "DIMENSIONS", "LICENCE", "LAST USED"),
            map(_installed_cells, installed),
            right=("SIZE", "DIMENSIONS"),
            spare=("LICENCE", "DIMENSIONS", "TASK", "LAST USED"),
        )
    if offered:
        click.echo("\nIn the catalogue:\n")
        print_offered(offered, there, resolved.settings)
        left = [entry.name for entry in offered if entry.name not in there]
        if left:
            click.echo(f"\nTo install one: edgeembed pull {DEFAULT_MODEL if DEFAULT_MODEL in left else left[0]}")
    print_damage(installed)
    _print_unfinished(unfinished)


def _row(model: InstalledModel, settings: Settings, entry: CatalogueEntry | None) -> dict[str, Any]:
    """Return what programs get about an installed model; purpose and languages are the catalogue's."""
    from edgeembed.models.overview import memory_of_installed

    about = {"purpose": entry.purpose, "languages": entry.languages} if entry else {"purpose": None, "languages": None}
    return {**installed_row(model), **about, "memory_bytes": memory_of_installed(model, settings), "installed": True}


def _installed_cells(model: InstalledModel) -> tuple[str, ...]:
    from edgeembed.common.progress import human_size

    return (
        model.name,
        model.type,
        _task(model),
        human_size(model.size_bytes),
        _length_of_vectors(model),
        model.license or "?",
        ago(model.last_used, time.time()),
    )


def _length_of_vectors(model: InstalledModel) -> str:
    if model.task != "embed" or model.outputs == ("sparse",):
        return "-"
    return str(model.dimensions or "?") if "dense" in model.outputs else f"{model.token_dimensions or '?'} a token"


def _task(model: InstalledModel) -> str:
    """Return the task, with what an embedder computes if that is more than dense vectors."""
    return f"{model.task}: {', '.join(model.outputs)}" if outputs_fields([model]) else model.task


def _print_unfinished(unfinished: dict[str, dict[Path, int]]) -> None:
    """Print one line about unfinished downloads, of which one may be running."""
    from edgeembed.common.progress import human_size

    if unfinished:
        named = ", ".join(f"{name} ({human_size(sum(sizes.values()))})" for name, sizes in unfinished.items())
        first = next(iter(unfinished))
        click.echo(f"\nUnfinished downloads: {named}. Pull again to continue, or remove with: edgeembed rm {first}")
