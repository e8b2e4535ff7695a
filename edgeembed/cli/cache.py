"""`edgeembed cache`: stats, clear, path, warm, export, import."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeembed.cli.printing import ago, print_fields, print_json, print_table
from edgeembed.cli.settings import setting_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeembed.cache.disk import DiskTier
    from edgeembed.cache.report import ModelReport
    from edgeembed.common.status import CacheStats
    from edgeembed.config.settings import Settings
    from edgeembed.models.prompts import InputType

_CLEAR_SECONDS = 120.0


@click.group()
def cache() -> None:
    """Look at, fill, carry and clear the cache of vectors. It holds digests of texts, never the texts.

    \b
    edgeembed cache stats                      how many vectors, how often they were found
    edgeembed cache warm queries.txt           embed queries ahead, one in each line
    edgeembed cache export vectors.cache       one file, to carry to another machine
    edgeembed cache import vectors.cache
    edgeembed cache clear                      remove them all
    edgeembed cache path                       where they are
    """


@cache.command()
def path() -> None:
    """Print where the cache is."""
    click.echo(_folder())


@cache.command()
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
@setting_options("host", "port")
def stats(as_json: bool, **flags: str | None) -> None:
    """Show what the cache holds of each model, how often it answered, and the computing time that this saved.

    HIT RATE counts texts since the folder was begun, over all runs of the daemon. A running daemon adds what it has in
    memory; where it uses another folder than the settings here, that one is shown.
    """
    import time

    from edgeembed.cache.report import report_models
    from edgeembed.common.progress import human_size, human_time
    from edgeembed.config.resolution import resolve
    from edgeembed.errors import EdgeEmbedError

    settings = resolve(flags).settings
    try:
        daemon = _daemon_cache(settings)
    except EdgeEmbedError:
        daemon = None  # what answers there has no cache to tell of
    folder = Path(daemon.folder) if daemon and daemon.folder else _folder()
    models: list[ModelReport] = []
    size = 0
    if folder.parent.exists():
        with _opened(folder) as tier:
            models, size = report_models(tier), tier.size_bytes
    entries = sum(model.entries for model in models)
    if as_json:
        print_json({"folder": str(folder), "entries": entries, "bytes": size, "models": models, "daemon": daemon})
        return
    limit = settings.cache_disk_mib * 2**20
    print_fields(
        [
            ("folder", str(folder)),
            ("on disk", f"{entries:,} vectors, {human_size(size)} of {human_size(limit)}"),
            ("in memory", _memory_line(daemon)),
            ("problem", daemon.disk_problem if daemon else None),
        ]
    )
    if not models:
        return
    click.echo()
    now = time.time()
    print_table(
        ("MODEL", "VECTORS", "SIZE", "OLDEST", "NEWEST", "HITS", "HIT RATE", "SAVED"),
        [
            (
                model.model or "(unknown)",
                f"{model.entries:,}",
                human_size(model.bytes),
                ago(model.oldest, now) if model.oldest else "-",
                ago(model.newest, now) if model.newest else "-",
                f"{model.hits:,}",
                "-" if model.hit_rate is None else f"{model.hit_rate:.1%}",
                human_time(model.saved_seconds),
            )
            for model in models
        ],
        right=("VECTORS", "SIZE", "HITS", "HIT RATE", "SAVED"),
        spare=("NEWEST", "OLDEST", "SIZE", "HITS"),
    )


@cache.command()
@click.option("--model", metavar="NAME", help="Remove the vectors of this model alone: NAME or NAME:TYPE.")
@setting_options("host", "port")
def clear(model: str | None, **flags: str | None) -> None:
    """Remove vectors, from disk and from a running daemon's memory.

    A daemon that uses another folder than the settings here is left alone.
    """
    from edgeembed.cache.report import labels_of
    from edgeembed.config.resolution import resolve
    from edgeembed.errors import ConfigError

    folder = _folder()
    removed = _cleared_by_daemon(resolve(flags).settings, folder, model)
    if removed is not None:
        click.echo(f"removed {removed:,} vectors")
        return
    with _opened(folder) as tier:
        labels = None
        if model is not None:
            labels = labels_of(tier, model)
            if not labels:
                known = ", ".join(sorted({found.model.partition("@")[0] for found in tier.models()})) or "none"
                raise ConfigError(f"the cache has nothing of a model {model!r}; it has vectors of: {known}")
        click.echo(f"removed {tier.clear(labels):,} vectors")


@cache.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--input-type", type=click.Choice(("query", "document")), help="The input_type that clients send.")
@click.option("--instruction", metavar="TEXT", help="The instruction that clients send.")
@setting_options("model", "host", "port")
def warm(file: Path, input_type: InputType | None, instruction: str | None, **flags: Any) -> None:
    """Embed a file of queries ahead, so that they are answered from the cache from the first time on.

    One query in each line; in a .jsonl file each line is a string, or an object with `text`, `query` or `input`. The running
    daemon computes them; where none runs, the model of the settings is loaded for it. A vector is found again by requests
    with the same prompt only: name the input type and the instruction that clients send.

    \b
    edgeembed cache warm queries.txt
    edgeembed cache warm faq.jsonl --input-type query --model qwen3-embedding-0.6b
    """
    import asyncio

    from edgeembed.bulk.warm_up import EmbedOptions, read_queries, warm_cache
    from edgeembed.common.logs import setup_logging
    from edgeembed.common.progress import Progress
    from edgeembed.config.resolution import resolve

    resolved = resolve(flags)
    setup_logging("warning")
    queries = read_queries(file)
    # The daemon's own default model, unless one is named here.
    how = EmbedOptions(model=flags.get("model"), input_type=input_type, instruction=instruction)
    with Progress(_say, "embedding", unit=" queries") as progress:
        warmed = asyncio.run(warm_cache(queries, how, resolved, progress.update, _say))
    click.echo(f"{warmed.queries:,} queries are in the cache, {len(warmed.refused):,} were refused")
    for reason in warmed.refused[:10]:
        _say(f"refused: {reason}")
    if warmed.refused:
        click.get_current_context().exit(1)


@cache.command(name="export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--model", metavar="NAME", help="The vectors of this model alone: NAME or NAME:TYPE.")
def export_command(file: Path, model: str | None) -> None:
    """Write the vectors to one file, to carry them to another machine that serves the same model files."""
    from edgeembed.cache.report import labels_of
    from edgeembed.cache.transfer import export_rows
    from edgeembed.common.progress import Progress, human_size
    from edgeembed.errors import ConfigError

    with _opened(_folder()) as tier, Progress(_say, "exporting", unit=" vectors") as progress:
        labels = None if model is None else labels_of(tier, model)
        if labels == []:
            raise ConfigError(f"the cache has nothing of a model {model!r}")
        try:
            rows = export_rows(tier, file, labels, progress.update)
        except OSError as error:
            raise ConfigError(f"cannot write {file}: {error}") from error
    click.echo(f"{rows:,} vectors, {human_size(file.stat().st_size)}: {file}")


@cache.command(name="import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def import_command(file: Path) -> None:
    """Take over the vectors of an exported file. Take files only from people you trust: a vector does not show its text."""
    from edgeembed.cache.transfer import import_rows
    from edgeembed.common.progress import Progress

    with _opened(_folder()) as tier, Progress(_say, "importing", unit=" vectors") as progress:
        rows = import_rows(tier, file, progress.update)
        click.echo(f"{rows:,} vectors taken over; the cache has {len(tier):,} now")


# --- what the commands share ----------------------------------------------------------------------------------------------


def _say(line: str) -> None:
    click.echo(line, err=True)


def _folder() -> Path:
    from edgeembed.config.paths import Paths
    from edgeembed.runtime.service import CACHE_FOLDER

    return Paths.resolve().cache / CACHE_FOLDER


@contextmanager
def _opened(folder: Path) -> Iterator[DiskTier]:
    """Open the disk tier; whatever is wrong with it ends the command with one line."""
    from edgeembed.cache.disk import FAULTS, DiskTier
    from edgeembed.cache.tiers import MIB
    from edgeembed.config.resolution import resolve
    from edgeembed.errors import ConfigError

    try:
        tier = DiskTier(folder, resolve().settings.cache_disk_mib * MIB)
    except FAULTS as error:
        raise ConfigError(f"the cache in {folder} cannot be opened: {error}") from error
    try:
        yield tier
    except FAULTS as error:
        raise ConfigError(f"the cache in {folder} cannot be used: {error}") from error
    finally:
        tier.close()


def _daemon_cache(settings: Settings) -> CacheStats | None:
    """Return the cache status of a running daemon; None if no daemon answers or it has no cache. Raises EdgeEmbedError."""
    from edgeembed.client import ask_status, read_status

    reply = ask_status(settings)
    return read_status(reply).cache if reply else None


def _cleared_by_daemon(settings: Settings, folder: Path, model: str | None) -> int | None:
    """Have a running daemon clear its cache; None when none does: its own cache is another, or it takes no such order."""
    import asyncio

    from edgeembed.client import ask, daemon_url
    from edgeembed.errors import EdgeEmbedError

    try:
        daemon = _daemon_cache(settings)
    except EdgeEmbedError:
        return None
    if daemon is None:
        return None
    if daemon.folder and Path(daemon.folder).resolve() != folder.resolve():
        _say(f"the daemon at {daemon_url(settings)} keeps its cache in {daemon.folder}, and is left alone")
        return None
    # The disk is cleared in any case: a daemon that refuses, or is older, sees that and forgets what it has in memory.
    reply = asyncio.run(ask(settings, "/v1/admin/cache/clear", _CLEAR_SECONDS, body={"model": model}))
    return int(reply.body["removed"]) if reply is not None and reply.status == 200 else None


def _memory_line(daemon: CacheStats | None) -> str | None:
    from edgeembed.common.progress import human_size

    if not daemon:
        return None
    asked = daemon.memory_hits + daemon.disk_hits + daemon.misses
    taken = human_size(daemon.memory_bytes + daemon.answer_bytes)
    line = f"{daemon.memory_entries:,} vectors, {taken} of {human_size(daemon.memory_limit_bytes)}"
    if asked:
        line += f"; of {asked:,} texts in this run, {daemon.memory_hits:,} found there, {daemon.disk_hits:,} on disk"
    return line
