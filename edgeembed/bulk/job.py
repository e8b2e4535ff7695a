"""Runs a job: reads, embeds and writes the shards that are not finished yet, then puts them together."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Protocol

import filelock
import msgspec

from edgeembed.bulk.computed import described
from edgeembed.bulk.embedders import Embedder, counter, fitted_rules
from edgeembed.bulk.embedding import embed_shard
from edgeembed.bulk.inputs import Columns, Cursor, InputFormat, Inputs, Step, holds_texts, open_inputs, require_files
from edgeembed.bulk.outputs import Output
from edgeembed.bulk.shards import (
    JobManifest,
    JobRules,
    Receipt,
    Refused,
    Shard,
    WorkFolder,
    cut,
    kept_types,
    kind_of,
    require_hope,
    require_none,
    with_ids,
    with_kept,
)
from edgeembed.bulk.sinks import Sink
from edgeembed.bulk.writers import ShardRows
from edgeembed.common.files import describe_os_error
from edgeembed.errors import ConfigError, EdgeEmbedError
from edgeembed.inference.chunking import Chunker, WordTokens

MIN_CONCURRENT_SHARDS = 2
"""The end of a shard overlaps with the start of the next one, so that the embedder is never idle."""
REQUESTS_PER_SHARD = 16
"""At least, for a full shard; where many concurrent requests keep the embedder busy, more shards are computed at a time."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. inputs: as the user names them.

    resume: continue an unfinished job. overwrite: replace complete output, or without `resume` an unfinished job. strict:
    end with the first row that cannot be embedded.
    """

    inputs: Sequence[str]
    output: Output
    rules: JobRules
    input_format: InputFormat | None = None
    resume: bool = False
    overwrite: bool = False
    strict: bool = False

    @property
    def has_chunks(self) -> bool:
        """Whether texts are cut into chunks: the rows of all inputs, or the text files of folders."""
        folders = self.input_format is None and any(name != "-" and holds_texts(name) for name in self.inputs)
        return self.rules.chunk_rows or folders

    @property
    def anew(self) -> bool:
        """Whether an unfinished job is dropped."""
        return self.overwrite and not self.resume


class JobResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a job. before: how many of the rows an earlier run made. computed: what they hold, for people.

    first_refused: None when no row was refused.
    """

    rows: int
    refused: int
    first_refused: Refused | None
    before: int
    computed: str


class JobListener(Protocol):
    """Shows the progress of a job."""

    def begin(self, texts: int, done_bytes: int, all_bytes: int | None) -> None:
        """Start with what an earlier run finished. all_bytes: the size of all inputs; None when unknown."""
        ...

    def note(self, line: str) -> None:
        """Show a message."""
        ...

    def add(self, texts: int, read_bytes: float) -> None:
        """Count texts that were embedded, and the bytes of the inputs that they took."""
        ...

    def assembling(self) -> None:
        """Note that all vectors are computed and are being written to one file."""
        ...


def batch_tokens_of(job: Job) -> int | None:
    """Return the batch size that the job to be resumed began with; None when there is no such job, or it is unknown."""
    work = job.output.work()
    return work.manifest().batch_tokens or None if work.began and job.resume else None


def check_inputs(job: Job) -> None:
    """Read the beginning of each input, before a model is loaded for it.

    Raises ConfigError for what cannot be read, and for columns that the inputs lack.
    """
    rules = job.rules
    columns = Columns(rules.column, rules.id_column, rules.keep_columns)
    # As if each word were a token: no model is loaded yet, and only columns are looked at.
    chunker = Chunker(rules.chunks, WordTokens(lambda words: [1] * len(words)))
    open_inputs(job.inputs, job.input_format, columns, chunker).check()
    if rules.keep_columns and "-" not in job.inputs:  # which can be read only once
        inputs = open_inputs(job.inputs, job.input_format, columns, chunker, chunk_rows=rules.chunk_rows)
        first = cut(inputs.read(Cursor()), 0, Cursor(), rules)
        if first is not None:
            kept_types(first, rules, inputs.kept_types())


@contextlib.contextmanager
def claimed(job: Job) -> Iterator[None]:
    """Create and lock the job's folder.

    Raises:
        ConfigError: Another process holds it, output exists already or is a device, or an input is missing or among the
            output's files.
    """
    output = job.output
    require_files(job.inputs)
    output.require_apart(job.inputs, job.input_format)
    output.require_replaceable()
    try:
        output.path.parent.mkdir(parents=True, exist_ok=True)
        lock = output.path.parent / f".{output.path.name}.lock"
        with filelock.FileLock(lock, timeout=0):
            try:
                _require_free(job)
                output.work().folder.mkdir(parents=True, exist_ok=True)
                yield
            finally:
                output.remove_empty()
                with contextlib.suppress(OSError):  # Windows cannot remove an open file; it is removed on release
                    lock.unlink()
    except filelock.Timeout as error:
        raise ConfigError(f"another process is writing {output.title}; wait until it is done") from error
    except OSError as error:
        raise ConfigError(f"cannot write {describe_os_error(error, output.path)}") from error


def _require_free(job: Job) -> None:
    """Tidy up after a run that was killed. Raises ConfigError if there is output, or a job, that must not be dropped."""
    output = job.output
    output.recover()
    began = output.work().began
    if job.overwrite:
        output.require_ours()
    elif began and not job.resume:
        raise ConfigError(
            f"{output.title} has an unfinished job; run the command that began it with --resume, or start again with "
            "--overwrite"
        )
    elif output.finished and not began and not job.rules.append:
        add = ", add to it with --append" if job.rules.store else ""
        raise ConfigError(f"{output.title} exists already; replace it with --overwrite{add} or choose another output")


async def run(job: Job, embedder: Embedder, watch: JobListener) -> JobResult:
    """Run a job, or the rest of one, that the caller has claimed. Raises EdgeEmbedError."""
    job = await _fitted(job, embedder, watch)
    rules = job.rules
    inputs = open_inputs(
        job.inputs,
        job.input_format,
        Columns(rules.column, rules.id_column, rules.keep_columns),
        Chunker(rules.chunks, WordTokens(counter(embedder))),
        chunk_rows=rules.chunk_rows,
    )
    run_ = _Run(job, embedder, watch, inputs)
    try:
        await run_.prepare()
        await run_.embed()
        return await run_.finish()
    finally:
        run_.close()


async def _fitted(job: Job, embedder: Embedder, watch: JobListener) -> Job:
    """Return the job with chunks that are no longer than the model takes. Raises EdgeEmbedError."""
    rules, info = job.rules, embedder.info
    chunks = await fitted_rules(rules.chunks, embedder) if await asyncio.to_thread(lambda: job.has_chunks) else rules.chunks
    if chunks == rules.chunks:
        return job
    watch.note(f"chunks have at most {chunks.tokens} tokens, because {info.model} takes {info.context_tokens}")
    return msgspec.structs.replace(job, rules=msgspec.structs.replace(rules, chunks=chunks))


class _Run:
    """One run of a job."""

    def __init__(self, job: Job, embedder: Embedder, watch: JobListener, inputs: Inputs) -> None:
        self._job = job
        self._embedder = embedder
        self._watch = watch
        self._inputs = inputs
        self._work: WorkFolder = job.output.work()
        self._sink: Sink = job.output.sink(self._work)
        self._manifest: JobManifest | None = None
        self._limit = asyncio.Semaphore(embedder.info.max_requests)
        self._concurrent_shards = max(MIN_CONCURRENT_SHARDS, 1 + -(-embedder.info.max_requests // REQUESTS_PER_SHARD))
        self._before = 0
        self._engines: set[str] = set()
        """Those besides the first that have computed."""

    async def prepare(self) -> None:
        """Check that what an earlier run left belongs to this job. Raises ConfigError when it does not."""
        info, prints = self._embedder.info, await asyncio.to_thread(self._inputs.fingerprints)
        self._expected = JobManifest(
            inputs=prints,
            rules=self._job.rules,
            model=info.model,
            digest=info.digest,
            dimensions=info.dimensions,
            widths={output: width for output, width in info.widths.items() if output != "dense"},
            ids="string",
            batch_tokens=info.batch_tokens,
            engine=info.engine,
            type=info.type,
        )
        done = 0
        if self._work.began and not self._job.anew:
            self._manifest = self._work.manifest()
            self._manifest.require_same(self._expected)
            if difference := self._manifest.last_digits(self._expected):
                self._watch.note(difference)
            receipts = list(self._work.receipts())
            for number, receipt in receipts:
                self._before += receipt.rows
                done += receipt.bytes
                if receipt.refused and self._job.strict:
                    self._require_none(self._work.first_refused(number))
            await asyncio.to_thread(self._sink.begin, self._manifest, [number for number, _ in receipts])
        self._watch.begin(self._before, done, self._inputs.size_bytes)

    async def embed(self) -> None:
        """Embed and write every shard that is not finished."""
        running: set[asyncio.Task[None]] = set()
        previous: asyncio.Task[None] | None = None
        try:
            async for shard in self._missing():
                previous = asyncio.create_task(self._make(shard, previous if self._sink.ordered else None))
                running.add(previous)
                if len(running) == self._concurrent_shards:
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
            await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def finish(self) -> JobResult:
        """Put the shards together. Raises EdgeEmbedError when there is no vector at all."""
        receipts = list(self._work.receipts()) if self._manifest else []
        rows, refused = sum(receipt.rows for _, receipt in receipts), sum(receipt.refused for _, receipt in receipts)
        output, manifest, work = self._job.output, self._manifest, self._work
        rejects = [file for number, _ in receipts if (file := work.rejects(number)).exists()]
        first = next((work.first_refused(number) for number, receipt in receipts if receipt.refused), None)
        if manifest is None or not rows:
            listed = await asyncio.to_thread(output.join_rejects, work, rejects)
            reason = "the inputs have no texts"
            if first is not None:
                reason = (
                    f"all {refused:,} rows were refused, the first ({first.where}) because: {first.reason}; see {listed}"
                )
            raise EdgeEmbedError(f"nothing was embedded: {reason}")
        if not (output.folder or self._job.rules.store):
            self._watch.assembling()
        note = await asyncio.to_thread(
            self._sink.finish, [number for number, receipt in receipts if receipt.rows], rows, manifest
        )
        if note:
            self._watch.note(note)
        await asyncio.to_thread(output.finish, work, rejects)
        computed = described(manifest.rules.outputs, manifest.widths | {"dense": manifest.dimensions})
        return JobResult(rows=rows, refused=refused, first_refused=first, before=self._before, computed=computed)

    def close(self) -> None:
        """Let go of the output."""
        self._sink.close()

    async def _missing(self) -> AsyncIterator[Shard]:
        """Yield the shards that have no receipt; the others are skipped without being read."""
        number, cursor = 0, Cursor()
        steps: Iterator[Step] | None = None
        while True:
            # Without a manifest, the receipts are those of a job that is about to be dropped.
            if (receipt := self._work.receipt(number) if self._manifest else None) is not None:
                cursor, steps = receipt.after, None
            else:
                steps = steps or self._inputs.read(cursor)
                shard = await asyncio.to_thread(cut, steps, number, cursor, self._job.rules)
                if shard is None:
                    return
                cursor = shard.after
                if self._manifest is None:
                    self._manifest = await asyncio.to_thread(self._begin, shard)
                shard = with_kept(with_ids(shard, self._manifest.ids), self._manifest.kept)
                self._require_none(*shard.refused[:1])
                yield shard
            number += 1

    def _require_none(self, *refused: Refused) -> None:
        """Raise EdgeEmbedError for a row that was refused, if none may be."""
        if self._job.strict:
            require_none(refused)

    def _compare(self, engine: str) -> None:
        """Note, once for each, that another engine computes now than when this run began. engine: "" for the same one."""
        if engine and engine not in self._engines:
            self._engines.add(engine)
            self._watch.note(
                f"engine was {self._embedder.info.engine} and is now {engine}: the last digits of vectors may differ"
            )

    def _begin(self, first: Shard) -> JobManifest:
        """Write the manifest and return it. Only now is an unfinished job dropped: the model answers, the inputs are read.

        Raises ConfigError if the inputs have no texts, as after a typo in the column's name: that job is not lost for
        them, and a new one does not reject every row of large inputs.
        """
        began = self._work.began
        require_hope(first, f"; the unfinished job of {self._job.output.title} is kept" if began else "")
        if began:
            self._job.output.clear_work()
        manifest = msgspec.structs.replace(
            self._expected,
            ids=self._sink.ids() or kind_of(first),
            kept=kept_types(first, self._job.rules, self._inputs.kept_types()),
            job=uuid.uuid4().hex if self._job.rules.store else "",
        )
        self._work.begin(manifest)
        self._sink.begin(manifest, ())
        return manifest

    async def _make(self, shard: Shard, previous: asyncio.Task[None] | None) -> None:
        """Embed a shard and write it, then its receipt. previous: writes the shard that must be written before this one."""
        manifest = self._manifest
        assert manifest is not None, "it is written before the first shard is embedded"
        share = shard.bytes / max(len(shard.rows), 1)
        embedded = await embed_shard(shard, self._embedder, self._limit, lambda texts: self._watch.add(texts, texts * share))
        self._require_none(*embedded.refused[:1])
        self._compare(embedded.computed.engine)
        if previous is not None:
            await asyncio.wait([previous])  # a plain await would cancel it with this task
            previous.result()
        if embedded.rows:
            rows = ShardRows(
                [row.id for row in embedded.rows],
                embedded.computed,
                [row.text for row in embedded.rows] if manifest.rules.with_text else None,
                {name: [row.kept[name] for row in embedded.rows] for name in manifest.kept},
            )
            await asyncio.to_thread(self._sink.write, shard.number, rows, manifest)
        receipt = Receipt(rows=len(embedded.rows), refused=len(embedded.refused), after=shard.after, bytes=shard.bytes)
        self._work.finish(shard.number, receipt, embedded.refused)
