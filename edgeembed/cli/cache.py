"""`edgeembed cache`: stats, clear, path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pathlib import Path

    from edgeembed.cache.disk import DiskTier


@click.group()
def cache() -> None:
    """Look at and clear the cache of vectors. It holds digests of texts, never the texts.

    \b
    edgeembed cache stats               how many vectors, how much disk
    edgeembed cache clear               remove them all
    edgeembed cache path                where they are
    """


@cache.command()
def path() -> None:
    """Print where the cache is."""
    click.echo(_folder())


@cache.command()
def stats() -> None:
    """Print how much is on disk. What a running daemon answered from it is in GET /v1/status."""
    if not _folder().parent.exists():
        click.echo(f"{_folder()}: nothing yet")
        return
    tier = _open()
    try:
        click.echo(f"{_folder()}: {len(tier):,} vectors, {tier.bytes / 2**20:.1f} MiB")
    finally:
        tier.close()


@cache.command()
def clear() -> None:
    """Remove every vector from disk. A running daemon keeps those that it has in memory."""
    tier = _open()
    try:
        click.echo(f"removed {tier.clear():,} vectors")
    finally:
        tier.close()


def _folder() -> Path:
    from edgeembed.config import Paths
    from edgeembed.daemon import CACHE_FOLDER

    return Paths.resolve().cache / CACHE_FOLDER


def _open() -> DiskTier:
    from edgeembed.cache.disk import FAULTS, DiskTier
    from edgeembed.cache.tiers import MIB
    from edgeembed.config import resolve
    from edgeembed.errors import ConfigError

    try:
        return DiskTier(_folder(), resolve().settings.cache_disk_mib * MIB)
    except FAULTS as error:
        raise ConfigError(f"the cache in {_folder()} cannot be opened: {error}") from error
