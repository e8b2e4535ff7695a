"""The contract with diskcache: what we use of it beside its documentation is as it was in the version we wrote for."""

from __future__ import annotations

import contextlib
import inspect
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import diskcache
import pytest

from edgeembed.cache.diskcache_store import (
    DATABASE,
    PAGES_CACHED,
    WRITTEN_FOR,
    BytesDisk,
    DiskcacheStore,
    NewRow,
    StoreTimeout,
)

KEY = b"k" * 32


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskcacheStore]:
    with contextlib.closing(DiskcacheStore(tmp_path, 2**20)) as opened:
        yield opened


def sql(folder: Path, statement: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as connection:
        return connection.execute(statement).fetchall()


def test_the_version_is_the_one_that_the_module_was_written_for() -> None:
    """When this fails: run the tests below with the new version, read its changes of core.py, then set WRITTEN_FOR."""
    assert diskcache.__version__ == WRITTEN_FOR


def test_the_table_has_the_columns_and_indexes_that_we_use(store: DiskcacheStore, tmp_path: Path) -> None:
    columns = {name: kind for _, name, kind, *_ in sql(tmp_path, "PRAGMA table_info(Cache)")}
    assert columns == {
        "rowid": "INTEGER", "key": "BLOB", "raw": "INTEGER", "store_time": "REAL", "expire_time": "REAL",
        "access_time": "REAL", "access_count": "INTEGER", "tag": "BLOB", "size": "INTEGER", "mode": "INTEGER",
        "filename": "TEXT", "value": "BLOB",
    }  # fmt: skip
    indexes = {str(name) for _, name, *_ in sql(tmp_path, "PRAGMA index_list(Cache)")}
    assert {"Cache_key_raw", "Cache_tag_rowid", "EdgeembedOrder"} <= indexes, indexes
    assert DATABASE == "cache.db"


def test_little_of_the_file_is_kept_in_the_memory_of_the_process(tmp_path: Path) -> None:
    with contextlib.closing(diskcache.Cache(str(tmp_path))) as with_settings_of_its_own:
        with_settings_of_its_own.set("a", 1)
    with contextlib.closing(DiskcacheStore(tmp_path, 2**20)) as store:
        assert store._sql("PRAGMA cache_size").fetchall() == [(PAGES_CACHED,)]
        assert store._sql("PRAGMA mmap_size").fetchall() == [(0,)]


def test_a_row_is_written_as_we_read_it(store: DiskcacheStore, tmp_path: Path) -> None:
    store.set_many([NewRow(KEY, b"value", "label")])
    columns = "key, raw, expire_time, access_count, tag, size, mode, filename, value, access_time = store_time"
    assert sql(tmp_path, f"SELECT {columns} FROM Cache") == [(KEY, 1, None, 0, "label", 0, 1, None, b"value", 1)]
    assert store.protect(KEY) == "promoted" and store.protect(KEY) == "refreshed"
    assert store.protect(b"another") == "absent"
    assert store.get(KEY) == b"value"
    assert sql(tmp_path, "SELECT access_count FROM Cache") == [(1,)], "a read does not change a row"
    store.set_many([NewRow(KEY, b"newer", "label")])
    assert sql(tmp_path, "SELECT access_count FROM Cache") == [(0,)], "a write puts it on probation"


def test_rows_are_those_that_diskcache_would_have_written(store: DiskcacheStore, tmp_path: Path) -> None:
    columns = "raw, expire_time, access_count, tag, size, mode, filename, value, access_time = store_time"
    theirs, ours = b"t" * 32, b"o" * 32
    for _ in range(2):  # as new rows, and over older ones
        store._cache.set(theirs, b"value", tag="label")
        store.set_many([NewRow(ours, b"value", "label")])
        (one,), (other,) = (
            sql(tmp_path, f"SELECT {columns} FROM Cache WHERE key = x'{key.hex()}'") for key in (theirs, ours)
        )
        assert one == other
        assert store._cache.get(ours) == b"value"
        assert len(store) == 2, "triggers count the rows"
        store.protect(theirs), store.protect(ours)


def test_many_rows_are_stored_at_once(store: DiskcacheStore, tmp_path: Path) -> None:
    keys = [number.to_bytes(32, "big") for number in range(150)]
    store.set_many([NewRow(key, key, "label", number == 3, 100.0 * (number == 4)) for number, key in enumerate(keys)])
    assert [store.get(key) for key in keys] == keys
    assert store.count_protected() == 1
    assert sql(tmp_path, "SELECT round(store_time - access_time) FROM Cache WHERE rowid = 5") == [(100.0,)]
    store.set_many([])
    assert len(store) == 150


def test_deleted_rows_are_no_longer_counted(store: DiskcacheStore) -> None:
    for number in range(10):
        store.set_many([NewRow(bytes([number]) * 32, b"value", "label")])
    with store.transaction():
        store.delete_next(3)
    assert len(store) == 7
    store.set_many([NewRow(KEY, b"value", "other")])
    assert store.evict("unknown") == 0 and store.evict("label") == 7
    assert len(store) == 1 and store.clear() == 1 and len(store) == 0


def test_diskcache_itself_never_removes_a_row(store: DiskcacheStore) -> None:
    for number in range(300):
        store.set_many([NewRow(number.to_bytes(32, "big"), bytes(8192), "label")])
    assert store.volume() > 2**20, "the limit is exceeded"
    assert len(store) == 300


def test_our_disk_replaces_every_method_that_reads_or_writes_entries() -> None:
    for name in ("put", "get", "store", "fetch"):
        ours, theirs = getattr(BytesDisk, name), getattr(diskcache.Disk, name)
        assert ours is not theirs
        assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters), name
    assert diskcache.core.MODE_RAW == 1


def test_a_connection_commits_each_statement_and_knows_whether_it_is_in_a_transaction(
    store: DiskcacheStore, tmp_path: Path
) -> None:
    store.clears = 3
    assert sql(tmp_path, "PRAGMA user_version") == [(3,)]
    store._sql("BEGIN")
    assert store._cache._con.in_transaction
    store.roll_back()
    assert not store._cache._con.in_transaction
    store.roll_back()


def test_a_transaction_that_cannot_begin_is_a_timeout_whatever_the_reason(store: DiskcacheStore) -> None:
    store._sql("PRAGMA query_only = ON")
    with pytest.raises(StoreTimeout), store.transaction():
        pass
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store.raise_real_reason()


def test_another_connections_write_changes_the_version_and_ours_does_not(store: DiskcacheStore, tmp_path: Path) -> None:
    before = store.data_version
    store.set_many([NewRow(KEY, b"value", "label")])
    assert store.data_version == before
    with contextlib.closing(DiskcacheStore(tmp_path, 2**20)) as other:
        other.set_many([NewRow(KEY, b"other", "label")])
        assert store.data_version != before
