"""What a job writes its shards to: files that are put together at the end, or a store that takes each shard as it is."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from edgeembed.bulk.kept import arrow_type
from edgeembed.bulk.shards import IdKind, JobManifest, WorkFolder
from edgeembed.bulk.stores.interface import Store, StoreInfo, StoreRows
from edgeembed.bulk.stores.targets import Target, kind_of
from edgeembed.bulk.tables import import_pyarrow
from edgeembed.bulk.writers import ShardRows, assemble, write_shard
from edgeembed.errors import ConfigError


class Sink(Protocol):
    """Takes the shards of one run of a job. Its methods block; one is called at a time if it is `ordered`."""

    ordered: bool
    """Whether shards have to be written in their order."""

    def ids(self) -> IdKind | None:
        """Return the type that all ids must have; None if the job decides. Raises ConfigError."""
        ...

    def begin(self, manifest: JobManifest, finished: Sequence[int]) -> None:
        """Prepare for the shards of a job. finished: numbers of those written by earlier runs. Raises ConfigError."""
        ...

    def write(self, number: int, rows: ShardRows, manifest: JobManifest) -> None:
        """Write a shard, of which a killed run may have written a part or all. Raises OSError, ConfigError."""
        ...

    def finish(self, numbers: Sequence[int], rows: int, manifest: JobManifest) -> str | None:
        """Complete the output. Returns a line for people, if there is something to tell. Raises OSError, ConfigError.

        numbers: of the shards that have rows. rows: their total.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


class FileSink:
    """Writes a file for each shard, and one of all shards at the end unless the output is a folder."""

    ordered = False

    def __init__(self, path: Path | None, suffix: str, work: WorkFolder) -> None:
        """path: of the whole; None for a folder of shards."""
        self._path = path
        self._suffix = suffix
        self._work = work

    def ids(self) -> IdKind | None:
        return None

    def begin(self, manifest: JobManifest, finished: Sequence[int]) -> None:
        pass

    def write(self, number: int, rows: ShardRows, manifest: JobManifest) -> None:
        write_shard(self._work.shard(number, self._suffix), rows, manifest)

    def finish(self, numbers: Sequence[int], rows: int, manifest: JobManifest) -> str | None:
        if self._path is not None:
            assemble([self._work.shard(number, self._suffix) for number in numbers], rows, self._path, manifest)
        return None

    def close(self) -> None:
        pass


class StoreSink:
    """Puts the rows of shards into a store. A shard that is put twice has the same ids, so that no row is there twice.

    Shards are put in their order: of rows with the same id the last one stays, as in an unbroken run.
    """

    ordered = True

    def __init__(self, target: Target, *, append: bool) -> None:
        """append: add to a store that exists, instead of replacing it."""
        self._target = target
        self._append = append
        self._store: Store | None = None
        self._lock = threading.Lock()
        """A job that is cancelled closes the store, while a thread may still be putting rows."""

    def ids(self) -> IdKind | None:
        kind = kind_of(self._target)
        if not (self._append and kind.exists(self._target)):
            return None
        store = kind.open(self._target)
        try:
            return store.info.ids
        finally:
            store.close()

    def begin(self, manifest: JobManifest, finished: Sequence[int]) -> None:
        kind, target = kind_of(self._target), self._target
        exists = kind.exists(target)
        store = kind.open(target) if exists else None
        if store is not None and (self._append or store.info.job == manifest.job):
            self._store = store
            self._require_fitting(store.info, manifest)
        elif finished:
            if store is not None:
                store.close()
            raise ConfigError(
                f"{target} is not the store that the unfinished job wrote to; start again with --overwrite, without --resume"
            )
        else:
            if store is not None:
                store.close()
                kind.drop(target)
            self._store = kind.create(target, info_of(manifest))

    def write(self, number: int, rows: ShardRows, manifest: JobManifest) -> None:
        assert self._store is not None, "a job begins before it writes"
        with self._lock:
            self._store.put(StoreRows(rows.ids, rows.computed.dense, rows.texts, rows.kept))

    def finish(self, numbers: Sequence[int], rows: int, manifest: JobManifest) -> str | None:
        assert self._store is not None, "a job begins before it finishes"
        count = self._store.count()
        if self._append:
            return f"{self._target} has {count:,} rows now"
        return f"{rows - count:,} rows had the id of a later row, which is kept" if count < rows else None

    def close(self) -> None:
        with self._lock:
            if self._store is not None:
                self._store.close()

    def _require_fitting(self, info: StoreInfo, manifest: JobManifest) -> None:
        info.require_same_model(manifest.model, manifest.digest, info.dimensions, str(self._target))
        if info.dimensions != manifest.dimensions:
            raise ConfigError(
                f"{self._target} has vectors of {info.dimensions} dimensions, not {manifest.dimensions}; add --dimensions "
                f"{info.dimensions}"
            )


def info_of(manifest: JobManifest) -> StoreInfo:
    """Return what is recorded in the store of a job."""
    return StoreInfo(
        model=manifest.model,
        type=manifest.type,
        digest=manifest.digest,
        dimensions=manifest.dimensions,
        ids=manifest.ids,
        with_text=manifest.rules.with_text,
        columns=tuple(manifest.kept),
        column_types=tuple(map(_column_type, manifest.kept.values())),
        dtype=manifest.rules.dtype,
        input_type=manifest.rules.input_type,
        instruction=manifest.rules.instruction,
        job=manifest.job,
    )


def _column_type(kept: str) -> Literal["string", "int64", "double", "bool"]:
    """Return the type of a column of metadata, of which Parquet has more than stores."""
    match kept:
        case "int64" | "double" | "bool":
            return kept
        case "string":
            return "string"
    types, found = import_pyarrow().types, arrow_type(kept)
    if types.is_boolean(found):
        return "bool"
    if types.is_integer(found) and not types.is_uint64(found):
        return "int64"
    return "double" if types.is_floating(found) else "string"
