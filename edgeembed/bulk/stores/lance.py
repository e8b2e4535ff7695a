"""Stores in LanceDB: tables with the columns id, text, vector and those of metadata.

How a store was made is in the metadata of its schema, under `edgeembed`. Without an index, which users may add, every row is
compared.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from edgeembed.bulk.records import Id
from edgeembed.bulk.stores.interface import (
    Found,
    StoreInfo,
    StoreRows,
    Where,
    fitting,
    import_extra,
    last_of_each,
    read_info,
    require_columns,
    typed,
    values_of,
)
from edgeembed.bulk.stores.targets import Target
from edgeembed.bulk.tables import import_pyarrow
from edgeembed.errors import ConfigError
from edgeembed.inference.postprocess import Matrix

_RECORD = b"edgeembed"
_IDS_AT_ONCE = 500


class LanceKind:
    """Makes, opens and removes stores."""

    def exists(self, target: Target) -> bool:
        import_extra("lancedb", "lancedb", "a store in LanceDB")  # also where there is no file yet
        if target.file is not None and not target.file.exists():
            return False
        return _opened(_connect(target), target) is not None

    def create(self, target: Target, info: StoreInfo) -> LanceStore:
        info.require_names()
        pa = import_pyarrow()
        types = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_()}
        schema = pa.schema(
            [
                ("id", pa.int64() if info.ids == "int" else pa.string()),
                ("text", pa.string()),
                *((name, types[type_]) for name, type_ in info.types.items()),
                ("vector", pa.list_(pa.float32(), info.dimensions)),
            ],
            metadata={_RECORD: msgspec.json.encode(info)},
        )
        with _errors(target):
            return LanceStore(_connect(target).create_table(target.table, schema=schema), target, info)

    def open(self, target: Target) -> LanceStore:
        if target.file is not None and not target.file.exists():
            raise ConfigError(f"no such folder: {target.place}")
        table = _opened(_connect(target), target)
        if table is None:
            raise ConfigError(f"{target.place} has no table {target.table}")
        recorded = (table.schema.metadata or {}).get(_RECORD)
        if recorded is None:
            raise ConfigError(f"{target} is a table that edgeembed has not made; choose another name")
        return LanceStore(table, target, read_info(recorded, str(target)))

    def drop(self, target: Target) -> None:
        if self.exists(target):
            self.open(target).close()
            with _errors(target):
                _connect(target).drop_table(target.table)


class LanceStore:
    """A table of LanceDB; see `edgeembed.bulk.stores.interface.Store`."""

    info: StoreInfo

    def __init__(self, table: Any, target: Target, info: StoreInfo) -> None:
        self.info = info
        self._table = table
        self._target = target

    def put(self, rows: StoreRows) -> None:
        require_columns(self.info, rows.columns, str(self._target))
        pa = import_pyarrow()
        keep = last_of_each(rows)
        schema = self._table.schema
        vectors = np.ascontiguousarray(rows.vectors, np.float32)[keep]
        columns: dict[str, Any] = {
            "id": [rows.ids[place] for place in keep],
            "text": [rows.texts[place] if rows.texts is not None else None for place in keep],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self.info.dimensions),
        }
        for name, type_ in self.info.types.items():
            values = rows.columns.get(name)
            columns[name] = [typed(values[place], type_) if values is not None else None for place in keep]
        with _errors(self._target):
            batch = pa.table({name: columns[name] for name in schema.names}, schema=schema)
            self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(batch)

    def delete(self, ids: Sequence[Id]) -> None:
        with _errors(self._target):
            for first in range(0, len(ids), _IDS_AT_ONCE):
                allowed = fitting(ids[first : first + _IDS_AT_ONCE], "int64" if self.info.ids == "int" else "string")
                if allowed:
                    self._table.delete(f"id IN ({', '.join(map(_literal, allowed))})")

    def delete_where(self, where: Where) -> None:
        with _errors(self._target):
            self._table.delete(self._condition(where))

    def ids(self, where: Where | None = None) -> Iterator[Id]:
        with _errors(self._target):
            found = self._table.search().select(["id"])
            if where:
                found = found.where(self._condition(where))
            yield from found.limit(max(self.count(), 1)).to_arrow()["id"].to_pylist()

    def count(self) -> int:
        with _errors(self._target):
            return int(self._table.count_rows())

    def search(self, vector: Matrix, k: int, where: Where | None = None) -> list[Found]:
        require_columns(self.info, where or {}, str(self._target))
        with _errors(self._target):
            search = self._table.search(np.asarray(vector, np.float32), vector_column_name="vector")
            search = search.distance_type("cosine").select(["id", "text", *self.info.columns, "_distance"]).limit(k)
            if where:
                search = search.where(self._condition(where), prefilter=True)
            rows = search.to_list()
        return [
            Found(row["id"], 1.0 - row["_distance"], row["text"], {name: row[name] for name in self.info.columns})
            for row in rows
        ]

    def close(self) -> None:
        pass

    def _condition(self, where: Where) -> str:
        require_columns(self.info, where, str(self._target))
        parts = ["true"]
        for name, wanted in where.items():
            column = "`" + name.replace("`", "``") + "`"
            allowed = fitting(values_of(wanted), self.info.types[name])
            parts.append("(" + (" OR ".join(_equals(column, value) for value in allowed) or "false") + ")")
        return " AND ".join(parts)


def _connect(target: Target) -> Any:
    lancedb = import_extra("lancedb", "lancedb", "a store in LanceDB")
    with _errors(target):
        return lancedb.connect(target.place)


def _opened(database: Any, target: Target) -> Any:
    """Return a table, or None if there is none."""
    try:
        with _errors(target, apart=(ValueError, FileNotFoundError)):
            return database.open_table(target.table)
    except (ValueError, FileNotFoundError):
        return None


@contextlib.contextmanager
def _errors(target: Target, apart: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn LanceDB's errors, which are of Python's own types, into ConfigError."""
    try:
        yield
    except apart:
        raise
    except (ValueError, RuntimeError, OSError) as error:
        raise ConfigError(f"{target}: {error}") from error


def _equals(column: str, value: Any) -> str:
    return f"{column} IS NULL" if value is None else f"{column} = {_literal(value)}"


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value).lower() if isinstance(value, bool) else repr(value)
