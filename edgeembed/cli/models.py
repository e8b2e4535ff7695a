"""`edgeembed list` and `edgeembed show`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from edgeembed.cli.catalogue_rows import entry_row, offered_row, print_offered, print_sizes
from edgeembed.cli.completion import complete_model, offered_types
from edgeembed.cli.printing import ago, iso_time, print_fields, print_json, print_prose, print_table

if TYPE_CHECKING:
    from pathlib import Path

    from edgeembed.hub.catalogue import CatalogueEntry, Check, Matryoshka, ModelSource, Prompts
    from edgeembed.hub.gguf.frames import Frame
    from edgeembed.hub.store import InstalledModel, Store

_NOT_INSTALLED = "not installed"


@click.command("list")
@click.option("--available", is_flag=True, help="Also list the models of the catalogue.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(available: bool, as_json: bool) -> None:
    """List the installed models, and with --available also those of the catalogue.

    Models of the catalogue come in a second table, with their default type. SIZE is that of the file, MEMORY an estimate of
    what a loaded model takes. A narrow terminal hides some columns; output to a pipe has all of them.

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
    there = {model.name for model in installed}
    offered = [entry for name, entry in catalogue().items() if available and name not in there]
    if as_json:
        rows = [_installed_row(model) | {"installed": True} for model in installed]
        print_json(rows + [offered_row(entry, resolved.settings) | {"installed": False} for entry in offered])
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
        click.echo("\nNot installed, but in the catalogue:\n")
        print_offered(offered, resolved.settings)
        example = next((entry.name for entry in offered if entry.name == DEFAULT_MODEL), offered[0].name)
        click.echo(f"\nTo install one: edgeembed pull {example}")
    _print_damage(installed)
    _print_unfinished(unfinished)


def _print_damage(installed: list[InstalledModel]) -> None:
    for model in installed:
        if model.damage is not None:
            click.echo(f"\n{model.damage.message}")


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
    return f"{model.task}: {', '.join(model.outputs)}" if _outputs([model]) else model.task


def _print_unfinished(unfinished: dict[str, dict[Path, int]]) -> None:
    """Print one line about unfinished downloads, of which one may be running."""
    from edgeembed.common.progress import human_size

    if unfinished:
        named = ", ".join(f"{name} ({human_size(sum(sizes.values()))})" for name, sizes in unfinished.items())
        first = next(iter(unfinished))
        click.echo(f"\nUnfinished downloads: {named}. Pull again to continue, or remove with: edgeembed rm {first}")


@click.command()
@click.argument("name", metavar="[NAME[:TYPE]|FILE]", required=False, shell_complete=complete_model)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str | None, as_json: bool) -> None:
    """Show details of a model, or without a name the versions and licences of edgeembed and what it uses.

    \b
    Examples:
      edgeembed show qwen3-embedding-0.6b     prompts, figures, sources, installed files
      edgeembed show all-minilm-l6-v2:F16     only the installed file of this type
      edgeembed show ./my-model.gguf          the metadata of a file
      edgeembed show                          versions and licences
      edgeembed show --json
    """
    if name is None:
        _show_edgeembed(as_json)
        return
    from edgeembed.config.resolution import resolve
    from edgeembed.errors import UnknownModelError
    from edgeembed.hub.install import find_installed, parse_spec
    from edgeembed.hub.store import Store

    resolved = resolve()
    store = Store(resolved.paths)
    spec = parse_spec(name, resolved.paths)
    if spec.path is not None:
        installed = [_read_file(store, spec.path)]
    elif spec.reference is not None:
        if (pulled := find_installed(name, paths=resolved.paths, settings=resolved.settings)) is None:
            raise UnknownModelError(f"{name} is not installed; install it first: edgeembed pull {name}")
        installed = [pulled]
    else:
        installed = [model for model in store.installed() if model.name == spec.name and spec.type in (None, model.type)]
    entry = spec.entry or (installed[0].entry if installed else None)
    title = installed[0].name if installed else spec.name
    if as_json:
        print_json(_about_model(title, spec.entry, installed))
        return
    _print_model(title, entry, installed)
    if not installed:
        click.echo(f"  {_NOT_INSTALLED}; to install: edgeembed pull {spec}")


def _read_file(store: Store, path: Path) -> InstalledModel:
    import functools

    from edgeembed.common.progress import Progress

    with Progress(functools.partial(click.echo, err=True), f"reading {path.name}") as progress:
        return store.local(path, progress.update)


def _about_model(name: str, entry: CatalogueEntry | None, installed: list[InstalledModel]) -> dict[str, Any]:
    import msgspec

    catalogued: dict[str, Any] = msgspec.to_builtins(entry) if entry else {"name": name}
    task = entry.task if entry else installed[0].task if installed else None
    return catalogued | {
        "task": task,
        "installed": [_installed_row(model) | {"frame": _frame_row(model)} for model in installed],
    }


def _installed_row(model: InstalledModel) -> dict[str, Any]:
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


def _frame_row(model: InstalledModel) -> dict[str, Any] | None:
    import dataclasses

    from edgeembed.errors import HubError
    from edgeembed.hub.gguf.frames import read_frame

    try:
        return dataclasses.asdict(read_frame(model.path))
    except HubError:
        return None


# --- for people -------------------------------------------------------------------------------------------------------


def _print_model(name: str, entry: CatalogueEntry | None, installed: list[InstalledModel]) -> None:
    click.echo(entry.title if entry else name)
    if entry:
        print_prose(entry.description, "  ")
        click.echo()
        others = (*entry.names.ollama, *entry.names.lm_studio)
        print_fields(
            [
                ("name", entry.name),
                *([("other names", ", ".join(others))] if others else []),
                ("task", entry.task),
                ("good for", entry.purpose),
                ("licence", entry.license),
                ("languages", ", ".join(entry.languages)),
                (
                    "dimensions",
                    entry.vectors if entry.token_dimensions else _dimensions(entry.task, entry.dimensions, entry.matryoshka),
                ),
                *_outputs(installed),
                ("context", _context(entry)),
                ("pooling", entry.pooling),
                ("architecture", entry.architecture),
                ("default type", entry.default_type),
                ("types", ", ".join(offered_types(entry))),
            ],
            indent="  ",
            prose=("languages", "dimensions", "types"),
        )
        _print_prompts(entry.task, entry.prompts)
        _print_figures(entry)
        click.echo("\nsources, tried in order")
        for source in entry.sources:
            _print_source(source)
    elif installed:
        model = installed[0]
        click.echo()
        print_fields(
            [
                ("task", model.task),
                ("licence", model.license or "unknown"),
                *(
                    []
                    if "dense" not in model.outputs
                    else [("dimensions", _dimensions(model.task, model.dimensions, model.matryoshka))]
                ),
                ("classes", ", ".join(model.classes.labels) if model.classes else None),
                *_outputs(installed),
            ],
            indent="  ",
        )
        _print_prompts(model.task, model.prompts)
    click.echo("\ninstalled files")
    for model in installed:
        _print_installed(model)
    _print_damage(installed)


def _outputs(installed: list[InstalledModel]) -> list[tuple[str, str]]:
    """Return a line that tells what the installed embedder computes, if that is more than dense vectors."""
    outputs = installed[0].outputs if installed and installed[0].task == "embed" else ("dense",)
    if outputs == ("dense",):
        return []
    width = installed[0].token_dimensions
    words = [f"{output} ({width} numbers a token)" if output == "multi" and width else output for output in outputs]
    return [("outputs", ", ".join(words))]


def _context(entry: CatalogueEntry) -> str:
    most = f"{entry.context_tokens:,}"
    used = entry.max_seq_length
    return f"{used:,} tokens; {most} with context_tokens = {entry.context_tokens}" if used else f"{most} tokens"


def _dimensions(task: str, count: int | None, cut: Matryoshka | None) -> str | None:
    if task != "embed":
        return None  # scores are returned; the dimensions in the file are internal
    shown = str(count or "unknown")
    return f"{shown}, can be truncated to {cut.describe()}" if cut else shown


def _print_prompts(task: str, prompts: Prompts) -> None:
    click.echo("\nprompts")
    names = ("query", "document", "classification", "clustering", "similarity", "default") if task == "embed" else ()
    print_fields([(name, getattr(prompts, name)) for name in (*names, "instruction")], indent="  ")


def _print_figures(entry: CatalogueEntry) -> None:
    print_sizes(entry)
    if entry.mteb:
        click.echo("\npublished figures")
        rows = [(figure.benchmark, f"{figure.score:.2f}", figure.source) for figure in entry.mteb]
        print_table(("BENCHMARK", "SCORE", "PUBLISHED BY"), rows, right=("SCORE",), indent="  ")
    if entry.check:
        _print_check(entry.check)


def _print_check(check: Check) -> None:
    click.echo()
    print_prose(f"similarities published by {check.source}, checked by `edgeembed verify`")
    if check.instruction:
        print_fields([("instruction", check.instruction)], indent="  ", prose=("instruction",))
    for query, scores in zip(check.queries, check.scores, strict=True):
        print_prose(query, "  ")
        for document, score in zip(check.documents, scores, strict=True):
            print_prose(document, f"    {score:.4f}  ", " " * 12)


def _print_source(source: ModelSource) -> None:
    from edgeembed.common.progress import human_size

    print_prose(source.describe(), "  ", "    ")
    size, sha256 = source.size_bytes, source.sha256
    print_fields(
        [
            ("type", getattr(source, "type", None)),  # only of GGUF files
            ("download", human_size(size) if size else None),
            ("sha256", sha256),
        ],
        indent="    ",
    )


def _print_installed(model: InstalledModel) -> None:
    from edgeembed.common.progress import human_size
    from edgeembed.errors import HubError
    from edgeembed.hub.gguf.frames import read_frame

    try:
        frame = read_frame(model.path)
    except HubError:
        frame = None  # it is reported as damaged
    click.echo(f"  {model.type}, {human_size(model.size_bytes)}")
    print_fields(
        [
            ("path", str(model.path)),
            ("sha256", model.digest),
            ("source", model.source),
            ("licence", model.license or "unknown"),
            ("last used", ago(model.last_used, time.time())),
            *(_frame_fields(frame, model.task) if frame else ()),
            *(("note", note) for note in model.notes),
        ],
        indent="    ",
        prose=("note",),
    )
    if frame:
        _print_comparison(frame)


def _frame_fields(frame: Frame, task: str) -> list[tuple[str, str | None]]:
    """Return what is around a text and what becomes of its token vectors."""
    return [
        ("frame", f"known: {frame.family}" if frame.family else "of no known family"),
        ("special tokens", f"{frame.before or ''} TEXT {frame.after or ''}".strip() if task != "rerank" else None),
        ("pre-tokenizer", frame.splitter),
        ("pooling", frame.pooling or "not in the file"),
        ("dense layers", str(frame.dense) if frame.dense else None),
        ("checked by", "the file's canary rows, whenever it is loaded" if frame.proven else None),
    ]


def _print_comparison(frame: Frame) -> None:
    """Print what the comparison with the file's family found; see `hub.gguf.frames`."""
    for label, lines in (("mended", frame.mended), ("not checked", frame.unchecked)):
        for line in lines:
            print_prose(line, f"    {label}: ", " " * 6)
    if frame.coarse:
        print_prose(frame.coarse, "    coarse: ", " " * 6)
    if frame.refusal:
        print_prose(frame.refusal, "    refused: ", " " * 6)


# --- edgeembed itself -------------------------------------------------------------------------------------------------


def _show_edgeembed(as_json: bool) -> None:
    from edgeembed import __version__
    from edgeembed.hub.catalogue import catalogue
    from edgeembed.hub.licenses import dependencies, license_of

    packages = dependencies("edgeembed")
    models = [entry_row(entry) for entry in catalogue().values()]
    if as_json:
        print_json(
            {
                "version": __version__,
                "license": license_of("edgeembed"),
                "dependencies": [{"name": row.name, "version": row.version, "license": row.license} for row in packages],
                "models": models,
            }
        )
        return
    click.echo(f"edgeembed {__version__}  {license_of('edgeembed')}")
    click.echo("\nUses:")
    print_table(("", "", ""), [(row.name, row.version, row.license) for row in packages], indent="  ")
    click.echo("\nModels in the catalogue:")
    print_table(
        ("", "", ""),
        [(row["name"], row["license"], source) for row in models for source in row["sources"]],
        indent="  ",
    )
