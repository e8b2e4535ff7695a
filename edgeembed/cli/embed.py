"""`edgeembed embed`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgeembed.cli.completion import complete_file
from edgeembed.cli.embed_flags import EmbedFlags, embed_options
from edgeembed.cli.embed_job import embed_files
from edgeembed.cli.output_flags import output_options
from edgeembed.cli.printing import to_stderr
from edgeembed.cli.settings import setting_options, split_flags

if TYPE_CHECKING:
    from edgeembed.config.resolution import Resolved


class WorkerRange(click.ParamType):  # type: ignore[type-arg]
    """Reads N or MIN:MAX as the least and the most workers."""

    name = "N|MIN:MAX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        least, _, most = str(value).partition(":")
        try:
            found = int(least), int(most or least)
        except ValueError:
            found = 0, 0
        if not 1 <= found[0] <= found[1]:
            self.fail(f"{value!r} is neither a number from 1 on nor MIN:MAX with 1 <= MIN <= MAX", param, ctx)
        return found


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT…", shell_complete=complete_file)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    shell_complete=complete_file,
    help="Where to write vectors: a .parquet, .arrow, .jsonl or .npy file, a folder ending with /, or a URI of a folder.",
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
@click.option(
    "--workers",
    type=WorkerRange(),
    help="Number of Ray workers, or MIN:MAX of them as the work needs.  [default: as many as fit]",
)
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
@click.option(
    "--single-file",
    is_flag=True,
    help="With a URI or --engine ray: join the shards of a small job in one .parquet file.",
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
    edgeembed embed s3://bucket/texts/ -o s3://bucket/vectors/ --keep-columns year
    edgeembed embed hf://datasets/OWNER/NAME -o vectors/   also gs, abfs, hdfs, https, file
    edgeembed embed s3://bucket/texts/ -o s3://bucket/vectors/ --engine ray --ray-address HOST:6379 --gpus-per-worker 1

    A job is computed in shards. After an interruption, run the same command with --resume: finished shards are kept. Until
    the job is done, they are in OUT.parts, which needs as much space as the output. Rows that cannot be embedded (empty, too
    long, damaged) are listed with the reason, without the text, in OUT.rejects.jsonl. The exit status is then 3; with
    --strict the first one ends the job.

    Files compressed by gzip, zstd, bzip2 or xz are read as they are.

    With a URI as an input or as OUT, or with --engine ray, the output is a folder of Parquet files, which holds the
    unfinished job, too; rejected rows are in OUT/_edgeembed/, and --overwrite removes earlier output when the job begins.
    Workers on Ray read and write by themselves: give them places that all machines reach. Credentials are found as the
    libraries of the stores do it, as in AWS_PROFILE; a folder may have columns in its paths, as in year=2024/.

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
        embed_files(inputs, options.output, options, settings.get("model"), resolved)


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
        options = embed_options(flags, model)
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
