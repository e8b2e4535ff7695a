"""The flags of `edgeembed embed`, apart from those that are settings, and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeembed.cli.output_flags import outputs_of

if TYPE_CHECKING:
    from edgeembed.bulk.embedders import EmbedOptions
    from edgeembed.bulk.inputs import InputFormat
    from edgeembed.bulk.job import Job
    from edgeembed.bulk.outputs import Output
    from edgeembed.bulk.shards import Dtype, JobRules
    from edgeembed.engine.interface import Output as ComputedOutput
    from edgeembed.engine.interface import Side
    from edgeembed.inference.requests import LongText
    from edgeembed.models.prompts import InputType


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
    workers: tuple[int, int] | None
    cpus_per_worker: int
    gpus_per_worker: float
    single_file: bool


def embed_options(flags: EmbedFlags, model: str | None) -> EmbedOptions:
    from edgeembed.bulk.embedders import EmbedOptions
    from edgeembed.engine.interface import DENSE
    from edgeembed.errors import ConfigError

    outputs = computed_outputs(flags)
    if flags.long_text == "mean" and outputs != DENSE:
        raise ConfigError("--long-text mean is for dense vectors alone; cut the texts with --chunk or --truncate")
    if flags.long_text == "mean" and flags.truncate is not None:
        raise ConfigError("--long-text and --truncate contradict each other; give one of them")
    return EmbedOptions(
        model, flags.input_type, flags.instruction, flags.dimensions, outputs, flags.long_text, flags.truncate
    )


def computed_outputs(flags: EmbedFlags) -> tuple[ComputedOutput, ...]:
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
    taken = {"id", *(("text",) if flags.with_text else ()), *(FIELDS[output] for output in computed_outputs(flags))}
    for name in names:
        if name in taken:
            hint = hints.get(name, "rename it in the input")
            raise ConfigError(f"--keep-columns: the output has a column {name!r} of its own; {hint}")
    return names


def rules_of(flags: EmbedFlags, format_: str, store: str | None = None) -> JobRules:
    """format_: of the output. store: into which rows are put."""
    from edgeembed.bulk.shards import JobRules
    from edgeembed.inference.chunking import ChunkRules
    from edgeembed.inference.number_formats import INT8_RANGE

    return JobRules(
        format=format_,
        store=store,
        append=flags.append,
        outputs=computed_outputs(flags),
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


def job_of(inputs: tuple[str, ...], output: Output, flags: EmbedFlags) -> Job:
    from edgeembed.bulk.job import Job
    from edgeembed.bulk.stores.output import StoreOutput

    return Job(
        inputs=inputs,
        output=output,
        rules=rules_of(flags, output.format, output.title if isinstance(output, StoreOutput) else None),
        input_format=flags.input_format,
        resume=flags.resume,
        overwrite=flags.overwrite,
        strict=flags.strict,
    )


def require_storable(inputs: tuple[str, ...], out: Output, flags: EmbedFlags) -> None:
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
    if computed_outputs(flags) != DENSE:
        raise ConfigError("stores hold dense vectors; write the other outputs to a Parquet file")
    if flags.dtype != "float32":
        raise ConfigError("stores hold float32 numbers; leave --dtype out, or write to a file")
    if flags.append and flags.overwrite:
        raise ConfigError("--append and --overwrite contradict each other; give one of them")
    if flags.append and flags.id_column is None and not all(Path(name).is_dir() for name in inputs):
        raise ConfigError("--append needs --id: row numbers would replace the rows that are in the store with these numbers")
