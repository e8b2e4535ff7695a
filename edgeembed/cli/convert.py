"""`edgeembed convert`."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from edgeembed.cli.completion import complete_file, complete_type
from edgeembed.cli.printing import to_stderr

if TYPE_CHECKING:
    from edgeembed.engine.interface import Task
    from edgeembed_convert import ConversionOptions
    from edgeembed_convert.checkpoint import Pooling


@dataclass(frozen=True, kw_only=True)
class ConvertFlags:
    """The flags of the command."""

    kind: str
    output: Path | None
    license_: str | None
    task: Task | None
    pooling: Pooling | None
    adapter: str | None
    force: bool
    master: Path | None
    importance: Path | None
    no_proof: bool
    offline: bool
    compare: str | None


@click.command()
@click.argument("source", shell_complete=complete_file)
@click.option(
    "--type",
    "kind",
    metavar="TYPE",
    default="Q8_0",
    show_default=True,
    shell_complete=complete_type,
    help="Type of the weights in the file.",
)
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
    type=click.Choice(["embed", "rerank", "classify"]),
    help="What the model is for, if its files do not say so, as in some Qwen3-Reranker folders; classify for a classifier "
    "with one label, which is a reranker otherwise.",
)
@click.option(
    "--pooling",
    type=click.Choice(["splade"]),
    help="Convert a masked language model as a SPLADE model, if its files do not say that it is one.",
)
@click.option(
    "--merge-adapter",
    "adapter",
    metavar="NAME",
    help="Merge a LoRA adapter into the weights. NAME is that of an adapter in the checkpoint (such as a task), or a folder "
    "or a repository of the model hub with adapter_config.json.",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option(
    "--keep-master",
    "master",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Also keep the file with the unquantised weights, from which other types can be made.",
)
@click.option(
    "--imatrix",
    "importance",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Texts like those that the model will see, one a line; weights that matter for them are rounded with less error.  "
    "[default for Q5_E and Q4_E: texts in 30 languages; else none]",
)
@click.option("--no-proof", is_flag=True, help="Store no canary rows; `edgeembed verify` then has nothing to compare with.")
@click.option("--offline", is_flag=True, help="Do not use the network; SOURCE must be a folder.")
@click.option("--compare", metavar="T,T,...", help="Write no file; print how much quality these types lose against F32.")
def convert(source: str, **flags: Any) -> None:
    """Convert SOURCE, a folder or a repository of the model hub, to a GGUF file for llama.cpp.

    SOURCE is a folder with a sentence-transformers checkpoint, or OWNER/NAME or OWNER/NAME@REVISION on the model hub, which
    is downloaded to a temporary folder.

    The folder must have config.json, weights (model.safetensors or pytorch_model.bin, or shards with their index), the
    tokenizer's files, and for most embedders modules.json and the Pooling folder. Conversion stops with an error if
    something is missing or contradictory; nothing is guessed, and no code of the checkpoint is run.

    \b
    Types, largest files first, then our own:
      F32                     as trained
      F16, BF16               half the size
      Q8_0                    about a quarter; nearly the same vectors
      Q6_K Q5_K_M Q5_1 Q5_0   smaller
      Q4_K_M Q4_1 Q4_0 IQ4_XS smallest; measure your search quality before you rely on them
      Q8_E Q5_E Q4_E          our own: each matrix has the bits that it needs; smaller at the same quality

    The file contains canary rows: a few texts with their vectors from the unquantised weights. The daemon checks them when
    it loads the model, and `edgeembed verify` prints the result.

    \b
    Examples:
      edgeembed convert ./all-MiniLM-L6-v2
      edgeembed convert BAAI/bge-small-en-v1.5 --type Q8_0
      edgeembed convert ./all-MiniLM-L6-v2 --type F16 -o minilm-f16.gguf
      edgeembed convert ./my-model --license mit --force
      edgeembed convert ./my-model --merge-adapter ./my-lora
      edgeembed convert jinaai/jina-embeddings-v5-text-nano --merge-adapter retrieval
      edgeembed convert ./my-model --compare Q8_0,Q5_K_M,Q4_0      quality, size and speed of each type
      edgeembed serve --model minilm-f16.gguf
    """
    from edgeembed.config.resolution import resolve
    from edgeembed.errors import ConversionError
    from edgeembed.hub.download.huggingface import adapter_of, checkpoint_of, is_repository
    from edgeembed_convert import ConversionOptions, parse_quantization

    options = ConvertFlags(**flags)
    kinds = [
        parse_quantization(word.strip()) for word in (options.compare.split(",") if options.compare else [options.kind])
    ]
    name = (Path(source) if Path(source).is_dir() else Path(source.partition("@")[0])).resolve().name
    adapter = f"-{Path(options.adapter).name}" if options.adapter and options.adapter != source else ""
    target = options.output or Path(f"{name}{adapter}-{kinds[0]}.gguf")
    if not options.compare:
        _require_free(target, "-o", options)
        if options.master is not None:
            _require_free(options.master, "--keep-master", options)
            if options.master.resolve() == target.resolve():
                raise ConversionError(f"-o and --keep-master both name {target}; choose another name for one of them")
    # By default SIGTERM would end the process at once and leave a partial file.
    signal.signal(signal.SIGTERM, _terminated)
    settings = resolve({"offline": options.offline or None}).settings
    with contextlib.ExitStack() as stack:
        folder, repo, revision = Path(source), None, None
        beside = target.absolute().parent
        if options.adapter is not None and options.adapter != source and is_repository(options.adapter):
            merged = stack.enter_context(adapter_of(options.adapter, settings, to_stderr, beside))
            options = dataclasses.replace(options, adapter=str(merged))
        if not folder.is_dir():
            fetched = checkpoint_of(source, settings, to_stderr, beside, options.adapter)
            folder, repo, revision = stack.enter_context(fetched)
        if options.compare:
            _print_losses(folder, options, kinds)
            return
        conversion = ConversionOptions(
            quantization=kinds[0],
            license=options.license_,
            source_repo=repo,
            source_revision=revision,
            task=options.task,
            pooling=options.pooling,
            adapter=options.adapter,
            master=options.master,
            importance=options.importance,
            proof=not options.no_proof,
            sandbox=settings.sandbox == "auto",
        )
        _convert(folder, target, conversion)


def _require_free(file: Path, flag: str, options: ConvertFlags) -> None:
    """Raise ConversionError if writing a file would replace one that is not meant, such as a part of the checkpoint."""
    from edgeembed.errors import ConversionError

    if not file.exists():
        return
    if not options.force:
        raise ConversionError(f"{file} already exists; replace it with --force or choose another file with {flag}")
    if file.is_file() and file.suffix.lower() != ".gguf":
        raise ConversionError(f"{file} is not a .gguf file and is not replaced; choose another file with {flag}")


def _convert(folder: Path, target: Path, options: ConversionOptions) -> None:
    from edgeembed.common.progress import Progress, human_size
    from edgeembed_convert import convert_checkpoint

    with Progress(to_stderr, f"converting {folder.resolve().name}") as progress:
        result = convert_checkpoint(folder, target, options, progress.update)
    for note in (*result.fallbacks, *result.notes):
        to_stderr(f"note: {note}")
    pooling = "no pooled vector" if result.pooling == "none" else f"{result.pooling} pooling"
    click.echo(
        f"{result.path}  {result.quantization}  {human_size(result.size_bytes)}  {result.architecture}, "
        f"{result.dimensions} dimensions, {pooling}, {result.tensors} tensors"
    )


def _print_losses(source: Path, flags: ConvertFlags, kinds: list[str]) -> None:
    """Convert to each type in a temporary folder, and print the table."""
    from edgeembed.common.progress import Progress
    from edgeembed.config.resolution import resolve
    from edgeembed.diagnostics.verify import format_losses, loss_table
    from edgeembed.hub.store import Store
    from edgeembed_convert import ConversionOptions, convert_checkpoint
    from edgeembed_convert.quantization import WEIGHED

    resolved = resolve()
    with tempfile.TemporaryDirectory() as folder:
        models = []
        for kind in dict.fromkeys(["F32", *kinds]):
            with Progress(to_stderr, f"converting to {kind}") as progress:
                path = Path(folder) / f"{kind}.gguf"
                conversion = ConversionOptions(
                    quantization=kind,
                    task=flags.task,
                    pooling=flags.pooling,
                    adapter=flags.adapter,
                    importance=flags.importance if kind in WEIGHED else None,
                    proof=False,
                    sandbox=resolved.settings.sandbox == "auto",
                )
                convert_checkpoint(source, path, conversion, progress.update)
            # Named by the requested type, which may differ from that of most tensors.
            models.append(dataclasses.replace(Store(resolved.paths).local(path), type=kind))
        for line in format_losses(loss_table(resolved.settings, resolved.paths, models, to_stderr)):
            click.echo(line)


def _terminated(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)
