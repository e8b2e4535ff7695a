"""Runs `edgeembed embed` for whole files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeembed.cli.embed_dataset import embed_dataset, is_dataset
from edgeembed.cli.embed_flags import EmbedFlags, computed_outputs, embed_options, job_of, require_storable
from edgeembed.cli.embed_summary import EXIT_REJECTS, end_with_rejects, summary
from edgeembed.cli.printing import to_stderr

if TYPE_CHECKING:
    from edgeembed.bulk.embedders import EmbedOptions
    from edgeembed.bulk.job import Job, JobResult
    from edgeembed.bulk.progress import JobProgress
    from edgeembed.config.resolution import Resolved


def embed_files(inputs: tuple[str, ...], output: str, flags: EmbedFlags, model: str | None, resolved: Resolved) -> None:
    from edgeembed.bulk.stores.output import output_of
    from edgeembed.engine.interface import DENSE
    from edgeembed.errors import ConfigError

    if flags.overlap >= flags.chunk_tokens:
        raise ConfigError("--overlap must be less than --chunk-tokens")
    if flags.literal:
        raise ConfigError("--text is for texts on the command line, but -o for whole files; leave one of them out")
    if is_dataset(inputs, output, flags):
        embed_dataset(inputs, output, flags, model, resolved)
        return
    out = output_of(output, append=flags.append)
    require_storable(inputs, out, flags)
    if flags.keep_columns and out.format == "npy":
        raise ConfigError(".npy files hold only numbers; use .parquet, .arrow or .jsonl with --keep-columns")
    if flags.with_text and out.format == "npy":
        raise ConfigError(".npy files hold only numbers; use .parquet, .arrow or .jsonl with --with-text")
    if out.format == "npy" and computed_outputs(flags) != DENSE:
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
    options = embed_options(flags, model)
    _run_job(job_of(inputs, out, flags), options, resolved, in_process=flags.no_daemon)


def _run_job(job: Job, options: EmbedOptions, resolved: Resolved, *, in_process: bool) -> None:
    import asyncio
    import dataclasses

    import msgspec

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
        async with open_embedder(resolved, options, to_stderr, in_process=in_process) as embedder:
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
    to_stderr(summary(job.output.title, job.rules.dtype, job.output.size_bytes, result, progress))
    end_with_rejects(result, str(job.output.rejects))
