"""Computes fragments of a dataset: reads, embeds and writes their shards, except those that are there already.

A shard and its receipt appear in one step: the receipt is in the footer of the shard's Parquet file, whose name follows from
the fragment and the job. So whoever computes a fragment finds what others have done of it by these names alone.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, NamedTuple, TypeVar

import msgspec

from edgeembed.bulk.embedders import Embedder, counter
from edgeembed.bulk.embedding import embed_shard
from edgeembed.bulk.fragments import Fragment, read_fragment
from edgeembed.bulk.inputs import Columns, Cursor, Step
from edgeembed.bulk.places import Place
from edgeembed.bulk.records import Position
from edgeembed.bulk.shards import WORK, JobManifest, JobRules, Refused, Shard, cut, require_none, with_ids, with_kept
from edgeembed.bulk.tables import import_pyarrow
from edgeembed.bulk.writers import ShardRows, shard_bytes
from edgeembed.errors import ConfigError
from edgeembed.inference.chunking import Chunker, CountTokens, WordTokens

REJECTS = f"{WORK}/rejects"
"""Has a file for each shard with refused rows."""
CONCURRENT_SHARDS = 2
"""Of a fragment: the end of a shard overlaps with the start of the next one, so that the embedder is never idle."""
CONCURRENT_FRAGMENTS = 2
_RECEIPT = b"edgeembed.receipt"

T = TypeVar("T")


class ShardReceipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a shard's file says of it. first: of the refused rows. last: no shard of the fragment follows.

    engine: that computed it, if it is another one than where the job began: the last digits depend on it.
    """

    rows: int
    refused: int
    first: Refused | None = None
    after: Cursor
    last: bool
    engine: str = ""


class FragmentReceipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a fragment. place: of the fragment among all. before: how many of the rows an earlier run made.

    shards: how many it has. engine: that computed one of them, if it is another one than where the job began.
    failed: the part of it at which workers died again and again, and which is missing; empty if it is complete.
    """

    place: tuple[int, int]
    rows: int = 0
    refused: int = 0
    before: int = 0
    bytes: int = 0
    shards: int = 0
    first: Refused | None = None
    engine: str = ""
    failed: str = ""

    def with_shard(self, shard: ShardReceipt, *, before: bool = False) -> FragmentReceipt:
        """Return the receipt with a further shard. before: it was there already."""
        return msgspec.structs.replace(
            self,
            rows=self.rows + shard.rows,
            refused=self.refused + shard.refused,
            before=self.before + (shard.rows if before else 0),
            shards=self.shards + 1,
            first=self.first or shard.first,
            engine=self.engine or shard.engine,
        )


class FragmentWork(NamedTuple):
    """What all fragments of a job have in common. out: the folder of the shards. strict: end with the first refused row."""

    out: Place
    manifest: JobManifest
    strict: bool = False

    def shard(self, fragment: Fragment, number: int) -> str:
        """Return the name of a shard's file, without suffix. Names sort in the order of the inputs."""
        manifest = self.manifest
        decisive = (
            [fragment.relative, fragment.version, fragment.start, fragment.end, fragment.format, fragment.prefix],
            [manifest.rules, manifest.digest or manifest.model, manifest.dimensions, sorted(manifest.widths.items())],
            [manifest.ids, list(manifest.kept.items())],
        )
        digest = hashlib.sha256(msgspec.json.encode(decisive)).hexdigest()[:12]
        return f"part-{fragment.input:05}-{fragment.index:06}-{number:05}-{digest}"

    def receipt(self, fragment: Fragment, number: int) -> ShardReceipt | None:
        """Return the receipt of a shard; None when it is not there. Raises OSError, ConfigError."""
        place = self.out.child(f"{self.shard(fragment, number)}.parquet")
        pa = import_pyarrow()
        try:
            file = place.open_arrow()
        except FileNotFoundError:
            return None
        try:
            with file:
                if not file.size():
                    return None  # begun: of all stores, only Azure shows this
                metadata = pa.parquet.read_metadata(file).metadata
            return msgspec.json.decode(metadata[_RECEIPT], type=ShardReceipt)
        except (pa.ArrowInvalid, KeyError, ValueError) as error:
            raise ConfigError(
                f"{place.name} is not what this job wrote ({error}); remove it and continue with --resume, or start again "
                "with --overwrite"
            ) from error


def columns_of(rules: JobRules) -> Columns:
    """Return which columns of the inputs a job reads."""
    return Columns(rules.column, rules.id_column, rules.keep_columns)


def chunker_of(fragment: Fragment, rules: JobRules, count: CountTokens) -> Chunker | None:
    """Return what cuts the texts of a fragment; None if they stay whole."""
    return Chunker(rules.chunks, WordTokens(count)) if rules.chunk_rows or fragment.chunks else None


async def compute(
    work: FragmentWork,
    fragment: Fragment,
    ready: Callable[[Position], Awaitable[Embedder]],
    limit: asyncio.Semaphore,
    done: Callable[[int, float], None] = lambda _texts, _bytes: None,
) -> FragmentReceipt:
    """Embed and write what is missing of a fragment.

    ready: returns the embedder; called only if there is something to embed, with the position where that begins.
    limit: as in `embed_shard`. done: called with the number of texts that were embedded, and the bytes of the inputs that
    they took.

    Raises EdgeEmbedError, OSError.
    """
    found, number, after, complete = await asyncio.to_thread(_written, work, fragment)
    if complete:
        return found
    embedder = await ready(after.place)
    rules = work.manifest.rules
    chunker = chunker_of(fragment, rules, counter(embedder))
    steps = _Steps(read_fragment(fragment, columns_of(rules), chunker, after.place))

    async def shards() -> AsyncIterator[Coroutine[Any, Any, tuple[int, ShardReceipt]]]:
        at, start, last = number, after, False
        while not last:
            shard, last = await asyncio.to_thread(_next, steps, at, start, rules)
            yield _make(work, fragment, shard, last=last, embedder=embedder, limit=limit, done=done)
            at, start = at + 1, shard.after

    receipts = dict([made async for made in concurrently(shards(), CONCURRENT_SHARDS, in_order=True)])
    for each in sorted(receipts):
        found = found.with_shard(receipts[each])
    return found


async def concurrently(
    jobs: AsyncIterator[Coroutine[Any, Any, T]], most: int, *, in_order: bool = False
) -> AsyncIterator[T]:
    """Run coroutines, some at a time, and yield their results as they come. Raises what one of them raises.

    in_order: yield them in order, so that none is further ahead of one that is not done than `most`.
    """
    running: list[asyncio.Task[T]] = []

    async def done() -> list[asyncio.Task[T]]:
        await asyncio.wait(running[:1] if in_order else running, return_when=asyncio.FIRST_COMPLETED)
        found = running[:1] if in_order else [task for task in running if task.done()]
        running[:] = [task for task in running if task not in found]
        return found

    try:
        async for job in jobs:
            running.append(asyncio.create_task(job))
            if len(running) == most:
                for task in await done():
                    yield task.result()
        while running:
            for task in await done():
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _written(work: FragmentWork, fragment: Fragment) -> tuple[FragmentReceipt, int, Cursor, bool]:
    """Return what is there of a fragment, the number of the next shard, where it begins, and whether there is none."""
    found = FragmentReceipt(place=(fragment.input, fragment.index), bytes=fragment.bytes)
    number, after = 0, Cursor(fragment.input, fragment.start)
    while (receipt := work.receipt(fragment, number)) is not None:
        if work.strict and receipt.first is not None:
            require_none([receipt.first])
        found = found.with_shard(receipt, before=True)
        number, after = number + 1, receipt.after
        if receipt.last:
            return found, number, after, True
    return found, number, after, False


class _Steps:
    """The records of a fragment; tells whether there are more."""

    def __init__(self, steps: Iterator[Step]) -> None:
        self._steps = steps
        self._next: Step | None = None

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        if self._next is None:
            return next(self._steps)
        found, self._next = self._next, None
        return found

    @property
    def ended(self) -> bool:
        if self._next is None:
            self._next = next(self._steps, None)
        return self._next is None


def _next(steps: _Steps, number: int, start: Cursor, rules: JobRules) -> tuple[Shard, bool]:
    """Return the next shard of a fragment, an empty one of a fragment without records, and whether it is the last one."""
    shard = cut(steps, number, start, rules) or Shard(number, [], [], start, 0)
    return shard, steps.ended


async def _make(
    work: FragmentWork,
    fragment: Fragment,
    shard: Shard,
    *,
    last: bool,
    embedder: Embedder,
    limit: asyncio.Semaphore,
    done: Callable[[int, float], None],
) -> tuple[int, ShardReceipt]:
    """Embed a shard and write it with its receipt, after its rejects. Returns its number and the receipt."""
    manifest = work.manifest
    shard = with_kept(with_ids(shard, manifest.ids), manifest.kept)
    share = shard.bytes / max(len(shard.rows), 1)
    embedded = await embed_shard(shard, embedder, limit, lambda texts: done(texts, texts * share))
    if work.strict:
        require_none(embedded.refused)
    rows = ShardRows(
        [row.id for row in embedded.rows],
        embedded.computed,
        [row.text for row in embedded.rows] if manifest.rules.with_text else None,
        {name: [row.kept[name] for row in embedded.rows] for name in manifest.kept},
    )
    engine = embedded.computed.engine or embedder.info.engine
    receipt = ShardReceipt(
        rows=len(embedded.rows),
        refused=len(embedded.refused),
        first=embedded.refused[0] if embedded.refused else None,
        after=shard.after,
        last=last,
        engine=engine if embedded.rows and engine != manifest.engine else "",
    )
    name = work.shard(fragment, shard.number)

    def write() -> None:
        if embedded.refused:
            lines = b"".join(msgspec.json.encode(each) + b"\n" for each in embedded.refused)
            work.out.child(f"{REJECTS}/{name}.jsonl").write_bytes(lines)
        content = shard_bytes(rows, manifest, {_RECEIPT.decode(): msgspec.json.encode(receipt)})
        work.out.child(f"{name}.parquet").write_bytes(content)

    await asyncio.to_thread(write)
    return shard.number, receipt


__all__ = [
    "CONCURRENT_FRAGMENTS",
    "REJECTS",
    "WORK",
    "FragmentReceipt",
    "FragmentWork",
    "compute",
    "concurrently",
]
