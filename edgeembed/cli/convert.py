"""`edgeembed convert`: a checkpoint on this disk becomes a GGUF file."""

from __future__ import annotations

import functools
import signal
from pathlib import Path
from typing import NoReturn

import click


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--type", "kind", metavar="TYPE", default="Q8_0", show_default=True, help="Type of the weights in the file.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="File to write.  [default: FOLDER-TYPE.gguf in the current folder]",
)
@click.option("--license", "license_", metavar="ID", help="Licence to record, instead of the one in the model's README.md.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def convert(source: Path, kind: str, output: Path | None, license_: str | None, force: bool) -> None:
    """Convert SOURCE, a folder with a sentence-transformers checkpoint, to a GGUF file for llama.cpp.

    The folder needs config.json, model.safetensors (or its shards and their index), the tokenizer's files, modules.json
    and the Pooling folder. Nothing of the model is guessed: what is missing or contradictory is an error.

    \b
    Types, largest files first:
      F32                     as it was trained
      F16, BF16               half the size; a master to quantise from later
      Q8_0                    about a quarter; nearly the same vectors
      Q5_1 Q5_0 Q4_1 Q4_0     smaller still; measure your search before you trust them

    \b
    Examples:
      edgeembed convert all-MiniLM-L6-v2
      edgeembed convert all-MiniLM-L6-v2 --type F16 -o minilm-f16.gguf
      edgeembed convert ./my-model --license mit --force
      edgeembed serve --model minilm-f16.gguf
    """
    from edgeembed.errors import ConversionError
    from edgeembed.hub.progress import Progress, human_size
    from edgeembed_convert import convert_checkpoint, parse_quantization

    if not source.is_dir():
        raise ConversionError(
            f"{source} is not a folder. convert takes a checkpoint's folder on this disk; it does not fetch repositories "
            "from a model hub yet. Download it first, for example with: hf download ORG/NAME --local-dir FOLDER"
        )
    quantization = parse_quantization(kind)
    target = output or Path(f"{source.resolve().name}-{quantization}.gguf")
    if target.exists() and not force:
        raise ConversionError(f"{target} exists; --force replaces it, -o names another file")

    # Terminated without this, the process would end at once and leave the half-written file.
    signal.signal(signal.SIGTERM, _terminated)
    with Progress(functools.partial(click.echo, err=True), f"converting {source.resolve().name}") as progress:
        result = convert_checkpoint(source, target, quantization=quantization, license=license_, progress=progress.update)
    for note in result.fallbacks:
        click.echo(f"note: {note}", err=True)
    click.echo(
        f"{result.path}  {result.quantization}  {human_size(result.size_bytes)}  {result.architecture}, "
        f"{result.dimensions} dimensions, {result.pooling} pooling, {result.tensors} tensors"
    )


def _terminated(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)
