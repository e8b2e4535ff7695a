"""Runs `edgeembed embed` where inputs or output are URIs, or where a Ray cluster computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeembed.cli.embed_flags import EmbedFlags, embed_options, rules_of
from edgeembed.cli.embed_summary import EXIT_REJECTS, end_with_rejects, summary
from edgeembed.cli.printing import to_stderr

if TYPE_CHECKING:
    from edgeembed.bulk.cluster import ClusterRules
    from edgeembed.bulk.dataset_job import DatasetJob
    from edgeembed.bulk.embedders import EmbedderInfo, EmbedOptions
    from edgeembed.bulk.job import JobResult
    from edgeembed.bulk.progress import JobProgress
    from edgeembed.config.resolution import Resolved


def is_dataset(inputs: tuple[str, ...], output: str, flags: EmbedFlags) -> bool:
    """Return whether a job is one over fragments, and not over the records of local files."""
    from edgeembed.bulk.places import is_uri

    if flags.engine == "ray" or flags.single_file:
        return True
    # A database has a URI, too; it takes the records of any inputs, one after another.
    return not _is_store(output) and any(is_uri(name) for name in (output, *inputs))


def _is_store(output: str) -> bool:
    from edgeembed.bulk.stores.faiss_index import named_by
    from edgeembed.bulk.stores.targets import Target

    return Target.parse(output) is not None or named_by(output) is not None


def embed_dataset(inputs: tuple[str, ...], output: str, flags: EmbedFlags, model: str | None, resolved: Resolved) -> None:
    """Run a job over fragments, as `embed_files` runs the others."""
    from edgeembed.bulk.tables import import_pyarrow

    import_pyarrow()
    cluster = None
    if flags.engine == "ray":
        from edgeembed.bulk.cluster import import_ray

        import_ray()  # fails before any file is written
        cluster = _cluster_rules(flags)
    job = _job_of(inputs, output, flags)
    if job.resume and not job.overwrite and (finished := job.finished()) is not None:
        to_stderr(f"{job.title} is complete; nothing to do")
        if finished.refused:
            to_stderr(f"rows that could not be embedded are listed in {finished.rejects}")
            raise SystemExit(EXIT_REJECTS)
        return
    result, listed = _run(job, embed_options(flags, model), resolved, in_process=flags.no_daemon, cluster=cluster)
    end_with_rejects(result, listed)


def _job_of(inputs: tuple[str, ...], output: str, flags: EmbedFlags) -> DatasetJob:
    from edgeembed.bulk.dataset_job import DatasetJob
    from edgeembed.bulk.places import Place
    from edgeembed.errors import ConfigError

    if _is_store(output):
        raise ConfigError("stores take their rows from this machine; write a folder of Parquet files, as in -o vectors/")
    if flags.append:
        raise ConfigError("--append is for stores; files are written whole")
    if "-" in inputs:
        raise ConfigError("standard input cannot be divided into fragments; name files or URIs")
    place = Place.of(output)
    single = None
    if flags.single_file:
        if place.suffix.lower() != ".parquet":
            raise ConfigError("--single-file writes Parquet; name a .parquet file with -o")
        single, place = place, Place.of(f"{output}.parts")
    elif place.suffix.lower() in (".parquet", ".arrow", ".feather", ".jsonl", ".ndjson", ".npy") and not output.endswith(
        "/"
    ):
        raise ConfigError(
            "the output is a folder of Parquet files here, as in -o vectors/; for one .parquet file of a small job, add "
            "--single-file"
        )
    return DatasetJob(
        inputs=inputs,
        output=place,
        single=single,
        rules=rules_of(flags, "parquet"),
        input_format=flags.input_format,
        resume=flags.resume,
        overwrite=flags.overwrite,
        strict=flags.strict,
    )


def _cluster_rules(flags: EmbedFlags) -> ClusterRules:
    from edgeembed.bulk.cluster import ClusterRules

    return ClusterRules(flags.ray_address, flags.workers, flags.cpus_per_worker, flags.gpus_per_worker)


def _run(
    job: DatasetJob, options: EmbedOptions, resolved: Resolved, *, in_process: bool, cluster: ClusterRules | None
) -> tuple[JobResult, str]:
    """Returns the outcome, and where refused rows are listed."""
    import asyncio

    from edgeembed.bulk.dataset_job import claimed
    from edgeembed.bulk.progress import JobProgress

    with claimed(job), JobProgress(to_stderr) as progress:
        try:
            if cluster is not None:
                result, listed = _on_cluster(job, options, resolved, cluster, progress)
            else:
                result, listed = asyncio.run(_here(job, options, resolved, progress, in_process=in_process))
        except KeyboardInterrupt:
            progress.close()
            to_stderr("interrupted; to continue, run the same command with --resume")
            raise SystemExit(130) from None
    to_stderr(summary(job.title, job.rules.dtype, None, result, progress))
    return result, listed


def _on_cluster(
    job: DatasetJob, options: EmbedOptions, resolved: Resolved, rules: ClusterRules, progress: JobProgress
) -> tuple[JobResult, str]:
    from edgeembed.bulk.cluster import connected_cluster
    from edgeembed.bulk.dataset_job import Totals, planned
    from edgeembed.bulk.fragment_shards import FragmentWork

    settings = job.settings(resolved.settings)
    plan = planned(job)
    with connected_cluster(rules, settings, options, to_stderr) as cluster:
        info, chunks = cluster.describe(job.rules.chunks)
        manifest = job.begin(plan, info, chunks, progress)
        totals = Totals(info.engine, progress.note)
        progress.note(_announcement(info, cluster.description))
        for receipt in cluster.compute(FragmentWork(job.output, manifest, job.strict), plan.fragments):
            totals.add(receipt)
            progress.add(receipt.rows - receipt.before, receipt.bytes)
    return job.finish(manifest, totals)


async def _here(
    job: DatasetJob, options: EmbedOptions, resolved: Resolved, progress: JobProgress, *, in_process: bool
) -> tuple[JobResult, str]:
    import asyncio
    import dataclasses

    from edgeembed.bulk.dataset_job import Totals, planned, run_here
    from edgeembed.bulk.embedders import fitted_rules, open_embedder
    from edgeembed.bulk.fragment_shards import FragmentWork

    resolved = dataclasses.replace(resolved, settings=job.settings(resolved.settings))
    plan = await asyncio.to_thread(planned, job)
    async with open_embedder(resolved, options, to_stderr, in_process=in_process) as embedder:
        chunks = await fitted_rules(job.rules.chunks, embedder)
        manifest = await asyncio.to_thread(job.begin, plan, embedder.info, chunks, progress)
        totals = Totals(embedder.info.engine, progress.note)
        progress.note(_announcement(embedder.info, embedder.info.description))
        async for receipt in run_here(FragmentWork(job.output, manifest, job.strict), plan.fragments, embedder, progress):
            totals.add(receipt)
    return await asyncio.to_thread(job.finish, manifest, totals)


def _announcement(info: EmbedderInfo, computed_by: str) -> str:
    from edgeembed.bulk.computed import described

    return f"embedding with {info.model} ({described(info.outputs, info.widths)}), computed by {computed_by}"
