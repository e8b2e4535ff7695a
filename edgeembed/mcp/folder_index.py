"""An index of a folder's files: the vectors of their parts in a SQLite file, kept up to date by the files' contents.

A file's rows are exchanged in one transaction, and carry the hash of the bytes that they were computed from. So the next
update continues one that was ended at any point, by whatever, and only files that changed are computed.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar, TypeVarTuple

import anyio
import numpy as np

from edgeembed.bulk.embedders import Embedder, fitted_rules
from edgeembed.bulk.stores.interface import StoreInfo, StoreRows
from edgeembed.bulk.stores.sqlite import SqliteKind, SqliteStore
from edgeembed.bulk.stores.targets import Target
from edgeembed.common.files import make_private_folder
from edgeembed.common.retry import with_retries
from edgeembed.errors import ConfigError
from edgeembed.inference.chunking import Chunker, ChunkRules, WordTokens
from edgeembed.inference.postprocess import Matrix
from edgeembed.mcp.text_files import Skipped, TextFile, read_file, text_files

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TABLE = "parts"
COLUMNS = ("path", "hash", "first_line", "last_line")
INDEXED = ("path",)
_PLACE = ("path", "first_line", "last_line")
TEXTS_AT_ONCE = 64
"""Parts of files in one request."""
Progress = Callable[[int, int, str], Awaitable[None]]
"""Called with the files that are done, all files to do, and the name of the next one."""


class Part(NamedTuple):
    """A part of a file. Lines count from 1."""

    id: str
    path: str
    hash: str
    text: str
    first_line: int
    last_line: int


@dataclass
class Passage:
    """A part of a file. Lines count from 1. score: similarity to the query; 1 is the most."""

    path: str
    first_line: int
    last_line: int
    score: float
    text: str


@dataclass
class Update:
    """What an update did. files, parts: in the index now. rebuilt: why the old index was not used, if it was not."""

    files: int = 0
    parts: int = 0
    computed: int = 0
    """Files that were new or had changed."""
    removed: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    rebuilt: str = ""


class FolderIndex:
    """The index of one folder. One method runs at a time; other processes may read and write the same file."""

    def __init__(self, folder: Path, indexes: Path) -> None:
        """indexes: the folder with all indexes."""
        self.folder = folder
        name = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in folder.name) or "root"
        digest = hashlib.sha256(str(folder).encode(errors="surrogateescape")).hexdigest()[:12]
        self.file = indexes / f"{name}-{digest}.sqlite"

    def exists(self) -> bool:
        """Return whether the folder was indexed, wholly or in part."""
        return self.file.exists() and SqliteKind().exists(self._target)

    async def update(self, embedder: Embedder, progress: Progress) -> Update:
        """Compute what is new or has changed, and forget what is gone. Raises EdgeEmbedError."""
        found = Update()
        store = await _in_thread(self._opened, embedder, found)
        with closing(store):
            gone = dict(await _in_thread(_files_of, store))
            changed = await asyncio.to_thread(self._changed, gone, found)
            if gone:
                await _in_thread(store.delete_where, {"path": list(gone)})
            found.removed = len(gone)
            if changed:
                await self._compute(store, embedder, changed, progress)
            found.computed, found.parts = len(changed), await _in_thread(store.count)
        return found

    async def search(self, embedder: Embedder, query: str, most: int, below: str = "") -> list[Passage]:
        """Return the parts nearest to a query. below: a folder or file in this folder; empty for all.

        Raises ConfigError if there is no index of this folder by the embedder's model.
        """
        if not self.exists():
            raise ConfigError(f"{self.folder} has no index yet; call index_folder first")
        [vector] = (await with_retries(lambda: embedder.embed([query]))).dense
        return await asyncio.to_thread(self._nearest, embedder, vector, most, below.strip("/"))

    def remove(self) -> bool:
        """Remove the index, not the folder's files; return whether there was one."""
        there = self.file.exists()
        with suppress(ConfigError):  # damaged, or of another version
            SqliteKind().drop(self._target)  # another process that is writing waits or is told, and loses nothing silently
        for file in (self.file, *(self.file.with_name(self.file.name + end) for end in ("-wal", "-shm", "-journal"))):
            file.unlink(missing_ok=True)
        return there

    @property
    def _target(self) -> Target:
        return Target("sqlite", str(self.file), TABLE)

    def _opened(self, embedder: Embedder, found: Update) -> SqliteStore:
        """Return the store, made anew for another model."""
        info = embedder.info
        made = StoreInfo(
            model=info.model,
            type=info.type,
            digest=info.digest,
            dimensions=info.dimensions,
            columns=COLUMNS,
            input_type="document",
            job=str(self.folder),
        )
        if self.exists():
            store = SqliteStore.open(self.file, TABLE)
            try:
                store.info.require_same_model(info.model, info.digest, info.dimensions, "the index")
                return store
            except ConfigError:
                old = store.info.spec
                new = made.spec if made.spec != old else "another file of that name"
                found.rebuilt = f"it was made with {old}, and the model is now {new}"
                store.close()
                SqliteKind().drop(self._target)
        make_private_folder(self.file.parent)
        return SqliteStore.create(self.file, TABLE, made, INDEXED)

    def _changed(self, indexed: dict[str, str], found: Update) -> list[str]:
        """Return the paths of files whose rows are missing or old; take all files that are there out of `indexed`."""
        changed = []
        for file in text_files(self.folder):
            if isinstance(file, Skipped):
                found.skipped.append(file)
                continue
            if not file.text.strip():
                continue
            found.files += 1
            if indexed.pop(file.path, None) != file.hash:
                changed.append(file.path)
        return changed

    async def _compute(self, store: SqliteStore, embedder: Embedder, paths: Sequence[str], progress: Progress) -> None:
        loop = asyncio.get_running_loop()

        def count(words: Sequence[str]) -> list[int]:
            return asyncio.run_coroutine_threadsafe(embedder.count(words), loop).result()

        chunker = Chunker(await fitted_rules(ChunkRules(), embedder), WordTokens(count))
        waiting: dict[str, list[Part]] = {}
        for done, path in enumerate(paths):
            await progress(done, len(paths), path)
            waiting[path] = await asyncio.to_thread(_parts, self.folder, path, chunker)
            if sum(map(len, waiting.values())) >= TEXTS_AT_ONCE:
                await _put(store, embedder, waiting)
                waiting = {}
        await _put(store, embedder, waiting)
        await progress(len(paths), len(paths), "")

    def _nearest(self, embedder: Embedder, vector: Matrix, most: int, below: str) -> list[Passage]:
        with closing(SqliteStore.open(self.file, TABLE)) as store:
            info = embedder.info
            store.info.require_same_model(info.model, info.digest, info.dimensions, f"the index of {self.folder}")
            where = None
            if below:
                paths = [path for path, _ in _files_of(store) if path == below or path.startswith(f"{below}/")]
                where = {"path": paths}
                if not paths:
                    raise ConfigError(f"the index of {self.folder} has no file {below!r}, and none below it")
            found = store.search(vector, most, where)
        return [
            Passage(score=round(each.score, 4), text=each.text or "", **{name: each.columns[name] for name in _PLACE})
            for each in found
        ]


def describe_indexes(indexes: Path) -> Iterator[tuple[Path, StoreInfo, int, int]]:
    """Yield of each index its folder, how it was made, its files and its parts."""
    for file in sorted(indexes.glob("*.sqlite")):
        try:
            with closing(SqliteStore.open(file, TABLE)) as store:
                yield Path(store.info.job), store.info, len(dict(_files_of(store))), store.count()
        except ConfigError:  # of another version, or not made to the end
            continue


async def _in_thread(call: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call in a thread. A cancelled tool ends after the call: the store must not be closed meanwhile."""
    return await anyio.to_thread.run_sync(call, *args)


def _files_of(store: SqliteStore) -> Iterator[tuple[str, str]]:
    """Yield path and hash of each file that has rows."""
    for _, path, hash_ in store.rows(["path", "hash"]):
        yield path, hash_


def _parts(folder: Path, path: str, chunker: Chunker) -> list[Part]:
    """Return the parts of a file as it is now; none if it is gone."""
    file = read_file(folder, path)
    return list(_cut(file, chunker)) if isinstance(file, TextFile) else []


def _cut(file: TextFile, chunker: Chunker) -> Iterator[Part]:
    for start, end, _ in chunker.chunks(file.text):
        first = file.text.count("\n", 0, start) + 1
        last = first + file.text.count("\n", start, end)
        yield Part(f"{file.path}#{start}-{end}", file.path, file.hash, file.text[start:end], first, last)


async def _put(store: SqliteStore, embedder: Embedder, waiting: Mapping[str, Sequence[Part]]) -> None:
    """Compute the parts of files, and exchange their rows in one transaction: each waits for the disk."""
    if not waiting:
        return
    parts = [part for each in waiting.values() for part in each]
    vectors = [np.zeros((0, embedder.info.dimensions), np.float32)]
    for first in range(0, len(parts), TEXTS_AT_ONCE):
        texts = [part.text for part in parts[first : first + TEXTS_AT_ONCE]]
        vectors.append((await with_retries(partial(embedder.embed, texts))).dense)
    await _in_thread(store.replace, {"path": list(waiting)}, _rows(parts, np.concatenate(vectors)))


def _rows(parts: Sequence[Part], vectors: Matrix) -> StoreRows:
    columns = {name: [getattr(part, name) for part in parts] for name in COLUMNS}
    return StoreRows([part.id for part in parts], vectors, [part.text for part in parts], columns)
