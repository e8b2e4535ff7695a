"""FAISS: an index in a file, whose rows are numbered, and what those rows are beside it.

FILE is the index, FILE.rows.jsonl has the id, text and columns of each row on a line, and FILE.json how it was made. The
index is made whole when all vectors are there, as FAISS has it in memory; it compares every row. Any index over the same
rows may take its place, such as one that is made for more of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeembed.bulk.outputs import Output
from edgeembed.bulk.shards import IdKind, JobManifest, WorkFolder
from edgeembed.bulk.sinks import Sink, info_of
from edgeembed.bulk.stores.interface import (
    Found,
    StoreInfo,
    Where,
    cell,
    import_extra,
    read_info,
    require_columns,
    values_of,
)
from edgeembed.bulk.writers import ShardRows, join
from edgeembed.common.files import UNREADABLE_JSON, replacing
from edgeembed.errors import ConfigError
from edgeembed.inference.postprocess import Matrix

SUFFIX = ".faiss"
PREFIX = "faiss:"


def named_by(name: str) -> Path | None:
    """Return the file of an index that a user names: faiss:FILE, or a file with the suffix .faiss."""
    if name.startswith(PREFIX):
        return Path(name.removeprefix(PREFIX))
    return Path(name) if name.lower().endswith(SUFFIX) else None


@dataclass(frozen=True)
class FaissOutput(Output):
    """An index as the output of a job."""

    def require_library(self) -> None:
        """Raise ConfigError if FAISS is not installed."""
        _faiss()

    @property
    def size_bytes(self) -> int | None:
        return sum(file.stat().st_size for file in (self.path, _rows_path(self.path), _info_path(self.path)))

    def sink(self, work: WorkFolder) -> Sink:
        return FaissSink(self.path, work)

    def _written(self) -> Sequence[Path]:
        return [*super()._written(), _rows_path(self.path), _info_path(self.path)]


class FaissSink:
    """Writes the vectors and the rows of each shard to files, and the index at the end."""

    ordered = False

    def __init__(self, path: Path, work: WorkFolder) -> None:
        self._path = path
        self._work = work

    def ids(self) -> IdKind | None:
        return None

    def begin(self, manifest: JobManifest, finished: Sequence[int]) -> None:
        pass

    def write(self, number: int, rows: ShardRows, manifest: JobManifest) -> None:
        path = self._work.shard(number, ".npy")
        with replacing(_rows_path(path), sync=True) as staged:
            staged.write_bytes(b"".join(_line(rows, place) for place in range(len(rows.ids))))
        with replacing(path, sync=True) as staged, staged.open("wb") as file:
            np.save(file, rows.computed.dense)

    def finish(self, numbers: Sequence[int], rows: int, manifest: JobManifest) -> str | None:
        faiss = _faiss()
        shards = [self._work.shard(number, ".npy") for number in numbers]
        index = faiss.IndexFlatIP(manifest.dimensions)
        for shard in shards:
            index.add(np.load(shard))
        with replacing(_rows_path(self._path), sync=True) as staged:
            join(map(_rows_path, shards), staged)
        with replacing(_info_path(self._path), sync=True) as staged:
            staged.write_bytes(msgspec.json.format(msgspec.json.encode(info_of(manifest)), indent=1))
        with replacing(self._path, sync=True) as staged:
            faiss.write_index(index, str(staged))
        return None

    def close(self) -> None:
        pass


class FaissRows:
    """An index, to be searched."""

    info: StoreInfo

    def __init__(self, path: Path) -> None:
        """Raises ConfigError for an index that `edgeembed embed` has not written, or whose rows are not beside it."""
        faiss = _faiss()
        self._path = path
        if not path.exists():
            raise ConfigError(f"no such file: {path}")
        try:
            self.info = read_info(_info_path(path).read_bytes(), str(path))
            self._index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
            with _rows_path(path).open("rb") as lines:
                count = sum(1 for _ in lines)
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"cannot read vectors from {path}: {error}") from error
        if count != self._index.ntotal:
            raise ConfigError(f"{path} has {self._index.ntotal:,} rows, but {_rows_path(path)} {count:,}; write it again")

    def search(self, vector: Matrix, k: int, where: Where | None = None) -> list[Found]:
        """Return the k rows nearest to a vector. Raises ConfigError."""
        require_columns(self.info, where or {}, str(self._path))
        parameters = None
        if where:
            parameters = _faiss().SearchParameters(sel=_faiss().IDSelectorBatch(self._matching(where)))
        scores, numbers = self._index.search(np.asarray(vector, np.float32)[None], k, params=parameters)
        scored = {int(number): float(score) for number, score in zip(numbers[0], scores[0], strict=True) if number >= 0}
        rows = self._rows(list(scored))
        return [
            Found(row["id"], score, row.get("text"), {name: row.get(name) for name in self.info.columns})
            for number, score in scored.items()
            if (row := rows[number])
        ]

    def close(self) -> None:
        del self._index

    def _matching(self, where: Where) -> Any:
        """Return the numbers of the rows whose columns have these values."""
        wanted = {name: values_of(values) for name, values in where.items()}
        with _rows_path(self._path).open("rb") as lines:
            rows = enumerate(map(self._decoded, lines))
            found = [number for number, row in rows if all(row.get(name) in values for name, values in wanted.items())]
        return np.array(found, np.int64)

    def _rows(self, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
        wanted = set(numbers)
        with _rows_path(self._path).open("rb") as file:
            lines = itertools.islice(enumerate(file), max(wanted, default=-1) + 1)
            return {number: self._decoded(line) for number, line in lines if number in wanted}

    def _decoded(self, line: bytes) -> dict[str, Any]:
        try:
            return msgspec.json.decode(line, type=dict[str, Any])
        except UNREADABLE_JSON as error:
            raise ConfigError(f"cannot read {_rows_path(self._path)}: {error}") from error


def _line(rows: ShardRows, place: int) -> bytes:
    row: dict[str, Any] = {"id": rows.ids[place]}
    if rows.texts is not None:
        row["text"] = rows.texts[place]
    row |= {name: cell(values[place]) for name, values in rows.kept.items()}
    return msgspec.json.encode(row) + b"\n"


def _rows_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.rows.jsonl")


def _info_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _faiss() -> Any:
    return import_extra("faiss", "faiss", "a FAISS index")
