"""A job over fragments of its inputs, whose output is a folder of Parquet shards: on this machine or in an object store.

Its state is in the output: a manifest, the shards with their receipts, and a mark when all is complete. Nothing is renamed,
because object stores cannot; files appear whole, one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import filelock
import msgspec

from edgeembed.bulk.computed import described
from edgeembed.bulk.embedders import Embedder, EmbedderInfo
from edgeembed.bulk.fragment_shards import (
    CONCURRENT_FRAGMENTS,
    REJECTS,
    FragmentReceipt,
    FragmentWork,
    chunker_of,
    columns_of,
    compute,
    concurrently,
)
from edgeembed.bulk.fragments import Fragment, plan, read_fragment
from edgeembed.bulk.fragments import kept_types as types_of
from edgeembed.bulk.inputs import Cursor, InputFormat
from edgeembed.bulk.job import JobListener, JobResult
from edgeembed.bulk.places import Place, PlaceFile
from edgeembed.bulk.records import Position
from edgeembed.bulk.shards import (
    MARKS,
    WORK,
    IdKind,
    JobManifest,
    JobRules,
    Refused,
    cut,
    is_shard,
    kept_types,
    kind_of,
    require_hope,
)
from edgeembed.bulk.tables import import_pyarrow
from edgeembed.bulk.writers import join_tables
from edgeembed.common.progress import ReportLine
from edgeembed.config.settings import Settings
from edgeembed.errors import ConfigError, EdgeEmbedError
from edgeembed.inference.chunking import ChunkRules
from edgeembed.models.profiles import DEFAULT_BATCH_TOKENS

JOINED_REJECTS = 100_000
"""So many refused rows are put into one file at the end; more stay in those of their shards."""
SINGLE_FILE_BYTES = 2 * 2**30
"""A larger output stays in its shards: one file of it would pass through this process."""

T = TypeVar("T")


class Finished(msgspec.Struct, frozen=True):
    """The mark of complete output. first: of the refused rows."""

    rows: int
    refused: int
    rejects: str = ""
    """Where the refused rows are."""


class DatasetJob(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. output: the folder of the shards. single: the file in which they are joined at the end.

    resume, overwrite, strict: as in `edgeembed.bulk.job.Job`.
    """

    inputs: Sequence[str]
    output: Place
    rules: JobRules
    single: Place | None = None
    input_format: InputFormat | None = None
    resume: bool = False
    overwrite: bool = False
    strict: bool = False

    @property
    def title(self) -> str:
        """The output as messages name it."""
        return (self.single or self.output).name

    def manifest(self) -> JobManifest | None:
        """Return what is recorded of the job in the output. Raises OSError, ConfigError."""
        return _decoded(self.output.child(f"{WORK}/manifest.json"), JobManifest)

    def finished(self) -> Finished | None:
        """Return the mark of complete output. Raises OSError, ConfigError."""
        if self.single is not None:
            if self.manifest() is not None:
                return None  # what is there is of the output that is being replaced
            rejects = self._rejects(self.single)
            refused = 0 if rejects.status() is None else 1
            return Finished(0, refused, rejects.name) if self.single.status() else None
        other, _ = MARKS
        if not self.output.is_remote and self.output.child(f"{WORK}/{other}").status() is not None:
            rejects = self.output.child(f"{WORK}/rejects.jsonl")
            return Finished(0, 0 if rejects.status() is None else 1, rejects.name)
        return _decoded(self._mark, Finished)

    @property
    def _mark(self) -> Place:
        return self.output.child(f"{WORK}/{MARKS[1]}")

    def _rejects(self, single: Place) -> Place:
        return Place.of(f"{single.name.removesuffix(single.suffix)}.rejects.jsonl")

    def settings(self, settings: Settings) -> Settings:
        """Return settings whose rows do not depend on the machine: a batch size that was tuned on one would change others'.

        A job that is resumed keeps its batch size.
        """
        found = self.manifest() if self.resume else None
        tokens = (found and found.batch_tokens) or settings.batch_tokens or DEFAULT_BATCH_TOKENS
        return msgspec.structs.replace(settings, batch_tokens=tokens)

    def begin(self, plan: Plan, info: EmbedderInfo, chunks: ChunkRules, watch: JobListener) -> JobManifest:
        """Record the job, or check that it continues the one that is recorded. Returns what is recorded.

        Only now is earlier output dropped: the model answers, the inputs are read. chunks: as far as the model takes them.
        Raises OSError, EdgeEmbedError.
        """
        rules = self.rules
        if plan.chunks and chunks != rules.chunks:
            watch.note(f"chunks have at most {chunks.tokens} tokens, because {info.model} takes {info.context_tokens}")
            rules = msgspec.structs.replace(rules, chunks=chunks)
        expected = plan.manifest(rules, info)
        found = self.manifest()
        watch.begin(0, 0, plan.bytes)
        if found is not None and self.resume and self.finished() is None:
            found.require_same(expected)
            if difference := found.last_digits(expected):
                watch.note(difference)
            return found
        if found is not None:
            self.clear()
        self.output.child(f"{WORK}/manifest.json").write_bytes(msgspec.json.encode(expected))
        return expected

    def require_apart(self) -> None:
        """Raise ConfigError if the job would read what it writes, or write what it reads."""
        for source in map(Place.of, self.inputs):
            for place in (self.output, *([self.single] if self.single else [])):
                if place.contains(source):
                    raise ConfigError(f"the input {source} is in {place}, where the job writes; choose another output")
                if source.contains(place) and self.input_format in (None, "parquet"):
                    raise ConfigError(f"{place} would be in {source}, whose files are inputs; choose another output")

    def require_free(self) -> None:
        """Raise ConfigError if there is output, or a job, that must not be dropped, or what edgeembed has not written."""
        unfinished = self.manifest() is not None
        finished = self.finished() is not None
        if not self.overwrite:
            if finished:
                raise ConfigError(f"{self.title} exists already; replace it with --overwrite or choose another output")
            if unfinished and not self.resume:
                raise ConfigError(
                    f"{self.title} has an unfinished job; run the command that began it with --resume, or start again with "
                    "--overwrite"
                )
        for file in () if unfinished else self._files():
            raise ConfigError(
                f"{self.output.name} contains {file.relative}, which is not of this job; choose another folder"
            )

    def clear(self) -> None:
        """Remove the job and its shards. Raises OSError, ConfigError for what edgeembed has not written."""
        shards = self._files()
        for file in shards:
            if not is_shard(file.relative):
                raise ConfigError(f"{self.output.name} contains {file.relative}, which edgeembed has not written")
        # A run that is killed between the first two and the last one leaves an unfinished job.
        work, manifest = self.output.child(WORK), self.output.child(f"{WORK}/manifest.json")
        for mark in MARKS:
            work.child(mark).remove()
        for file in (*shards, *_files_below(work)):
            if file.place != manifest:
                file.place.remove()
        manifest.remove()

    def finish(self, manifest: JobManifest, totals: Totals) -> tuple[JobResult, str]:
        """Join what is small, and mark the output as complete. Returns the outcome, and where refused rows are listed.

        Raises OSError, EdgeEmbedError if there is no vector.
        """
        self._require_alone(manifest, totals)
        listed = self._join_rejects(totals)
        if not totals.rows:
            reason = "the inputs have no texts"
            if totals.first is not None:
                where, why = totals.first.where, totals.first.reason
                reason = f"all {totals.refused:,} rows were refused, the first ({where}) because: {why}; see {listed}"
            raise EdgeEmbedError(f"nothing was embedded: {reason}")
        if self.single is not None:
            self._join(self.single, manifest)
            self.clear()
        else:
            self._mark.write_bytes(msgspec.json.encode(Finished(totals.rows, totals.refused, listed)))
        result = JobResult(
            rows=totals.rows,
            refused=totals.refused,
            first_refused=totals.first,
            before=totals.before,
            computed=described(manifest.rules.outputs, manifest.widths | {"dense": manifest.dimensions}),
        )
        return result, listed

    def _require_alone(self, manifest: JobManifest, totals: Totals) -> None:
        """Raise ConfigError unless the output has all shards of this job, and no others: stores have no locks."""
        if self.manifest() != manifest:
            raise ConfigError(
                f"another job began in {self.output.name} before this one was done; let one of them end, then start the one "
                "that you want again with --overwrite"
            )
        count = sum(is_shard(file.relative) for file in self._files())
        if count != totals.shards:
            remedy = "continue with --resume" if count < totals.shards else "start again with --overwrite"
            raise ConfigError(
                f"{self.output.name} has {count:,} shards, but this job has {totals.shards:,}: another one has written or "
                f"removed some; {remedy} when no other job is running there"
            )

    def _files(self) -> list[PlaceFile]:
        """Return the shards, in order."""
        return _files_below(self.output)

    def _join_rejects(self, totals: Totals) -> str:
        """Put the refused rows into one file if they are few. Returns the name of the file, or of the shards' folder."""
        whole = self._rejects(self.single) if self.single else self.output.child(f"{WORK}/rejects.jsonl")
        if not totals.refused:
            if self.single:
                whole.remove()  # of the output that is replaced
            return ""
        if totals.refused > JOINED_REJECTS:
            return self.output.child(REJECTS).name
        whole.write_bytes(b"".join(file.place.read_bytes() or b"" for file in _files_below(self.output.child(REJECTS))))
        return whole.name

    def _join(self, single: Place, manifest: JobManifest) -> None:
        shards = self._files()
        size = sum(file.status.size or 0 for file in shards)
        if size > SINGLE_FILE_BYTES:
            raise ConfigError(
                f"the shards have {size / 2**30:.1f} GiB, too much for --single-file, which takes "
                f"{SINGLE_FILE_BYTES / 2**30:.0f}; they are complete in {self.output.name}, and are read as one table there"
            )
        stream = import_pyarrow().BufferOutputStream()
        join_tables((file.place.open_arrow() for file in shards), stream, manifest)
        single.write_bytes(memoryview(stream.getvalue()))


class Plan(NamedTuple):
    """The fragments of a job, and what the first of them decides for all."""

    fragments: list[Fragment]
    prints: list[str]
    """For each input a string that changes when the input does."""
    ids: IdKind
    kept: dict[str, str]
    chunks: bool
    """Whether texts are cut into chunks."""

    @property
    def bytes(self) -> int:
        return sum(fragment.bytes for fragment in self.fragments)

    def manifest(self, rules: JobRules, info: EmbedderInfo) -> JobManifest:
        """Return what is recorded of a job with this plan."""
        return JobManifest(
            inputs=self.prints,
            rules=rules,
            model=info.model,
            digest=info.digest,
            type=info.type,
            dimensions=info.dimensions,
            widths={output: width for output, width in info.widths.items() if output != "dense"},
            ids=self.ids,
            batch_tokens=info.batch_tokens,
            engine=info.engine,
            kept=self.kept,
            fragments=True,
        )


def planned(job: DatasetJob) -> Plan:
    """Divide the inputs into fragments, and read the head of the first one. Raises OSError, ConfigError."""
    rules, columns = job.rules, columns_of(job.rules)
    fragments = plan(job.inputs, job.input_format, columns)
    if not fragments:
        raise ConfigError("the inputs have no texts")
    first = fragments[0]
    # As if each word were a token: no model is loaded yet, and only ids and kept columns are looked at.
    chunker = chunker_of(first, rules, lambda words: [1] * len(words))
    head = cut(read_fragment(first, columns, chunker), 0, Cursor(first.input, first.start), rules)
    if head is not None:
        require_hope(head)
    digests: dict[int, Any] = {}
    for fragment in fragments:
        digest = digests.setdefault(fragment.input, hashlib.sha256())
        parts = [fragment.relative, fragment.version, fragment.start, fragment.end, fragment.prefix]
        digest.update(msgspec.json.encode(parts))
    found = types_of(first, columns)
    return Plan(
        fragments,
        [digest.hexdigest() for digest in digests.values()],
        "string" if head is None else kind_of(head),
        found if head is None else kept_types(head, rules, found),
        rules.chunk_rows or any(fragment.chunks for fragment in fragments),
    )


@contextlib.contextmanager
def claimed(job: DatasetJob) -> Iterator[None]:
    """Check that the output may be written, and lock it where it is a local folder. Raises OSError, ConfigError."""
    job.require_apart()
    if job.output.is_remote:
        # No lock: two runs of one job write the same bytes under the same names, and `finish` notices another job.
        job.require_free()
        yield
        return
    folder = job.output.local
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.parent / f".{folder.name}.lock"
    try:
        with filelock.FileLock(lock, timeout=0):
            try:
                job.require_free()
                yield
            finally:
                with contextlib.suppress(OSError):  # Windows cannot remove an open file; it is removed on release
                    lock.unlink()
    except filelock.Timeout as error:
        raise ConfigError(f"another process is writing {job.title}; wait until it is done") from error


class Totals:
    """Sums receipts."""

    def __init__(self, engine: str, note: ReportLine) -> None:
        """engine: that was described when this run began. note: called once for each other one that computes."""
        self.rows = self.refused = self.before = self.shards = 0
        self._first: FragmentReceipt | None = None
        self._engine = engine
        self._engines = {"", engine}
        self._note = note

    @property
    def first(self) -> Refused | None:
        """The first row that was refused, in the order of the inputs."""
        return self._first.first if self._first else None

    def add(self, receipt: FragmentReceipt) -> None:
        """Add a fragment."""
        self.rows += receipt.rows
        self.refused += receipt.refused
        self.before += receipt.before
        self.shards += receipt.shards
        if receipt.first is not None and (self._first is None or receipt.place < self._first.place):
            self._first = receipt
        if receipt.engine not in self._engines:
            self._engines.add(receipt.engine)
            self._note(
                f"shards were computed by different engines ({self._engine}; {receipt.engine}): the last digits of their "
                "vectors may differ"
            )


async def run_here(
    work: FragmentWork, fragments: Sequence[Fragment], embedder: Embedder, watch: JobListener
) -> AsyncIterator[FragmentReceipt]:
    """Compute fragments with one embedder, and yield their receipts. Raises EdgeEmbedError, OSError."""
    limit = asyncio.Semaphore(embedder.info.max_requests)

    async def ready(_start: Position) -> Embedder:
        return embedder

    async def jobs() -> AsyncIterator[Coroutine[Any, Any, FragmentReceipt]]:
        for fragment in fragments:
            yield compute(work, fragment, ready, limit, watch.add)

    async for receipt in concurrently(jobs(), CONCURRENT_FRAGMENTS):
        yield receipt


def _files_below(folder: Place) -> list[PlaceFile]:
    try:
        return folder.files()
    except FileNotFoundError:
        return []


def _decoded(place: Place, type_: type[T]) -> T | None:
    content = place.read_bytes()
    try:
        return None if content is None else msgspec.json.decode(content, type=type_)
    except ValueError as error:
        raise ConfigError(f"cannot read {place.name} ({error}); empty that folder, or choose another output") from error
