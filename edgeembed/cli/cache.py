"""`edgeembed cache`: stats, clear, path, warm, export, import."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeembed.cli.completion import complete_model
from edgeembed.cli.output_flags import output_options, outputs_of
from edgeembed.cli.printing import ago, print_fields, print_json, print_table, to_stderr
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
    """Inspect, fill, transfer and clear the cache of vectors. It stores hashes of texts, never the texts.

    \b
    edgeembed cache stats                      size, hit rate and time saved, by model
    edgeembed cache warm queries.txt           embed queries in advance, one per line
    edgeembed cache export vectors.cache       write one file to copy to another machine
    edgeembed cache import vectors.cache       add the vectors of such a file
    edgeembed cache clear                      remove all vectors
    edgeembed cache path                       print where the cache is
    """


@cache.command()
def path() -> None:
    """Print where the cache is."""
    click.echo(_folder())


@cache.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@setting_options("host", "port")
def stats(as_json: bool, **flags: str | None) -> None:
    """Show size, hit rate and computing time saved, by model.

    HIT RATE is the share of texts found since the cache was created. If a daemon is running, its memory is shown too, and
    its cache folder instead of the configured one if they differ.
    """
    from edgeembed.cache.report import report_models
    from edgeembed.common.progress import human_size
    from edgeembed.config.resolution import resolve
    from edgeembed.errors import EdgeEmbedError

    settings = resolve(flags).settings
    try:
        daemon = _daemon_cache(settings)
    except EdgeEmbedError:
        daemon = None  # another program answers there, or a daemon that refuses
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
            ("shared", _shared_line(daemon)),
            ("problem", daemon.disk_problem if daemon else None),
        ]
    )
    if models:
        click.echo()
        _print_models(models)


def _print_models(models: list[ModelReport]) -> None:
    import time

    from edgeembed.common.progress import human_size, human_time

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
@click.option(
    "--model",
    metavar="NAME",
    shell_complete=complete_model,
    help="Remove only the vectors of this model: NAME or NAME:TYPE.",
)
@setting_options("host", "port")
def clear(model: str | None, **flags: str | None) -> None:
    """Remove vectors from disk, and from the memory and the shared cache of a running daemon.

    A daemon whose cache is in another folder is not changed.
    """
    from edgeembed.cache.report import labels_of
    from edgeembed.config.resolution import resolve
    from edgeembed.errors import ConfigError

    folder, settings = _folder(), resolve(flags).settings
    removed = _cleared_by_daemon(settings, folder, model)
    if removed is not None:
        click.echo(f"removed {removed:,} vectors")
        return
    if settings.cache_url:
        to_stderr("note: the shared cache is not changed; a running daemon that reaches it clears it")
    with _opened(folder) as tier:
        labels = None
        if model is not None:
            labels = labels_of(tier, model)
            if not labels:
                names = ", ".join(sorted({found.model.partition("@")[0] for found in tier.models()})) or "none"
                raise ConfigError(f"the cache has no vectors of {model!r}; it has those of: {names}")
        click.echo(f"removed {tier.clear(labels):,} vectors")


@cache.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--input-type", type=click.Choice(("query", "document")), help="The input_type that clients will send.")
@click.option("--instruction", metavar="TEXT", help="The instruction that clients will send.")
@output_options("dense", "sparse", "multi-vector")
@setting_options("model", "host", "port")
def warm(
    file: Path,
    input_type: InputType | None,
    instruction: str | None,
    dense: bool,
    sparse: bool,
    multi_vector: bool,
    **flags: Any,
) -> None:
    """Embed a file of queries in advance. Even their first request is then answered from the cache.

    FILE has one query per line; in a .jsonl file each line is a string, or an object with `text`, `query` or `input`. The
    running daemon computes; without one, the configured model is loaded. Only requests with the same prompt and outputs find
    a vector, so give the input type, instruction and outputs that clients will send.

    \b
    edgeembed cache warm queries.txt
    edgeembed cache warm faq.jsonl --input-type query --model qwen3-embedding-0.6b
    """
    import asyncio

    from edgeembed.bulk.embedders import EmbedOptions
    from edgeembed.bulk.warm_up import read_queries, warm_cache
    from edgeembed.common.logs import setup_logging
    from edgeembed.common.progress import Progress
    from edgeembed.config.resolution import resolve

    resolved = resolve(flags)
    setup_logging("warning")
    queries = read_queries(file)
    outputs = outputs_of(dense=dense, sparse=sparse, multi_vector=multi_vector)
    # Without --model the daemon's default model is used, not the one in the settings here.
    options = EmbedOptions(model=flags.get("model"), input_type=input_type, instruction=instruction, outputs=outputs)
    with Progress(to_stderr, "embedding", unit=" queries") as progress:
        warmed = asyncio.run(warm_cache(queries, options, resolved, progress.update, to_stderr))
    click.echo(f"cached {warmed.queries:,} queries, {len(warmed.refused):,} refused")
    for reason in warmed.refused[:10]:
        to_stderr(f"refused: {reason}")
    if warmed.refused:
        click.get_current_context().exit(1)


@cache.command(name="export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--model",
    metavar="NAME",
    shell_complete=complete_model,
    help="Export only the vectors of this model: NAME or NAME:TYPE.",
)
def export_command(file: Path, model: str | None) -> None:
    """Write the vectors to a file for another machine. It must serve the same model files."""
    from edgeembed.cache.report import labels_of
    from edgeembed.cache.transfer import export_rows
    from edgeembed.common.files import describe_os_error
    from edgeembed.common.progress import Progress, human_size
    from edgeembed.errors import ConfigError

    with _opened(_folder()) as tier, Progress(to_stderr, "exporting", unit=" vectors") as progress:
        labels = None if model is None else labels_of(tier, model)
        if labels == []:
            raise ConfigError(f"the cache has no vectors of {model!r}")
        try:
            rows = export_rows(tier, file, labels, progress.update)
        except OSError as error:
            raise ConfigError(f"cannot write {describe_os_error(error, file)}") from error
    click.echo(f"exported {rows:,} vectors to {file} ({human_size(file.stat().st_size)})")


@cache.command(name="import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def import_command(file: Path) -> None:
    """Add the vectors of an exported file. Import only files that you trust: nothing shows which text a vector is for."""
    from edgeembed.cache.transfer import import_rows
    from edgeembed.common.progress import Progress
    from edgeembed.config.paths import Paths
    from edgeembed.hub.store import Store
    from edgeembed.models.served_model import served

    models = [served(model) for model in Store(Paths.resolve()).installed()]
    dimensions = {model.label: model.row_dimensions for model in models if model.row_dimensions}
    with _opened(_folder()) as tier, Progress(to_stderr, "importing", unit=" vectors") as progress:
        rows = import_rows(tier, file, progress.update, dimensions)
        click.echo(f"imported {rows:,} vectors; the cache now has {len(tier):,}")


# --- shared by the commands ----------------------------------------------------------------------------------------------


def _folder() -> Path:
    from edgeembed.config.paths import Paths
    from edgeembed.runtime.service import CACHE_FOLDER

    return Paths.resolve().cache / CACHE_FOLDER


@contextmanager
def _opened(folder: Path) -> Iterator[DiskTier]:
    """Open the disk tier. Raises ConfigError when it cannot be opened or used."""
    from edgeembed.cache.disk import FAULTS, DiskTier
    from edgeembed.cache.tiers import MIB
    from edgeembed.config.resolution import resolve
    from edgeembed.errors import ConfigError

    try:
        tier = DiskTier(folder, resolve().settings.cache_disk_mib * MIB)
    except FAULTS as error:
        raise ConfigError(f"cannot open the cache in {folder}: {error}") from error
    try:
        yield tier
    except FAULTS as error:
        raise ConfigError(f"cannot use the cache in {folder}: {error}") from error
    finally:
        tier.close()


def _daemon_cache(settings: Settings) -> CacheStats | None:
    """Return the cache status of a running daemon; None if no daemon answers or it has no cache. Raises EdgeEmbedError."""
    from edgeembed.client import ask_status, read_status

    reply = ask_status(settings)
    return read_status(reply).cache if reply else None


def _cleared_by_daemon(settings: Settings, folder: Path, model: str | None) -> int | None:
    """Let a running daemon clear its cache and return the count; None when that is impossible."""
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
        to_stderr(f"note: the daemon at {daemon_url(settings)} is not changed; its cache is in {daemon.folder}")
        return None
    # If the daemon refuses, the caller clears the disk; the daemon notices and drops its memory.
    reply = asyncio.run(ask(settings, "/v1/admin/cache/clear", _CLEAR_SECONDS, body={"model": model}))
    return int(reply.body["removed"]) if reply is not None and reply.status == 200 else None


def _shared_line(daemon: CacheStats | None) -> str | None:
    if not daemon or not daemon.shared:
        return None
    state = daemon.shared.problem or ("connected" if daemon.shared.connected else "connecting")
    return f"{daemon.shared.address}, {state}; {daemon.shared_hits:,} texts found there"


def _memory_line(daemon: CacheStats | None) -> str | None:
    from edgeembed.common.progress import human_size

    if not daemon:
        return None
    asked = daemon.memory_hits + daemon.disk_hits + daemon.shared_hits + daemon.misses
    taken = human_size(daemon.memory_bytes + daemon.answer_bytes)
    line = f"{daemon.memory_entries:,} vectors, {taken} of {human_size(daemon.memory_limit_bytes)}"
    if asked:
        line += f"; since its start {daemon.memory_hits:,} of {asked:,} texts found here, {daemon.disk_hits:,} on disk"
    return line
