"""`edgeembed embed`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from edgeembed.cli.completion import complete_file
from edgeembed.cli.output_flags import output_options, outputs_of
from edgeembed.cli.printing import to_stderr
from edgeembed.cli.settings import setting_options, split_flags

if TYPE_CHECKING:
    from edgeembed.bulk.cluster import ClusterRules
    from edgeembed.bulk.embedders import EmbedOptions
    from edgeembed.bulk.inputs import InputFormat
    from edgeembed.bulk.job import Job, JobResult
    from edgeembed.bulk.outputs import Output
    from edgeembed.bulk.progress import JobProgress
    from edgeembed.bulk.shards import Dtype
    from edgeembed.config.resolution import Resolved
    from edgeembed.engine.interface import Output as ComputedOutput
    from edgeembed.engine.interface import Side
    from edgeembed.inference.requests import LongText
    from edgeembed.models.prompts import InputType


EXIT_REJECTS = 3
"""Exit status of a complete job some of whose rows could not be embedded."""


@dataclass(frozen=True, kw_only=True)
class EmbedFlags:
    """The flags of the command, apart from those that are settings."""

    output: str | None
    input_format: InputFormat | None
    column: str | None
    id_column: str | None
    input_type: InputType | None
    instruction: str | None
    dimensions: int | None
    dtype: Dtype
    dense: bool
    sparse: bool
    multi_vector: bool
    token_vectors: bool
    with_text: bool
    chunk: bool
    chunk_tokens: int
    overlap: int
    long_text: LongText | None
    truncate: Side | None
    resume: bool
    append: bool
    overwrite: bool
    shard_rows: int
    strict: bool
    literal: bool
    keep_columns: tuple[str, ...]
    no_daemon: bool
    engine: str
    ray_address: str | None
    workers: int | None
    cpus_per_worker: int
    gpus_per_worker: float


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT…", shell_complete=complete_file)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    shell_complete=complete_file,
    help="Where to write vectors: a .parquet, .arrow, .jsonl or .npy file, or a folder ending with /.",
)
@click.option(
    "--format",
    "input_format",
    type=click.Choice(("text", "jsonl", "json", "csv", "parquet", "document")),
    help="Format of the inputs.  [default: by content and suffix]",
)
@click.option("--column", metavar="NAME", help="Column or field that holds the texts.  [default: text, or the only one]")
@click.option("--id", "id_column", metavar="NAME", help="Column or field that holds the ids.  [default: row numbers from 0]")
@click.option(
    "--keep-columns",
    multiple=True,
    metavar="NAMES",
    help="Columns or fields that pass to the output with their types, with commas between them (not in .npy).",
)
@click.option("--text", "literal", is_flag=True, help="Take the arguments as texts, even those that look like files.")
@click.option("--input-type", type=click.Choice(("query", "document")), help="Add the model's prompt for this kind of text.")
@click.option("--instruction", metavar="TEXT", help="Task description, for models that accept one.")
@click.option("--dimensions", type=click.IntRange(min=1), help="Truncate vectors to this length.")
@click.option(
    "--dtype",
    type=click.Choice(("float32", "float16", "int8", "binary")),
    default="float32",
    show_default=True,
    help="Type of the stored numbers.",
)
@output_options()
@click.option("--with-text", is_flag=True, help="Store the texts as well (not in .npy).")
@click.option("--chunk", is_flag=True, help="Cut the rows of files into chunks, too, as the text files in a folder.")
@click.option(
    "--chunk-tokens",
    type=click.IntRange(min=8),
    default=256,
    show_default=True,
    help="Longest chunk of the files in a folder, and of rows with --chunk, in tokens; at most what the model takes.",
)
@click.option(
    "--overlap",
    type=click.IntRange(min=0),
    default=32,
    show_default=True,
    help="Tokens that a chunk shares with the previous one.",
)
@click.option(
    "--long-text",
    type=click.Choice(("none", "mean")),
    help="mean: a text that is too long gets the mean of its windows' vectors.  [default: the daemon's setting, or none]",
)
@click.option(
    "--truncate",
    type=click.Choice(("none", "end", "start")),
    help="Which side of a text that is too long is cut off; none refuses it.  [default: the daemon's setting, or none]",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted job, or start one if there is none.")
@click.option("--append", is_flag=True, help="Add to a store that exists; rows with the same ids are replaced.")
@click.option("--overwrite", is_flag=True, help="Replace earlier output when the new one is complete.")
@click.option(
    "--shard-rows",
    type=click.IntRange(min=1),
    default=8192,
    show_default=True,
    help="Rows per shard. An interruption loses the shards in progress.",
)
@click.option("--strict", is_flag=True, help="End with an error at the first row that cannot be embedded.")
@click.option("--no-daemon", is_flag=True, help="Load the model in this process even if a daemon is running.")
@click.option(
    "--engine",
    type=click.Choice(("auto", "ray")),
    default="auto",
    show_default=True,
    help="auto: the running daemon, or else this process. ray: workers on a Ray cluster, each with the model; needs -o.",
)
@click.option("--ray-address", metavar="ADDRESS", help="Ray cluster to use.  [default: RAY_ADDRESS, or this machine]")
@click.option("--workers", type=click.IntRange(min=1), help="Number of Ray workers.  [default: as many as fit]")
@click.option(
    "--cpus-per-worker",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processors, and so threads, of a Ray worker.",
)
@click.option(
    "--gpus-per-worker",
    type=click.FloatRange(min=0),
    default=0,
    show_default=True,
    help="GPUs of a Ray worker; fractions share one.",
)
@setting_options("model", "host", "port", "uds", "threads", "context_tokens", "batch_tokens", "offline")
def embed(inputs: tuple[str, ...], **flags: Any) -> None:
    """Embed texts, or whole files with -o. The running daemon computes; without one, the model is loaded in this process.

    \b
    edgeembed embed "some text"                            print a JSON object for each text
    echo "some text" | edgeembed embed -                   read texts line by line
    edgeembed embed texts.txt -o vectors.parquet           reads .txt, .jsonl, .json, .csv, .tsv, .parquet
    edgeembed embed a.jsonl.zst -o a.parquet --keep-columns year,lang
    edgeembed embed report.pdf -o report.parquet --chunk   reads .pdf, .docx, .html with the extra `documents`
    edgeembed embed a.csv b.csv --column body --id key -o vectors.npy
    edgeembed embed notes/ -o notes.parquet --with-text    chunks of all text files in a folder
    edgeembed embed a.jsonl -o a.parquet --chunk           chunks of the texts in a file
    edgeembed embed a.jsonl -o a.parquet --long-text mean  one vector for each text, of any length
    edgeembed embed big.jsonl -o vectors/ --resume         a folder of Parquet files, one per shard
    edgeembed embed texts.txt -o v.parquet --dense --sparse --multi-vector --model bge-m3
    edgeembed embed big.jsonl -o vectors/ --engine ray --ray-address HOST:6379 --gpus-per-worker 1 --model NAME

    A job is computed in shards. After an interruption, run the same command with --resume: finished shards are kept. Until
    the job is done, they are in OUT.parts, which needs as much space as the output. Rows that cannot be embedded (empty, too
    long, damaged) are listed with the reason, without the text, in OUT.rejects.jsonl. The exit status is then 3; with
    --strict the first one ends the job.

    Files compressed by gzip, zstd, bzip2 or xz are read as they are.

    With --overwrite, earlier output stays until the new one is complete. An unfinished job of the same output is dropped
    once the first new shard has been read, or continued with --overwrite --resume.

    Chunks of a folder have ids FILE#START-END, in characters, and those of rows ID#START-END. int8 scales all rows alike, so
    that dot products can be compared; binary stores one bit per number, its sign.

    \b
    What is computed is in the column, or field of a line:
    --dense          vector         a list of numbers
    --sparse         sparse         a map from token ids to weights; in lines: indices and values
    --multi-vector   multi_vector   a list of vectors
    --token-vectors  token_vectors  a list of vectors; --dtype float32 or float16

    The same inputs give identical vectors on one machine and build, interrupted or not. The last digits can differ when a
    worker crashed, when other clients use a decoder model of the daemon, or when a cluster mixes kinds of machines.
    """
    from edgeembed.common.logs import setup_logging
    from edgeembed.config.resolution import resolve

    settings, options = split_flags(flags, EmbedFlags)
    resolved = resolve(settings)
    setup_logging("warning")
    if options.output is None:
        _embed_texts(inputs, options, settings.get("model"), resolved)
    else:
        _embed_files(inputs, options.output, options, settings.get("model"), resolved)


# --- texts on the command line ----------------------------------------------------------------------------------------


def _embed_texts(texts: tuple[str, ...], flags: EmbedFlags, model: str | None, resolved: Resolved) -> None:
    """Print a JSON object for each text, or for each line of standard input."""
    import asyncio
    import itertools
    from collections.abc import Iterator

    import orjson

    from edgeembed.bulk.computed import fields_of
    from edgeembed.bulk.embedders import open_embedder
    from edgeembed.bulk.embedding import TEXTS_PER_REQUEST
    from edgeembed.bulk.inputs import require_texts
    from edgeembed.bulk.lines import stdin_lines
    from edgeembed.errors import ConfigError

    for_files = {
        "--engine ray": flags.engine == "ray",
        "--chunk": flags.chunk,
        "--keep-columns": bool(flags.keep_columns),
        "--strict": flags.strict,
    }
    for flag, given in for_files.items():
        if given:
            raise ConfigError(f"{flag} is for whole files; name an output file with -o")
    if not flags.literal:
        require_texts(texts, "to embed its content, name an output file, as in -o vectors.parquet")

    def lines() -> Iterator[str]:
        for text in texts:
            if text == "-" and not flags.literal:
                yield from stdin_lines()
            else:
                yield text

    async def run() -> None:
        waiting = lines()
        options = _embed_options(flags, model)
        async with open_embedder(resolved, options, to_stderr, in_process=flags.no_daemon) as embedder:
            while batch := list(itertools.islice(waiting, TEXTS_PER_REQUEST)):
                computed = await embedder.embed(batch)
                for index in range(len(batch)):
                    found: dict[str, Any] = {"model": embedder.info.model}
                    if embedder.info.dimensions:
                        found["embedding"] = computed.dense[index]
                    found |= fields_of(computed, index)
                    click.echo(orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY))

    asyncio.run(run())


# --- whole files ------------------------------------------------------------------------------------------------------


def _embed_files(inputs: tuple[str, ...], output: str, flags: EmbedFlags, model: str | None, resolved: Resolved) -> None:
    from edgeembed.bulk.stores.output import output_of
    from edgeembed.engine.interface import DENSE
    from edgeembed.errors import ConfigError

    if flags.overlap >= flags.chunk_tokens:
        raise ConfigError("--overlap must be less than --chunk-tokens")
    if flags.literal:
        raise ConfigError("--text is for texts on the command line, but -o for whole files; leave one of them out")
    out = output_of(output, append=flags.append)
    _require_storable(inputs, out, flags)
    if flags.keep_columns and out.format == "npy":
        raise ConfigError(".npy files hold only numbers; use .parquet, .arrow or .jsonl with --keep-columns")
    if flags.with_text and out.format == "npy":
        raise ConfigError(".npy files hold only numbers; use .parquet, .arrow or .jsonl with --with-text")
    if out.format == "npy" and _outputs(flags) != DENSE:
        raise ConfigError(
            ".npy files hold one matrix, but texts have different numbers of other rows than --dense; use .parquet, .arrow "
            "or .jsonl"
        )
    if flags.resume and not (flags.overwrite or flags.append) and not out.work().began and out.finished:
        to_stderr(f"{out.title} is complete; nothing to do")
        if out.rejects.exists():
            to_stderr(f"rows that could not be embedded are listed in {out.rejects}")
            raise SystemExit(EXIT_REJECTS)
        return
    cluster = None
    if flags.engine == "ray":
        from edgeembed.bulk.cluster import ClusterRules, import_ray

        import_ray()  # fails before any file is written
        cluster = ClusterRules(flags.ray_address, flags.workers, flags.cpus_per_worker, flags.gpus_per_worker)
    options = _embed_options(flags, model)
    _run_job(_job(inputs, out, flags), options, resolved, in_process=flags.no_daemon, cluster=cluster)


def _require_storable(inputs: tuple[str, ...], out: Output, flags: EmbedFlags) -> None:
    """Raise ConfigError for flags that do not fit a store, or that only a store has."""
    from pathlib import Path

    from edgeembed.bulk.stores.faiss_index import FaissOutput
    from edgeembed.bulk.stores.output import StoreOutput
    from edgeembed.engine.interface import DENSE
    from edgeembed.errors import ConfigError

    if not isinstance(out, StoreOutput) and flags.append:
        raise ConfigError("--append is for stores; files are written whole")
    if not isinstance(out, StoreOutput | FaissOutput):
        return
    out.require_library()
    if _outputs(flags) != DENSE:
        raise ConfigError("stores hold dense vectors; write the other outputs to a Parquet file")
    if flags.dtype != "float32":
        raise ConfigError("stores hold float32 numbers; leave --dtype out, or write to a file")
    if flags.append and flags.overwrite:
        raise ConfigError("--append and --overwrite contradict each other; give one of them")
    if flags.append and flags.id_column is None and not all(Path(name).is_dir() for name in inputs):
        raise ConfigError("--append needs --id: row numbers would replace the rows that are in the store with these numbers")


def _embed_options(flags: EmbedFlags, model: str | None) -> EmbedOptions:
    from edgeembed.bulk.embedders import EmbedOptions
    from edgeembed.engine.interface import DENSE
    from edgeembed.errors import ConfigError

    outputs = _outputs(flags)
    if flags.long_text == "mean" and outputs != DENSE:
        raise ConfigError("--long-text mean is for dense vectors alone; cut the texts with --chunk or --truncate")
    if flags.long_text == "mean" and flags.truncate is not None:
        raise ConfigError("--long-text and --truncate contradict each other; give one of them")
    return EmbedOptions(
        model, flags.input_type, flags.instruction, flags.dimensions, outputs, flags.long_text, flags.truncate
    )


def _outputs(flags: EmbedFlags) -> tuple[ComputedOutput, ...]:
    """Return what to compute of each text. Raises ConfigError for flags that do not fit it."""
    from edgeembed.errors import ConfigError

    outputs = outputs_of(
        dense=flags.dense, sparse=flags.sparse, multi_vector=flags.multi_vector, token_vectors=flags.token_vectors
    )
    if flags.dimensions is not None and "dense" not in outputs:
        raise ConfigError("--dimensions is for dense vectors; add --dense, or leave it out")
    if flags.dtype in ("int8", "binary") and "tokens" in outputs:
        raise ConfigError(f"--dtype {flags.dtype} is for vectors of length 1, which --token-vectors are not; use float16")
    return outputs


def _kept_columns(flags: EmbedFlags) -> tuple[str, ...]:
    """Return the columns that pass to the output. Raises ConfigError for names that the output has already."""
    from edgeembed.bulk.computed import FIELDS
    from edgeembed.errors import ConfigError

    names = tuple(dict.fromkeys(name.strip() for part in flags.keep_columns for name in part.split(",") if name.strip()))
    hints = {"id": "take the ids from it with --id", "text": "keep the texts with --with-text alone, or rename it"}
    taken = {"id", *(("text",) if flags.with_text else ()), *(FIELDS[output] for output in _outputs(flags))}
    for name in names:
        if name in taken:
            hint = hints.get(name, "rename it in the input")
            raise ConfigError(f"--keep-columns: the output has a column {name!r} of its own; {hint}")
    return names


def _job(inputs: tuple[str, ...], output: Output, flags: EmbedFlags) -> Job:
    from edgeembed.bulk.job import Job
    from edgeembed.bulk.shards import JobRules
    from edgeembed.bulk.stores.output import StoreOutput
    from edgeembed.inference.chunking import ChunkRules
    from edgeembed.inference.number_formats import INT8_RANGE

    rules = JobRules(
        format=output.format,
        store=output.title if isinstance(output, StoreOutput) else None,
        append=flags.append,
        outputs=_outputs(flags),
        dtype=flags.dtype,
        column=flags.column,
        id_column=flags.id_column,
        input_format=flags.input_format,
        input_type=flags.input_type,
        instruction=flags.instruction,
        dimensions=flags.dimensions,
        int8_range=INT8_RANGE if flags.dtype == "int8" else None,
        with_text=flags.with_text,
        shard_rows=flags.shard_rows,
        chunks=ChunkRules(flags.chunk_tokens, flags.overlap),
        chunk_rows=flags.chunk,
        long_text=flags.long_text,
        truncate=flags.truncate,
        keep_columns=_kept_columns(flags),
    )
    return Job(
        inputs=inputs,
        output=output,
        rules=rules,
        input_format=flags.input_format,
        resume=flags.resume,
        overwrite=flags.overwrite,
        strict=flags.strict,
    )


def _run_job(job: Job, options: EmbedOptions, resolved: Resolved, *, in_process: bool, cluster: ClusterRules | None) -> None:
    import asyncio
    import dataclasses

    import msgspec

    from edgeembed.bulk.cluster import open_cluster
    from edgeembed.bulk.computed import described
    from edgeembed.bulk.embedders import open_embedder
    from edgeembed.bulk.job import batch_tokens_of, check_inputs, claimed, run
    from edgeembed.bulk.progress import JobProgress
    from edgeembed.bulk.tables import import_pyarrow

    if job.output.format in ("parquet", "arrow"):
        import_pyarrow()  # fails before the model is loaded

    if before := batch_tokens_of(job):  # `edgeembed tune` may have found another size since the job began
        settings = msgspec.structs.replace(resolved.settings, batch_tokens=before)
        resolved = dataclasses.replace(resolved, settings=settings)

    async def work(progress: JobProgress) -> JobResult:
        opened = (
            open_cluster(resolved, options, to_stderr, cluster)
            if cluster
            else open_embedder(resolved, options, to_stderr, in_process=in_process)
        )
        async with opened as embedder:
            info = embedder.info
            words = described(info.outputs, info.widths)
            to_stderr(f"embedding with {info.model} ({words}), computed by {info.description}")
            return await run(job, embedder, progress)

    with claimed(job), JobProgress(to_stderr) as progress:
        check_inputs(job)
        try:
            result = asyncio.run(work(progress))
        except KeyboardInterrupt:
            progress.close()
            to_stderr("interrupted; to continue, run the same command with --resume")
            raise SystemExit(130) from None
    to_stderr(_summary(job, result, progress))
    if first := result.first_refused:
        to_stderr(f"{result.refused:,} rows could not be embedded; they are listed in {job.output.rejects}")
        to_stderr(f"the first, {first.where}: {first.reason}")
        raise SystemExit(EXIT_REJECTS)


def _summary(job: Job, result: JobResult, progress: JobProgress) -> str:
    from edgeembed.common.progress import human_size, human_time

    size = job.output.size_bytes
    taken = "" if size is None else f"{human_size(size)}, "
    new = result.rows - result.before
    rate = f" at {progress.new_texts / progress.seconds:,.0f} texts/s" if new and progress.seconds > 0 else ""
    before = f" ({result.before:,} of them from an earlier run)" if result.before else ""
    return (
        f"wrote {result.rows:,} {result.computed}{before} to {job.output.title} "
        f"({taken}{job.rules.dtype}) in {human_time(progress.seconds)}{rate}"
    )
