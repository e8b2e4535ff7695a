"""The catalogue's models in `edgeembed list --available` and `edgeembed show`: table, rows for programs, sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgeembed.cli.printing import print_fields, print_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgeembed.config.settings import Settings
    from edgeembed.hub.catalogue import CatalogueEntry


def print_offered(entries: Iterable[CatalogueEntry], installed: Mapping[str, list[str]], settings: Settings) -> None:
    """Print the table of the catalogue's models, each with its default type. installed: the types that are, by name."""
    print_table(
        ("NAME", "TYPE", "SIZE", "MEMORY", "INSTALLED", "DIMENSIONS", "LICENCE", "LANGUAGES", "GOOD FOR"),
        [_cells(entry, installed.get(entry.name, []), settings) for entry in entries],
        right=("SIZE", "MEMORY", "DIMENSIONS"),
        spare=("DIMENSIONS", "LICENCE"),
        below=("LANGUAGES", "GOOD FOR"),
    )


def _cells(entry: CatalogueEntry, installed: list[str], settings: Settings) -> tuple[str, ...]:
    from edgeembed.common.progress import human_size
    from edgeembed.hub.file_sizes import size_of
    from edgeembed.models.overview import memory_of

    size, memory = size_of(entry, entry.default_type), memory_of(entry, entry.default_type, settings)
    return (
        entry.name,
        entry.default_type,
        human_size(size) if size else "?",
        human_size(memory) if memory else "?",
        ", ".join(installed) or "-",
        entry.vectors or "-",
        entry.license.removeprefix("LicenseRef-"),
        ", ".join(entry.languages),
        entry.purpose,
    )


def offered_row(entry: CatalogueEntry, settings: Settings) -> dict[str, Any]:
    """Return what programs get about a model that can be installed."""
    from edgeembed.models.overview import memory_of

    return {**entry_row(entry), "memory_bytes": memory_of(entry, entry.default_type, settings)}


def entry_row(entry: CatalogueEntry) -> dict[str, Any]:
    """Return what an entry says, without what depends on the settings."""
    from edgeembed.hub.file_sizes import published_sizes, size_of

    return {
        "name": entry.name,
        "type": entry.default_type,
        "task": entry.task,
        "purpose": entry.purpose,
        "languages": entry.languages,
        "size_bytes": size_of(entry, entry.default_type),
        "size_is_published": entry.default_type in published_sizes(entry),
        "dimensions": (entry.token_dimensions or entry.dimensions) if entry.task == "embed" else None,
        "license": entry.license,
        "sources": [source.describe() for source in entry.sources],
    }


def print_sizes(entry: CatalogueEntry) -> None:
    """Print the size of the file of each type: as published, else computed."""
    from edgeembed.common.progress import human_size
    from edgeembed.hub.file_sizes import published_sizes, size_of
    from edgeembed.hub.offered import offered_types

    published = published_sizes(entry)
    sizes = {kind: size for kind in offered_types(entry) if (size := size_of(entry, kind))}
    if sizes:
        click.echo("\nsizes")
        shown = {
            kind: human_size(size) if kind in published else f"about {human_size(size)}" for kind, size in sizes.items()
        }
        print_fields(shown.items(), indent="  ")
