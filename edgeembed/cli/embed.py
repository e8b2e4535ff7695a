"""`edgeembed embed`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgeembed.cli.settings import setting_options

if TYPE_CHECKING:
    from edgeembed.bulk.cluster import ClusterRules
    from edgeembed.bulk.embedders import EmbedOptions
    from edgeembed.bulk.inputs import InputFormat
    from edgeembed.bulk.job import Job, JobResult
    from edgeembed.bulk.shards import Dtype
    from edgeembed.config.resolution import Resolved
    from edgeembed.models.prompts import InputType


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT…")
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="Where the vectors go: .parquet, .arrow, .jsonl, .npy, or a folder with a / at the end.",
)
@click.option(
    "--format",
    "input_format",
    type=click.Choice(("text", "jsonl", "csv", "parquet")),
    help="What the inputs are, whatever they are called.",
)
@click.option("--column", metavar="NAME", help="The column or field with the texts.  [default: text, or the only one]")
@click.option(
    "--id", "id_column", metavar="NAME", help="The column or field with the ids.  [default: the rows' numbers, from 0]"
)
@click.option("--input-type", type=click.Choice(("query", "document")), help="Put the model's own prompt around each text.")
@click.option("--instruction", metavar="TEXT", help="The task, for models that take one.")
@click.option("--dimensions", type=click.IntRange(min=1), help="Cut each vector to its first numbers.")
@click.option(
    "--dtype",
    type=click.Choice(("float32", "float16", "int8", "binary")),
    default="float32",
    show_default=True,
    help="How numbers are stored.",
)
@click.option("--with-text", is_flag=True, help="Store the texts, too (not with .npy).")
@click.option(
    "--chunk-tokens", type=click.IntRange(min=8), default=256, show_default=True, help="Of a folder's files: longest chunk."
)
@click.option(
    "--overlap",
    type=click.IntRange(min=0),
    default=32,
    show_default=True,
    help="Tokens that a chunk shares with the one before.",
)
@click.option("--resume", is_flag=True, help="Go on with a job that was broken off; without one, begin.")
@click.option("--overwrite", is_flag=True, help="Remove what is there, and begin anew.")
@click.option(
    "--shard-rows",
    type=click.IntRange(min=1),
    default=8192,
    show_default=True,
    help="Rows of a shard; those under way are lost when it is broken off.",
)
@click.option("--no-daemon", is_flag=True, help="Load the model here, although a daemon may run.")
@click.option(
    "--engine",
    type=click.Choice(("auto", "ray")),
    default="auto",
    show_default=True,
    help="auto: the running daemon, or this process. ray: workers on a Ray cluster, each with the model (with -o).",
)
@click.option("--ray-address", metavar="ADDRESS", help="The cluster.  [default: RAY_ADDRESS, or this machine alone]")
@click.option("--workers", type=click.IntRange(min=1), help="Of --engine ray.  [default: as many as fit]")
@click.option(
    "--cpus-per-worker", type=click.IntRange(min=1), default=1, show_default=True, help="Processors, and so threads."
)
@click.option(
    "--gpus-per-worker", type=click.FloatRange(min=0), default=0, show_default=True, help="Cards, or a part of one."
)
@setting_options("model", "host", "port", "uds", "threads", "context_tokens", "batch_tokens", "offline")
def embed(
    inputs: tuple[str, ...],
    output: str | None,
    input_format: InputFormat | None,
    column: str | None,
    id_column: str | None,
    input_type: InputType | None,
    instruction: str | None,
    dimensions: int | None,
    dtype: Dtype,
    with_text: bool,
    chunk_tokens: int,
    overlap: int,
    resume: bool,
    overwrite: bool,
    shard_rows: int,
    no_daemon: bool,
    engine: str,
    ray_address: str | None,
    workers: int | None,
    cpus_per_worker: int,
    gpus_per_worker: float,
    **flags: Any,
) -> None:
    """Embed texts, or with -o whole files of them. The running daemon computes; where none runs, the model is loaded here.

    \b
    edgeembed embed "some text"                            one JSON object a text
    echo "some text" | edgeembed embed -                   one text in each line
    edgeembed embed texts.txt -o vectors.parquet           .txt, .jsonl, .csv, .tsv, .parquet
    edgeembed embed a.csv b.csv --column body --id key -o vectors.npy
    edgeembed embed notes/ -o notes.parquet --with-text    a folder of text files, in chunks
    edgeembed embed big.jsonl -o vectors/ --resume         a folder of Parquet files, one a shard
    edgeembed embed big.jsonl -o vectors/ --engine ray --ray-address HOST:6379 --gpus-per-worker 1 --model NAME

    A file is made of shards. Break it off and call it again with --resume: finished shards stay, nothing is computed twice.
    Until it is done they lie in OUT.parts, which takes as much space as the output. Rows that cannot be embedded (empty, too
    long, damaged) are listed with the reason in OUT.rejects.jsonl, without their text. Ids of a folder's chunks are
    FILE#START-END, in characters. int8 scales each row by its largest number; binary keeps signs, eight in a byte.

    The same inputs give the same bits on one machine with one build, broken off or not. What can change a vector's last
    digits: a worker that died over it, a decoder model in a daemon that others use, a cluster of several kinds of machines.
    """
    from edgeembed.bulk.embedders import EmbedOptions
    from edgeembed.common.logs import setup_logging
    from edgeembed.config.resolution import resolve
    from edgeembed.errors import ConfigError

    resolved = resolve(flags)
    setup_logging("warning")
    how = EmbedOptions(flags.get("model"), input_type, instruction, dimensions)
    if output is None:
        if engine == "ray":
            raise ConfigError("--engine ray is for whole files: say with -o where the vectors go")
        import os

        for name in inputs:
            if os.path.exists(name):  # noqa: PTH110 - a text may be no path at all
                raise ConfigError(f"{name} is a file: say with -o where its vectors go (-o vectors.parquet)")
        _embed_texts(inputs, how, resolved, own=no_daemon)
        return
    if overlap >= chunk_tokens:
        raise ConfigError("--overlap must be less than --chunk-tokens")
    from edgeembed.bulk.chunking import ChunkRules
    from edgeembed.bulk.job import Job
    from edgeembed.bulk.outputs import Output
    from edgeembed.bulk.shards import JobRules

    out = Output.of(output)
    if with_text and out.format == "npy":
        raise ConfigError("an NPY file holds numbers alone; --with-text goes with .parquet, .arrow and .jsonl")
    rules = JobRules(
        format=out.format,
        dtype=dtype,
        column=column,
        id_column=id_column,
        input_format=input_format,
        input_type=input_type,
        instruction=instruction,
        dimensions=dimensions,
        with_text=with_text,
        shard_rows=shard_rows,
        chunks=ChunkRules(chunk_tokens, overlap),
    )
    if out.finished and resume and not overwrite:
        click.echo(f"{out.path} is there already, whole", err=True)
        return
    job = Job(inputs=inputs, output=out, rules=rules, input_format=input_format, resume=resume, overwrite=overwrite)
    cluster = None
    if engine == "ray":
        from edgeembed.bulk.cluster import ClusterRules, import_ray

        import_ray()  # before anything is made
        cluster = ClusterRules(ray_address, workers, cpus_per_worker, gpus_per_worker)
    _run_job(job, how, resolved, own=no_daemon, cluster=cluster)


def _run_job(job: Job, how: EmbedOptions, resolved: Resolved, *, own: bool, cluster: ClusterRules | None) -> None:
    import asyncio
    import dataclasses

    import msgspec

    from edgeembed.bulk.cluster import open_cluster
    from edgeembed.bulk.embedders import open_embedder
    from edgeembed.bulk.job import batch_tokens_of, claimed, run
    from edgeembed.bulk.progress import JobProgress
    from edgeembed.bulk.tables import import_pyarrow

    if job.output.format in ("parquet", "arrow"):
        import_pyarrow()  # before the model is loaded

    if before := batch_tokens_of(job):  # what `edgeembed tune` found meanwhile is for the next job
        settings = msgspec.structs.replace(resolved.settings, batch_tokens=before)
        resolved = dataclasses.replace(resolved, settings=settings)

    async def work(progress: JobProgress) -> JobResult:
        opened = open_cluster(resolved, how, _say, cluster) if cluster else open_embedder(resolved, how, _say, own=own)
        async with opened as embedder:
            _say(f"{embedder.info.model}, {embedder.info.dimensions} dimensions, computed by {embedder.info.by}")
            return await run(job, embedder, progress)

    with claimed(job), JobProgress(_say) as progress:
        try:
            result = asyncio.run(work(progress))
        except KeyboardInterrupt:
            progress.close()
            _say("broken off; the same command with --resume goes on")
            raise
    _say(_summary(job, result, progress))
    if result.refused:
        _say(f"{result.refused:,} rows could not be embedded: {job.output.rejects}")


def _summary(job: Job, result: JobResult, progress: Any) -> str:
    from edgeembed.common.progress import human_size, human_time

    path = job.output.path
    size = sum(file.stat().st_size for file in (path.glob("shard-*") if job.output.folder else [path]))
    new = result.rows - result.before
    rate = f" at {progress.new_texts / progress.seconds:,.0f} texts/s" if new and progress.seconds > 0 else ""
    before = f", {result.before:,} of them before" if result.before else ""
    return (
        f"{result.rows:,} vectors of {result.dimensions} dimensions in {human_time(progress.seconds)}{rate}{before}: "
        f"{path} ({human_size(size)}, {job.rules.dtype})"
    )


def _embed_texts(texts: tuple[str, ...], how: EmbedOptions, resolved: Resolved, *, own: bool) -> None:
    """Print a JSON object for each text, or for each line of standard input."""
    import asyncio
    import itertools
    from collections.abc import Iterator

    import orjson

    from edgeembed.bulk.embedders import open_embedder
    from edgeembed.bulk.embedding import TEXTS_AT_ONCE
    from edgeembed.bulk.lines import stdin_lines

    def lines() -> Iterator[str]:
        for text in texts:
            if text == "-":
                yield from stdin_lines()
            else:
                yield text

    async def work() -> None:
        waiting = lines()
        async with open_embedder(resolved, how, _say, own=own) as embedder:
            while batch := list(itertools.islice(waiting, TEXTS_AT_ONCE)):
                for vector in await embedder.embed(batch):
                    found = {"model": embedder.info.model, "embedding": vector}
                    click.echo(orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY))

    asyncio.run(work())


def _say(line: str) -> None:
    click.echo(line, err=True)
