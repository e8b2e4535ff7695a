"""Stores: rows are put, replaced, deleted and found alike in each kind; what made them is recorded and checked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeembed.bulk.stores.faiss_index import FaissOutput
from edgeembed.bulk.stores.interface import Store, StoreInfo, StoreRows
from edgeembed.bulk.stores.output import StoreOutput, output_of
from edgeembed.bulk.stores.sqlite import SqliteStore
from edgeembed.bulk.stores.targets import Target, kind_of
from edgeembed.errors import ConfigError
from tests.bulk.store_places import STORES, place_of

DIMENSIONS = 8
INFO = StoreInfo(
    model="m", digest="d" * 64, dimensions=DIMENSIONS, columns=("path", "number"), column_types=("string", "int64")
)


def vectors(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    found = np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def rows_of(ids: Sequence[int | str], seed: int = 0) -> StoreRows:
    paths = [f"file-{place % 3}.md" for place in range(len(ids))]
    columns = {"path": paths, "number": list(range(len(ids)))}
    return StoreRows(ids, vectors(len(ids), seed), [f"text of {id_}" for id_ in ids], columns)


@pytest.fixture(params=STORES)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    with place_of(request.param, tmp_path) as name:
        found = Target.parse(name)
        assert found is not None
        yield found


@pytest.fixture
def store(target: Target) -> Iterator[Store]:
    found = kind_of(target).create(target, INFO)
    yield found
    found.close()


def test_search_finds_the_nearest_rows_with_all_that_was_put(store: Store) -> None:
    rows = rows_of([f"row {number}" for number in range(30)])
    store.put(rows)
    query = vectors(1, seed=1)[0]
    scores = rows.vectors @ query
    best = np.argsort(-scores)[:5]
    found = store.search(query, 5)
    assert [row.id for row in found] == [rows.ids[place] for place in best]
    assert [row.score for row in found] == pytest.approx(scores[best].tolist(), abs=1e-5)
    assert found[0].text == f"text of {found[0].id}"
    assert found[0].columns == {"path": f"file-{best[0] % 3}.md", "number": best[0]}


def test_search_keeps_to_the_rows_that_a_condition_names(store: Store) -> None:
    store.put(rows_of([str(number) for number in range(30)]))
    query = vectors(1, seed=1)[0]
    everything = store.search(query, 30)
    wanted = [row.id for row in everything if row.columns["path"] == "file-1.md"]
    assert [row.id for row in store.search(query, 4, {"path": "file-1.md"})] == wanted[:4]
    several = [row.id for row in everything if row.columns["number"] in (3, 4, 5)]
    assert [row.id for row in store.search(query, 30, {"number": [3, 4, 5]})] == several
    assert store.search(query, 30, {"path": "file-1.md", "number": 3}) == []
    with pytest.raises(ConfigError, match="no column 'author'; its columns are path, number"):
        store.search(query, 3, {"author": "x"})


def test_a_row_with_an_id_that_exists_replaces_it(store: Store) -> None:
    store.put(rows_of(["a", "b", "c"]))
    store.put(rows_of(["b", "d"], seed=5))
    assert sorted(map(str, store.ids())) == ["a", "b", "c", "d"]
    assert store.count() == 4
    (found,) = store.search(vectors(2, seed=5)[0], 1)
    assert (found.id, found.columns["number"]) == ("b", 0)
    assert found.score == pytest.approx(1, abs=1e-5)
    assert found.id not in [row.id for row in store.search(vectors(3)[1], 1)]


def test_of_rows_with_the_same_id_the_last_one_stays(store: Store) -> None:
    store.put(rows_of(["a", "b", "a"]))
    assert store.count() == 2
    assert {row.id: row.columns["number"] for row in store.search(vectors(1)[0], 9)} == {"a": 2, "b": 1}


def test_rows_are_deleted_by_id_and_by_a_column(store: Store) -> None:
    store.put(rows_of([str(number) for number in range(9)]))
    store.delete(["0", "8", "none such"])
    assert store.count() == 7
    store.delete_where({"path": "file-1.md"})
    assert sorted(map(str, store.ids())) == ["2", "3", "5", "6"]
    assert {row.id for row in store.search(vectors(1)[0], 9)} == {"2", "3", "5", "6"}
    assert sorted(map(str, store.ids({"path": "file-2.md"}))) == ["2", "5"]


def test_what_was_put_is_there_when_the_store_is_opened_again(target: Target) -> None:
    with_numbers = StoreInfo(model="m", type="Q8_0", digest="e", dimensions=DIMENSIONS, ids="int")
    kind = kind_of(target)
    store = kind.create(target, with_numbers)
    store.put(StoreRows([7, 2**40], vectors(2)))
    store.close()
    store = kind.open(target)
    assert store.info == with_numbers
    assert sorted(int(id_) for id_ in store.ids()) == [7, 2**40]
    (found,) = store.search(vectors(2)[1], 1)
    assert (found.id, found.text, found.columns) == (2**40, None, {})
    store.close()


def test_a_store_is_removed_whole_and_made_again(target: Target) -> None:
    kind = kind_of(target)
    assert not kind.exists(target)
    kind.drop(target)
    kind.create(target, INFO).close()
    assert kind.exists(target)
    kind.drop(target)
    assert not kind.exists(target)
    with pytest.raises(ConfigError):
        kind.open(target)
    other = kind.create(target, StoreInfo(model="m", dimensions=4))
    assert (other.count(), other.info.dimensions) == (0, 4)
    other.close()


@pytest.mark.parametrize(
    ("model", "digest", "dimensions", "message"),
    [
        ("m", "e" * 64, DIMENSIONS, "was made with the file dddddddddddd of m, but m is the file eeeeeeeeeeee"),
        ("n", "", DIMENSIONS, "was made with m, not n"),
        ("m", "", 4, "has vectors of 8 dimensions, but those of m have 4"),
    ],
)
def test_vectors_of_another_model_are_refused(model: str, digest: str, dimensions: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        INFO.require_same_model(model, digest, dimensions, "sqlite:index.db#notes")


def test_the_same_model_is_accepted_with_and_without_its_digest() -> None:
    INFO.require_same_model("m", "d" * 64, DIMENSIONS, "x")
    INFO.require_same_model("an alias of it", "d" * 64, DIMENSIONS, "x")
    INFO.require_same_model("m", "", 2 * DIMENSIONS, "x")


@pytest.mark.parametrize("name", ["sqlite:", "sqlite:#t", "sqlite:a.db#t;drop", "sqlite:a.db#1", 'sqlite:a.db#a"b'])
def test_a_name_that_is_no_table_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        Target.parse(name)


@pytest.mark.parametrize(
    "name",
    [
        "postgresql://ann:s3cret@db.example/notes#t",
        "postgres://ann:s3cr@et@db.example/notes#t",
        "postgresql://db.example/notes?user=ann&password=s3cret#t",
        "postgresql:host=db.example password=s3cret#t",
        "qdrant:https://ann:s3cret@qdrant.example:6333#t",
    ],
)
def test_messages_and_a_jobs_own_files_name_a_store_without_its_password(name: str) -> None:
    target = Target.parse(name)
    assert target is not None
    assert "s3cr" in target.place
    assert not any(part in str(target) for part in ("s3cr", "et@"))
    assert "example" in str(target)
    assert target.file is None
    assert target.beside == Path(f"{target.kind}.t")


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("sqlite:{}/a.db", "sqlite_vec"),
        ("lancedb:{}/a", "lancedb"),
        ("qdrant:{}/a", "qdrant_client"),
        ("postgresql://nowhere.invalid/a", "psycopg"),
        ("{}/a.faiss", "faiss"),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_the_command_that_installs_it(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    output = output_of(name.format(tmp_path))
    assert isinstance(output, StoreOutput | FaissOutput)
    with pytest.raises(ConfigError, match=f"needs {module}: .*(edgeembed|install)"):
        output.require_library()


@pytest.mark.parametrize("name", ["qdrant:http://127.0.0.1:9#t", "postgresql://127.0.0.1:9/a#t"])
def test_a_server_that_does_not_answer_is_an_error_with_its_name(name: str) -> None:
    output = output_of(name)
    assert isinstance(output, StoreOutput)
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9.*[Rr]efused"):
        output.require_library()


def test_files_are_no_stores() -> None:
    assert Target.parse("C:\\vectors.parquet") is None
    assert Target.parse("folder/vectors.npy") is None


# --- SQLite -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore.create(tmp_path / "new folder" / "index.db", "notes", INFO)
    yield store
    store.close()


def test_sqlite_replaces_the_rows_of_a_file_in_one_step(notes: SqliteStore) -> None:
    notes.put(rows_of([str(number) for number in range(6)]))
    broken = StoreRows(["new"], vectors(1)[:, :4], ["new text"], {"path": ["file-0.md"]})
    with pytest.raises(ConfigError):
        notes.replace({"path": "file-0.md"}, broken)
    assert notes.count() == 6
    notes.replace({"path": "file-0.md"}, broken._replace(vectors=vectors(1)))
    assert sorted(notes.ids()) == ["1", "2", "4", "5", "new"]
    assert sorted(notes.rows(["path"], {"path": ["file-0.md", "file-1.md"]})) == [
        ("1", "file-1.md"),
        ("4", "file-1.md"),
        ("new", "file-0.md"),
    ]


def test_sqlite_holds_several_stores_and_tables_of_others(notes: SqliteStore) -> None:
    notes.put(rows_of(["a"]))
    file = notes._target.place
    notes._database.execute("CREATE TABLE theirs (a)")
    with SqliteStoreOf(file, "other") as other:
        other.put(rows_of(["b", "c"]))
        assert (notes.count(), other.count()) == (1, 2)
    theirs = Target("sqlite", file, "theirs")
    kind = kind_of(theirs)
    assert kind.exists(theirs)
    for refused in (lambda: kind.create(theirs, INFO), lambda: kind.open(theirs), lambda: kind.drop(theirs)):
        _refuses(refused)
    kind.drop(Target("sqlite", file, "other"))
    assert notes.count() == 1


def test_sqlite_names_the_stores_that_a_file_has(notes: SqliteStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no store vectors; it has notes"):
        SqliteStore.open(notes._target.place, "vectors")
    with pytest.raises(ConfigError, match="no such file"):
        SqliteStore.open(tmp_path / "none.db", "vectors")
    (tmp_path / "no.db").write_text("This is no database, but a text that is longer than a header of one. " * 20)
    with pytest.raises(ConfigError, match="not a database"):
        SqliteStore.open(tmp_path / "no.db", "vectors")


def test_sqlite_takes_any_name_of_a_column_and_any_value(tmp_path: Path) -> None:
    name = 'a "name", with; signs'
    info = StoreInfo(model="m", dimensions=DIMENSIONS, columns=(name,))
    with SqliteStoreOf(str(tmp_path / "x.db"), "t", info) as store:
        values: list[Any] = [None, True, 1.5, "it's", ["a", {"b": 1}]]
        store.put(StoreRows(list("abcde"), vectors(5), None, {name: values}))
        stored = dict(store.rows([name]))
        assert stored == {"a": None, "b": 1, "c": 1.5, "d": "it's", "e": '["a",{"b":1}]'}
        assert [row.id for row in store.search(vectors(1)[0], 5, {name: None})] == ["a"]
        assert [row.id for row in store.search(vectors(1)[0], 5, {name: "it's"})] == ["d"]
    with pytest.raises(ConfigError, match="cannot be called 'Text'"):
        SqliteStore.create(tmp_path / "y.db", "t", StoreInfo(model="m", dimensions=4, columns=("Text",)))


class SqliteStoreOf:
    """A store that is closed at the end."""

    def __init__(self, file: str, table: str, info: StoreInfo = INFO) -> None:
        self._store = SqliteStore.create(file, table, info)

    def __enter__(self) -> SqliteStore:
        return self._store

    def __exit__(self, *_: object) -> None:
        self._store.close()


def _refuses(call: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        call()
