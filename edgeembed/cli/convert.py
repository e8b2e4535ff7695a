"""`edgeembed convert`: a checkpoint becomes a GGUF file."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from edgeembed_convert import ConversionOptions
    from edgeembed_convert.checkpoint import Task


@click.command()
@click.argument("source")
@click.option("--type", "kind", metavar="TYPE", default="Q8_0", show_default=True, help="Type of the weights in the file.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="File to write.  [default: FOLDER-TYPE.gguf in the current folder]",
)
@click.option("--license", "license_", metavar="ID", help="Licence to record, instead of the one in the model's README.md.")
@click.option(
    "--task",
    type=click.Choice(["embed", "rerank"]),
    help="What the model is for, where its files do not say it: some Qwen3-Reranker folders.",
)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@click.option(
    "--keep-master",
    "master",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Keep the file of the unquantised weights that other types are made from.",
)
@click.option("--no-proof", is_flag=True, help="Compute no canary rows; nothing can then show what quantising changed.")
@click.option("--offline", is_flag=True, help="Use no network: SOURCE is a folder.")
@click.option("--compare", metavar="T,T,...", help="Write no file: print what these types cost against F32.")
def convert(
    source: str,
    kind: str,
    output: Path | None,
    license_: str | None,
    task: Task | None,
    force: bool,
    master: Path | None,
    no_proof: bool,
    offline: bool,
    compare: str | None,
) -> None:
    """Convert SOURCE, a folder or a repository of the model hub, to a GGUF file for llama.cpp.

    A folder with a sentence-transformers checkpoint, or OWNER/NAME or OWNER/NAME@REVISION, which is fetched and removed
    again afterwards.

    The folder needs config.json, model.safetensors (or its shards and their index), the tokenizer's files, modules.json
    and the Pooling folder. Nothing of the model is guessed: what is missing or contradictory is an error.

    \b
    Types, largest files first:
      F32                     as it was trained
      F16, BF16               half the size
      Q8_0                    about a quarter; nearly the same vectors
      Q6_K Q5_K_M Q5_1 Q5_0   smaller still
      Q4_K_M Q4_1 Q4_0 IQ4_XS smallest; measure your search before you trust them

    The file carries canary rows, a few texts with their vectors from the unquantised weights, which the daemon checks when
    it loads and `edgeembed verify` prints.

    \b
    Examples:
      edgeembed convert ./all-MiniLM-L6-v2
      edgeembed convert BAAI/bge-small-en-v1.5 --type Q8_0
      edgeembed convert ./all-MiniLM-L6-v2 --type F16 -o minilm-f16.gguf
      edgeembed convert ./my-model --license mit --force
      edgeembed convert ./my-model --compare Q8_0,Q5_K_M,Q4_0      what would each cost?
      edgeembed serve --model minilm-f16.gguf
    """
    from edgeembed.config.resolution import resolve
    from edgeembed.errors import ConversionError
    from edgeembed.hub.download.huggingface import checkpoint_of
    from edgeembed_convert import ConversionOptions, parse_quantization

    kinds = [parse_quantization(word) for word in (compare or kind).split(",") if word.strip()]
    name = (Path(source) if Path(source).is_dir() else Path(source.partition("@")[0])).resolve().name
    target = output or Path(f"{name}-{kinds[0]}.gguf")
    if not compare and target.exists() and not force:
        raise ConversionError(f"{target} exists; --force replaces it, -o names another file")
    # Terminated without this, the process would end at once and leave the half-written file.
    signal.signal(signal.SIGTERM, _terminated)
    with contextlib.ExitStack() as stack:
        folder, repo, revision = Path(source), None, None
        if not folder.is_dir():
            settings = resolve({"offline": offline or None}).settings
            folder, repo, revision = stack.enter_context(checkpoint_of(source, settings, _say, target.absolute().parent))
        if compare:
            _print_losses(folder, task, kinds)
            return
        options = ConversionOptions(
            quantization=kinds[0],
            license=license_,
            source_repo=repo,
            source_revision=revision,
            task=task,
            master=master,
            proof=not no_proof,
        )
        _convert(folder, target, options)


def _convert(folder: Path, target: Path, options: ConversionOptions) -> None:
    from edgeembed.common.progress import Progress, human_size
    from edgeembed_convert import convert_checkpoint

    with Progress(_say, f"converting {folder.resolve().name}") as progress:
        result = convert_checkpoint(folder, target, options, progress.update)
    for note in result.fallbacks:
        _say(f"note: {note}")
    click.echo(
        f"{result.path}  {result.quantization}  {human_size(result.size_bytes)}  {result.architecture}, "
        f"{result.dimensions} dimensions, {result.pooling} pooling, {result.tensors} tensors"
    )


def _print_losses(source: Path, task: Task | None, kinds: list[str]) -> None:
    """Convert to each type in a folder that goes away again, and print the table."""
    from edgeembed.common.progress import Progress
    from edgeembed.config.resolution import resolve
    from edgeembed.diagnostics.verify import format_losses, loss_table
    from edgeembed.hub.store import Store
    from edgeembed_convert import ConversionOptions, convert_checkpoint

    resolved = resolve()
    with tempfile.TemporaryDirectory() as folder:
        models = []
        for kind in dict.fromkeys(["F32", *kinds]):
            with Progress(_say, f"converting to {kind}") as progress:
                path = Path(folder) / f"{kind}.gguf"
                convert_checkpoint(
                    source, path, ConversionOptions(quantization=kind, task=task, proof=False), progress=progress.update
                )
            # Under the name that was asked for: what most of its tensors are may be another type.
            models.append(dataclasses.replace(Store(resolved.paths).local(path), type=kind))
        for line in format_losses(loss_table(resolved.settings, resolved.paths, models, _say)):
            click.echo(line)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _terminated(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)
