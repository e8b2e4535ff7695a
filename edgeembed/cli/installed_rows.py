"""Installed models as the commands show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgeembed.cli.printing import iso_time

if TYPE_CHECKING:
    from edgeembed.hub.store import InstalledModel


def installed_row(model: InstalledModel) -> dict[str, Any]:
    import msgspec

    return {
        "name": model.name,
        "type": model.type,
        "task": model.task,
        "size_bytes": model.size_bytes,
        "dimensions": model.dimensions if model.task == "embed" else None,
        "classes": msgspec.to_builtins(model.classes),
        "outputs": model.outputs if model.task == "embed" else None,
        "matryoshka": msgspec.to_builtins(model.matryoshka),
        "max_seq_length": model.max_seq_length,
        "license": model.license,
        "last_used": iso_time(model.last_used),
        "path": str(model.path),
        "sha256": model.digest,
        "damage": model.damage.what if model.damage else None,
        "source": model.source,
        "prompts": msgspec.to_builtins(model.prompts),
        "notes": model.notes,
    }


def outputs_fields(installed: list[InstalledModel]) -> list[tuple[str, str]]:
    """Return a line that tells what the installed embedder computes, if that is more than dense vectors."""
    outputs = installed[0].outputs if installed and installed[0].task == "embed" else ("dense",)
    if outputs == ("dense",):
        return []
    width = installed[0].token_dimensions
    words = [f"{output} ({width} numbers a token)" if output == "multi" and width else output for output in outputs]
    return [("outputs", ", ".join(words))]


def print_damage(installed: list[InstalledModel]) -> None:
    """Print what is wrong with damaged files."""
    for model in installed:
        if model.damage is not None:
            click.echo(f"\n{model.damage.message}")
