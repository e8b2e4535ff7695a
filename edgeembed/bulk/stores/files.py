"""Searches the files that jobs write, by comparing the query with every row."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from edgeembed.bulk.computed import FIELDS
from edgeembed.bulk.stores.interface import Found, StoreInfo, Where, require_columns, values_of
from edgeembed.bulk.tables import import_pyarrow
from edgeembed.bulk.writers import SUFFIXES, ids_path
from edgeembed.common.files import UNREADABLE_JSON
from edgeembed.errors import ConfigError
from edgeembed.inference.postprocess import Matrix

_ROWS_AT_ONCE = 8192
_OUTPUTS = frozenset(FIELDS.values())


class Rows(NamedTuple):
    """Consecutive rows. numbers: as they are stored. row: returns all else about a row, by its place among these."""

    numbers: npt.NDArray[Any]
    row: Callable[[int], dict[str, Any]]


class Reader(Protocol):
    """Reads one format."""

    def info(self) -> StoreInfo:
        """Return what is known about the vectors; their model is empty where the format cannot record it."""
        ...

    def read(self) -> Iterator[Rows]:
        """Yield all rows, in order."""
        ...


class FileRows:
    """The rows of a file, or of a folder of shards."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError for a file that is no output of `edgeembed embed`."""
        self._path = path
        try:
            self._reader = _reader(path)
            self.info = self._reader.info()
        except (OSError, EOFError, ValueError, *UNREADABLE_JSON) as error:  # pyarrow's and NumPy's errors are among them
            raise ConfigError(f"cannot read vectors from {path}: {error}") from error

    def search(self, vector: Matrix, k: int, where: Where | None = None) -> list[Found]:
        """Return the k rows nearest to a vector. Raises ConfigError."""
        require_columns(self.info, where or {}, str(self._path))
        wanted = {name: values_of(values) for name, values in (where or {}).items()}
        best: list[Found] = []
        try:
            for rows in self._reader.read():
                scores = unpacked(rows.numbers, self.info) @ vector
                found = itertools.islice(self._matching(rows, scores, wanted, best[-1].score if len(best) == k else -2.0), k)
                best = sorted([*best, *found], key=lambda row: -row.score)[:k]
        except (OSError, EOFError, ValueError, *UNREADABLE_JSON) as error:
            raise ConfigError(f"cannot read vectors from {self._path}: {error}") from error
        return best

    def close(self) -> None:
        pass

    def _matching(self, rows: Rows, scores: npt.NDArray[Any], wanted: dict[str, list[Any]], above: float) -> Iterator[Found]:
        """Yield the rows with a better score than `above` that fulfil the conditions, the best first."""
        for place in np.argsort(-scores, kind="stable"):
            if not scores[place] > above:
                return
            row = rows.row(int(place))
            columns = {name: row.get(name) for name in self.info.columns}
            if all(columns[name] in values for name, values in wanted.items()):
                yield Found(row["id"], float(scores[place]), row.get("text"), columns)


def unpacked(numbers: npt.NDArray[Any], info: StoreInfo) -> Matrix:
    """Return stored vectors as float32 of length 1, shape (rows, dimensions)."""
    if info.dtype == "binary":
        signs = np.unpackbits(numbers.astype(np.uint8), axis=1, count=info.dimensions)
        return (signs * np.float32(2) - np.float32(1)) / np.float32(np.sqrt(info.dimensions))
    found = numbers.astype(np.float32)
    if info.dtype == "float32":
        return found
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found / np.where(lengths, lengths, 1), np.float32)


def _reader(path: Path) -> Reader:
    if path.is_dir():
        shards = sorted([*path.glob("shard-*.parquet"), *path.glob("part-*.parquet")])
        if not shards:
            raise ConfigError(f"{path} has no shards of vectors; name a file or folder that `edgeembed embed -o` wrote")
        return TableReader(shards, "parquet")
    if not path.exists():
        raise ConfigError(f"no such file: {path}")
    match SUFFIXES.get(path.suffix.lower()):
        case "parquet" | "arrow" as format_:
            return TableReader([path], format_)
        case "jsonl":
            return LinesReader(path)
        case "npy":
            return NpyReader(path)
        case _:
            raise ConfigError(
                f"{path} is no output of `edgeembed embed`; expected {', '.join(SUFFIXES)}, a folder or a store"
            )


class TableReader:
    """Parquet and Arrow files."""

    def __init__(self, files: Sequence[Path], format_: str) -> None:
        self._files = files
        self._parquet = format_ == "parquet"
        import_pyarrow()

    def info(self) -> StoreInfo:
        pa = import_pyarrow()
        if self._parquet:
            with pa.parquet.ParquetFile(self._files[0]) as file:
                schema = file.schema_arrow
        else:
            with pa.ipc.open_file(str(self._files[0])) as file:
                schema = file.schema
        metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
        if "vector" not in schema.names or "id" not in schema.names:
            raise ConfigError(
                f"{self._files[0]} has no columns `id` and `vector`; its columns are {', '.join(schema.names)}"
            )
        return StoreInfo(
            model=metadata.get("edgeembed.model", ""),
            type=metadata.get("edgeembed.model_type", ""),
            digest=metadata.get("edgeembed.model_sha256", ""),
            dimensions=int(metadata.get("edgeembed.dimensions") or schema.field("vector").type.list_size),
            dtype=metadata.get("edgeembed.dtype", "float32"),
            ids="int" if pa.types.is_integer(schema.field("id").type) else "string",
            with_text="text" in schema.names,
            columns=tuple(name for name in schema.names if name not in _OUTPUTS and name not in ("id", "text")),
        )

    def read(self) -> Iterator[Rows]:
        for batch in self._batches():
            flat = batch.column("vector").flatten().to_numpy(zero_copy_only=False)
            if batch.num_rows:
                others = batch.drop_columns([name for name in batch.schema.names if name in _OUTPUTS])
                yield Rows(flat.reshape(batch.num_rows, -1), partial(_row_of, others))

    def _batches(self) -> Iterator[Any]:
        pa = import_pyarrow()
        for path in self._files:
            if self._parquet:
                with pa.parquet.ParquetFile(path) as file:
                    names = [name for name in file.schema_arrow.names if name == "vector" or name not in _OUTPUTS]
                    yield from file.iter_batches(_ROWS_AT_ONCE, columns=names)
            else:
                with pa.ipc.open_file(str(path)) as file:
                    yield from map(file.get_batch, range(file.num_record_batches))


class LinesReader:
    """JSON Lines, which do not record the model."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def info(self) -> StoreInfo:
        with self._path.open("rb") as file:
            first = msgspec.json.decode(file.readline(), type=dict[str, Any])
        vector = first.get("vector")
        if not isinstance(vector, list) or "id" not in first:
            raise ConfigError(f"{self._path} has no fields `id` and `vector`; its fields are {', '.join(first)}")
        whole = all(isinstance(number, int) for number in vector)
        dtype = "float32" if not whole else "int8" if min(vector) < 0 else "binary"
        return StoreInfo(
            model="",
            dimensions=len(vector) * (8 if dtype == "binary" else 1),
            dtype=dtype,
            ids="int" if isinstance(first["id"], int) else "string",
            with_text="text" in first,
            columns=tuple(name for name in first if name not in _OUTPUTS and name not in ("id", "text")),
        )

    def read(self) -> Iterator[Rows]:
        with self._path.open("rb") as file:
            while lines := list(itertools.islice(file, _ROWS_AT_ONCE // 8)):
                rows = [msgspec.json.decode(line, type=dict[str, Any]) for line in lines]
                numbers = np.array([row["vector"] for row in rows], np.float32)
                yield Rows(numbers, rows.__getitem__)


class NpyReader:
    """NumPy's files, with the ids beside; they do not record the model."""

    def __init__(self, path: Path) -> None:
        self._array: npt.NDArray[Any] = np.load(path, mmap_mode="r")
        self._ids = ids_path(path).read_bytes().splitlines()
        if self._array.ndim != 2 or len(self._ids) != len(self._array):
            raise ConfigError(
                f"{path} has the shape {self._array.shape}, and {ids_path(path).name} {len(self._ids)} ids; expected one "
                "id for each row"
            )

    def info(self) -> StoreInfo:
        dtype = {"uint8": "binary"}.get(str(self._array.dtype), str(self._array.dtype))
        dimensions = self._array.shape[1] * (8 if dtype == "binary" else 1)
        return StoreInfo(model="", dimensions=dimensions, dtype=dtype, with_text=False)

    def read(self) -> Iterator[Rows]:
        for first in range(0, len(self._array), _ROWS_AT_ONCE):
            ids = self._ids[first : first + _ROWS_AT_ONCE]
            numbers = np.asarray(self._array[first : first + _ROWS_AT_ONCE])
            yield Rows(numbers, partial(_id_of, ids))


def _row_of(batch: Any, place: int) -> dict[str, Any]:
    row: dict[str, Any] = batch.slice(place, 1).to_pylist()[0]
    return row


def _id_of(ids: Sequence[bytes], place: int) -> dict[str, Any]:
    return {"id": msgspec.json.decode(ids[place])}
