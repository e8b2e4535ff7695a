"""Stores in PostgreSQL with the extension pgvector: tables with the columns id, text, vector and those of metadata.

How a store was made is in the table's comment, as JSON behind "edgeembed: ". Without an index, which users may add, every
row is compared.
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
from edgeembed.errors import ConfigError
from edgeembed.inference.postprocess import Matrix

MOST_DIMENSIONS = 16000
_RECORD = "edgeembed: "
_TYPES = {"string": "text", "int64": "bigint", "double": "double precision", "bool": "boolean"}


class PostgresqlKind:
    """Makes, opens and removes stores."""

    def exists(self, target: Target) -> bool:
        with contextlib.closing(_connect(target)) as database, _errors(target):
            return _oid(database, target.table) is not None

    def create(self, target: Target, info: StoreInfo) -> PostgresqlStore:
        if info.dimensions > MOST_DIMENSIONS:
            raise ConfigError(f"pgvector takes {MOST_DIMENSIONS} dimensions, not {info.dimensions}; use --dimensions")
        info.require_names()
        database = _connect(target)
        try:
            with _errors(target):
                if not database.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone():
                    database.execute("CREATE EXTENSION IF NOT EXISTS vector")
                with database.transaction():
                    kind = "bigint" if info.ids == "int" else "text"
                    columns = "".join(f", {_quoted(name)} {_TYPES[type_]}" for name, type_ in info.types.items())
                    table = _quoted(target.table)
                    database.execute(
                        f"CREATE TABLE {table} (id {kind} PRIMARY KEY, text text{columns}, "
                        f"vector vector({info.dimensions}) NOT NULL)",
                        (),  # with parameters, even without any, %% stands for %
                    )
                    record = _RECORD + msgspec.json.encode(info).decode()
                    database.execute(f"COMMENT ON TABLE {table} IS {_literal(record)}")
            return PostgresqlStore(database, target, info)
        except BaseException:
            database.close()
            raise

    def open(self, target: Target) -> PostgresqlStore:
        database = _connect(target)
        try:
            with _errors(target):
                oid = _oid(database, target.table)
                if oid is None:
                    raise ConfigError(f"{target} does not exist: the database has no table {target.table}")
                comment = database.execute("SELECT obj_description(%s, 'pg_class')", (oid,)).fetchone()[0] or ""
            if not comment.startswith(_RECORD):
                raise ConfigError(f"{target} is a table that edgeembed has not made; choose another name")
            return PostgresqlStore(database, target, read_info(comment.removeprefix(_RECORD), str(target)))
        except BaseException:
            database.close()
            raise

    def drop(self, target: Target) -> None:
        if self.exists(target):
            self.open(target).close()
            with contextlib.closing(_connect(target)) as database, _errors(target):
                database.execute(f"DROP TABLE {_quoted(target.table)}")


class PostgresqlStore:
    """A table of PostgreSQL; see `edgeembed.bulk.stores.interface.Store`."""

    info: StoreInfo

    def __init__(self, database: Any, target: Target, info: StoreInfo) -> None:
        self.info = info
        self._database = database
        self._target = target
        self._table = _quoted(target.table)
        with _errors(target):
            import_extra("pgvector.psycopg", "pgvector", "a store in PostgreSQL").register_vector(database)

    def put(self, rows: StoreRows) -> None:
        require_columns(self.info, rows.columns, str(self._target))
        names = ["id", "text", *self.info.columns, "vector"]
        update = ", ".join(f"{_quoted(name)} = excluded.{_quoted(name)}" for name in names[1:])
        put = (
            f"INSERT INTO {self._table} ({', '.join(map(_quoted, names))}) VALUES ({', '.join(['%s'] * len(names))}) "
            f"ON CONFLICT (id) DO UPDATE SET {update}"
        )
        vectors = np.ascontiguousarray(rows.vectors, np.float32)
        values: list[list[Any]] = []
        for place in last_of_each(rows):
            text = rows.texts[place] if rows.texts is not None else None
            more = [
                typed(rows.columns[name][place], type_) if name in rows.columns else None
                for name, type_ in self.info.types.items()
            ]
            values.append([_storable(value) for value in (rows.ids[place], text, *more)] + [vectors[place]])
        with _errors(self._target), self._database.transaction(), self._database.cursor() as cursor:
            cursor.executemany(put, values)

    def delete(self, ids: Sequence[Id]) -> None:
        allowed = fitting(ids, "int64" if self.info.ids == "int" else "string")
        with _errors(self._target):
            self._database.execute(f"DELETE FROM {self._table} WHERE id = ANY(%s)", (allowed,))

    def delete_where(self, where: Where) -> None:
        condition, values = self._condition(where)
        with _errors(self._target):
            self._database.execute(f"DELETE FROM {self._table} WHERE {condition}", values)

    def ids(self, where: Where | None = None) -> Iterator[Id]:
        condition, values = self._condition(where)
        with _errors(self._target):
            found = self._database.execute(f"SELECT id FROM {self._table} WHERE {condition}", values).fetchall()
        yield from (id_ for (id_,) in found)

    def count(self) -> int:
        with _errors(self._target):
            return int(self._database.execute(f"SELECT count(*) FROM {self._table}").fetchone()[0])

    def search(self, vector: Matrix, k: int, where: Where | None = None) -> list[Found]:
        condition, values = self._condition(where)
        columns = "".join(f", {_quoted(name)}" for name in self.info.columns)
        wanted = np.asarray(vector, np.float32)
        with _errors(self._target):
            rows = self._database.execute(
                f"SELECT id, vector <=> %s, text{columns} FROM {self._table} WHERE {condition} "
                "ORDER BY vector <=> %s LIMIT %s",
                (wanted, *values, wanted, k),
            ).fetchall()
        return [
            Found(id_, 1.0 - distance, text, dict(zip(self.info.columns, more, strict=True)))
            for id_, distance, text, *more in rows
        ]

    def close(self) -> None:
        self._database.close()

    def _condition(self, where: Where | None) -> tuple[str, list[Any]]:
        require_columns(self.info, where or {}, str(self._target))
        parts, values = ["true"], []
        for name, wanted in (where or {}).items():
            type_ = self.info.types[name]
            allowed = [typed(value, type_) for value in fitting(values_of(wanted), type_)]
            parts.append("(" + (" OR ".join(f"{_quoted(name)} IS NOT DISTINCT FROM %s" for _ in allowed) or "false") + ")")
            values += allowed
        return " AND ".join(parts), values


def _connect(target: Target) -> Any:
    psycopg = import_extra("psycopg", "pgvector", "a store in PostgreSQL")
    with _errors(target):
        return psycopg.connect(target.place, autocommit=True, connect_timeout=20)


@contextlib.contextmanager
def _errors(target: Target) -> Iterator[None]:
    """Turn PostgreSQL's errors into ConfigError."""
    psycopg = import_extra("psycopg", "pgvector", "a store in PostgreSQL")
    try:
        yield
    except psycopg.Error as error:
        raise ConfigError(f"{target}: {str(error).strip()}") from error


def _oid(database: Any, table: str) -> int | None:
    row = database.execute("SELECT to_regclass(%s)::oid", (_quoted(table),)).fetchone()
    return int(row[0]) if row[0] is not None else None


def _storable(value: Any) -> Any:
    """Return a value without the character that PostgreSQL cannot store."""
    return value.replace("\0", "") if isinstance(value, str) else value


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""').replace("%", "%%") + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
