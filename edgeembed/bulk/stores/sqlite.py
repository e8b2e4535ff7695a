"""Stores in a SQLite database, searched by the extension sqlite-vec.

A store NAME is two tables: NAME has rowid, id, text and the columns of metadata; NAME_vectors is a vec0 table with the
vectors under the same rowid. The table edgeembed_stores records how each store was made. SQLite comes with APSW, because
many builds of Python cannot load extensions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeembed.bulk.records import Id
from edgeembed.bulk.stores.interface import (
    Found,
    StoreInfo,
    StoreRows,
    Where,
    cell,
    import_extra,
    last_of_each,
    read_info,
    require_columns,
    values_of,
)
from edgeembed.bulk.stores.targets import Target
from edgeembed.errors import ConfigError
from edgeembed.inference.postprocess import Matrix

MOST_FOUND = 4096
"""What sqlite-vec returns at most."""
MOST_DIMENSIONS = 8192
_BUSY_MS = 30_000
_IDS_AT_ONCE = 500


class SqliteKind:
    """Makes, opens and removes stores."""

    def exists(self, target: Target) -> bool:
        import_extra("sqlite_vec", "sqlite", "a store in SQLite")  # also where there is no file yet
        if not Path(target.place).exists():
            return False
        with contextlib.closing(_connect(target)) as database, _errors(target):
            return _has_table(database, target.table) or _recorded(database, target.table) is not None

    def create(self, target: Target, info: StoreInfo) -> SqliteStore:
        return SqliteStore.create(target.place, target.table, info)

    def open(self, target: Target) -> SqliteStore:
        return SqliteStore.open(target.place, target.table)

    def drop(self, target: Target) -> None:
        if not self.exists(target):
            return
        self.open(target).close()
        with contextlib.closing(_connect(target)) as database, _transaction(database, target):
            database.execute(f'DROP TABLE "{target.table}"')
            database.execute(f'DROP TABLE "{target.table}_vectors"')
            database.execute("DELETE FROM edgeembed_stores WHERE name = ?", (target.table,))


class SqliteStore:
    """A store in a SQLite file. Several processes may use it at the same time; a writer waits for others up to 30 seconds.

    Besides what every store can (see `edgeembed.bulk.stores.interface.Store`), `replace` exchanges rows in one step.
    """

    info: StoreInfo

    def __init__(self, database: Any, target: Target, recorded: str) -> None:
        """Not for callers: see `create` and `open`."""
        self.info = read_info(recorded, str(target))
        self._recorded = recorded
        self._database = database
        self._target = target
        self._table = target.table

    @classmethod
    def create(cls, file: str | Path, table: str, info: StoreInfo, indexed: Sequence[str] = ()) -> SqliteStore:
        """Make an empty store, and the file and its folders if they do not exist.

        info.columns: the metadata that rows can have, and that `where` can ask for. indexed: those that are asked for so
        often that looking through all rows takes too long.

        Raises:
            ConfigError: There is a table of this name, or sqlite-vec is not installed or does not take so many dimensions.
        """
        target = Target("sqlite", str(file), table)
        if info.dimensions > MOST_DIMENSIONS:
            raise ConfigError(f"sqlite-vec takes {MOST_DIMENSIONS} dimensions, not {info.dimensions}; use --dimensions")
        info.require_names()
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        columns = "".join(f", {_quoted(name)}" for name in info.columns)
        recorded = msgspec.json.encode(info).decode()
        database = _connect(target, new=True)
        try:
            with _transaction(database, target):
                if _has_table(database, table):
                    raise ConfigError(f"{file} has a table {table} already; choose another name")
                database.execute("CREATE TABLE IF NOT EXISTS edgeembed_stores (name TEXT PRIMARY KEY, info TEXT NOT NULL)")
                kind = "INTEGER" if info.ids == "int" else "TEXT"
                database.execute(
                    f'CREATE TABLE "{table}" (rowid INTEGER PRIMARY KEY, id {kind} NOT NULL UNIQUE, text TEXT{columns})'
                )
                database.execute(
                    f'CREATE VIRTUAL TABLE "{table}_vectors" USING vec0'
                    f"(vector float[{info.dimensions}] distance_metric=cosine)"
                )
                for name in indexed:
                    index = _quoted(f"{table}_{name}")
                    database.execute(f'CREATE INDEX {index} ON "{table}" ({_quoted(name)})')
                database.execute("INSERT INTO edgeembed_stores VALUES (?, ?)", (table, recorded))
        except BaseException:
            database.close()
            raise
        return cls(database, target, recorded)

    @classmethod
    def open(cls, file: str | Path, table: str) -> SqliteStore:
        """Open a store that `create` made.

        Raises:
            ConfigError: There is no such file or table, it is no store, or sqlite-vec is not installed.
        """
        target = Target("sqlite", str(file), table)
        if not Path(file).exists():
            raise ConfigError(f"no such file: {file}")
        database = _connect(target)
        try:
            with _errors(target):
                recorded = _recorded(database, table)
                if recorded is None:
                    stores = _stores(database)
                    known = f"it has {', '.join(stores)}" if stores else "edgeembed has made none in it"
                    raise ConfigError(f"{file} has no store {table}; {known}")
                return cls(database, target, recorded)
        except BaseException:
            database.close()
            raise

    def put(self, rows: StoreRows) -> None:
        """Add rows in one transaction; those whose ids exist are replaced. Raises ConfigError."""
        require_columns(self.info, rows.columns, str(self._target))
        with self._change():
            self._put(rows)

    def replace(self, where: Where, rows: StoreRows) -> None:
        """Delete the rows whose columns have these values and put others, in one transaction. Raises ConfigError.

        For a file that has changed: `replace({"path": "a.md"}, rows_of_its_chunks)`.
        """
        require_columns(self.info, [*where, *rows.columns], str(self._target))
        with self._change():
            self._delete_where(where)
            self._put(rows)

    def delete(self, ids: Sequence[Id]) -> None:
        """Delete the rows with these ids, in one transaction. Raises ConfigError."""
        with self._change():
            for some in _batched(ids):
                self._delete(f"id IN ({_marks(some)})", list(some))

    def delete_where(self, where: Where) -> None:
        """Delete the rows whose columns have these values, in one transaction. Raises ConfigError."""
        require_columns(self.info, where, str(self._target))
        with self._change():
            self._delete_where(where)

    def ids(self, where: Where | None = None) -> Iterator[Id]:
        """Yield the ids of all rows, or of those whose columns have these values. Raises ConfigError."""
        for (id_,) in self._select("id", where):
            yield id_

    def rows(self, columns: Sequence[str], where: Where | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield the id and some columns of all rows, or of those whose columns have these values. Raises ConfigError."""
        require_columns(self.info, columns, str(self._target))
        yield from self._select(", ".join(["id", *map(_quoted, columns)]), where)

    def count(self) -> int:
        """Return the number of rows. Raises ConfigError."""
        with _errors(self._target):
            return int(self._database.execute(f'SELECT count(*) FROM "{self._table}"').fetchone()[0])

    def search(self, vector: Matrix, k: int, where: Where | None = None) -> list[Found]:
        """Return the k rows nearest to a vector, of all or of those whose columns have these values. Raises ConfigError."""
        if k > MOST_FOUND:
            raise ConfigError(f"sqlite-vec finds at most {MOST_FOUND} rows, not {k}")
        condition, values = self._condition(where)
        among = f'AND v.rowid IN (SELECT rowid FROM "{self._table}" WHERE {condition})' if where else ""
        columns = "".join(f", d.{_quoted(name)}" for name in self.info.columns)
        wanted = np.ascontiguousarray(vector, np.float32).tobytes()
        with _errors(self._target):
            rows = self._database.execute(
                f'SELECT d.id, v.distance, d.text{columns} FROM "{self._table}_vectors" v JOIN "{self._table}" d '
                f"ON d.rowid = v.rowid WHERE v.vector MATCH ? AND k = ? {among} ORDER BY v.distance, d.rowid",
                (wanted, k, *values),
            ).fetchall()
        return [
            Found(id_, 1.0 - distance, text, dict(zip(self.info.columns, more, strict=True)))
            for id_, distance, text, *more in rows
        ]

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Make all changes or none. Raises ConfigError if another process has removed the store, or made it anew."""
        with _transaction(self._database, self._target):
            if _recorded(self._database, self._table) != self._recorded:
                raise ConfigError(f"{self._target} was removed or made anew by another program meanwhile; try again")
            yield

    def _put(self, rows: StoreRows) -> None:
        names = ["id", "text", *rows.columns]
        update = ", ".join(f"{_quoted(name)} = excluded.{_quoted(name)}" for name in names[1:])
        put = (
            f'INSERT INTO "{self._table}" ({", ".join(map(_quoted, names))}) VALUES ({_marks(names)}) '
            f"ON CONFLICT (id) DO UPDATE SET {update} RETURNING rowid"
        )
        execute = self._database.execute
        vectors = np.ascontiguousarray(rows.vectors, np.float32)
        for place in last_of_each(rows):
            id_, vector = rows.ids[place], vectors[place].tobytes()
            exists = execute(f'SELECT 1 FROM "{self._table}" WHERE id = ?', (id_,)).fetchone()
            text = rows.texts[place] if rows.texts is not None else None
            more = [cell(values[place]) for values in rows.columns.values()]
            ((rowid,),) = execute(put, (id_, text, *more)).fetchall()
            if exists:
                execute(f'UPDATE "{self._table}_vectors" SET vector = ? WHERE rowid = ?', (vector, rowid))
            else:
                execute(f'INSERT INTO "{self._table}_vectors" (rowid, vector) VALUES (?, ?)', (rowid, vector))

    def _delete_where(self, where: Where) -> None:
        self._delete(*self._condition(where))

    def _delete(self, condition: str, values: list[Any]) -> None:
        rowids = self._database.execute(f'DELETE FROM "{self._table}" WHERE {condition} RETURNING rowid', values).fetchall()
        self._database.executemany(f'DELETE FROM "{self._table}_vectors" WHERE rowid = ?', rowids)

    def _select(self, columns: str, where: Where | None) -> list[Any]:
        condition, values = self._condition(where)
        with _errors(self._target):
            found: list[Any] = self._database.execute(
                f'SELECT {columns} FROM "{self._table}" WHERE {condition}', values
            ).fetchall()
            return found

    def _condition(self, where: Where | None) -> tuple[str, list[Any]]:
        """Return SQL that is true for the rows whose columns have these values, and the values in it. Raises ConfigError."""
        require_columns(self.info, where or {}, str(self._target))
        parts, values = ["1"], []
        for name, wanted in (where or {}).items():
            allowed = values_of(wanted)
            column = _quoted(name)
            if len(allowed) > 1 and all(isinstance(value, str) for value in allowed):  # of any number, unlike parameters
                parts.append(f"{column} IN (SELECT value FROM json_each(?))")
                values.append(msgspec.json.encode(allowed).decode())
                continue
            parts.append("(" + (" OR ".join(f"{column} IS ?" for _ in allowed) or "0") + ")")
            values += allowed
        return " AND ".join(parts), values


def _connect(target: Target, *, new: bool = False) -> Any:
    apsw = import_extra("apsw", "sqlite", "a store in SQLite")
    sqlite_vec = import_extra("sqlite_vec", "sqlite", "a store in SQLite")
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if new else 0)
    with _errors(target):
        database = apsw.Connection(str(target.place), flags=flags)
        try:
            database.set_busy_timeout(_BUSY_MS)
            database.enable_load_extension(True)
            database.load_extension(sqlite_vec.loadable_path())
            database.enable_load_extension(False)
        except BaseException:
            database.close()
            raise
        return database


@contextlib.contextmanager
def _errors(target: Target) -> Iterator[None]:
    """Turn SQLite's errors into ConfigError."""
    apsw = import_extra("apsw", "sqlite", "a store in SQLite")
    try:
        yield
    except apsw.Error as error:
        raise ConfigError(f"{target}: {error}") from error


@contextlib.contextmanager
def _transaction(database: Any, target: Target) -> Iterator[None]:
    """Make all changes or none. Turns SQLite's errors into ConfigError."""
    with _errors(target):
        database.execute("BEGIN IMMEDIATE")  # a writer that began as a reader could not wait for another writer
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:  # a full disk has ended it already
                database.execute("ROLLBACK")
            raise


def _has_table(database: Any, table: str) -> bool:
    names = (table, f"{table}_vectors")
    return bool(database.execute("SELECT 1 FROM sqlite_master WHERE name IN (?, ?)", names).fetchone())


def _stores(database: Any) -> list[str]:
    if not _has_table(database, "edgeembed_stores"):
        return []
    return [name for (name,) in database.execute("SELECT name FROM edgeembed_stores ORDER BY name")]


def _recorded(database: Any, table: str) -> str | None:
    """Return what is recorded about a store, as JSON; None if there is none."""
    if not _has_table(database, "edgeembed_stores"):
        return None
    row = database.execute("SELECT info FROM edgeembed_stores WHERE name = ?", (table,)).fetchone()
    return row[0] if row else None


def _batched(ids: Sequence[Id]) -> Iterator[Sequence[Id]]:
    for first in range(0, len(ids), _IDS_AT_ONCE):
        yield ids[first : first + _IDS_AT_ONCE]


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
