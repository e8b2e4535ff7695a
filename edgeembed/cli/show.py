"""`edgeembed show`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from edgeembed.cli.catalogue_rows import entry_row, print_sizes
from edgeembed.cli.completion import complete_model
from edgeembed.cli.installed_rows import installed_row, outputs_fields, print_damage
from edgeembed.cli.printing import ago, print_fields, print_json, print_prose, print_table

if TYPE_CHECKING:
    from pathlib import Path

    from edgeembed.hub.catalogue import CatalogueEntry, Check, Matryoshka, ModelSource, Prompts
    from edgeembed.hub.gguf.frames import Frame
    from edgeembed.hub.store import InstalledModel, Store

_NOT_INSTALLED = "not installed"


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
        "installed": [installed_row(model) | {"frame": _frame_row(model)} for model in installed],
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
    from edgeembed.hub.offered import offered_types

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
                *outputs_fields(installed),
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
                *outputs_fields(installed),
            ],
            indent="  ",
        )
        _print_prompts(model.task, model.prompts)
    click.echo("\ninstalled files")
    for model in installed:
        _print_installed(model)
    print_damage(installed)


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
