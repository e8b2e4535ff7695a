"""What is read from each kind of input, what is refused and why, and that reading can start at any position."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgeembed.bulk.inputs import Cursor
from edgeembed.errors import ConfigError
from tests.bulk.reading import opened, records, rejects


def text_file(folder: Path) -> Path:
    path = folder / "texts.txt"
    path.write_bytes(b"\xef\xbb\xbffirst\r\n\n  \nfourth: \xc3\xa4\nbad \xff byte\nlast without an end")
    return path


def jsonl_file(folder: Path) -> Path:
    path = folder / "texts.jsonl"
    path.write_text('{"text": "a", "key": 5}\n\n{"text": 3, "key": 6}\n{oops\n{"key": 8}\n[1]\n{"text": "b", "key": 9}\n')
    return path


def csv_file(folder: Path) -> Path:
    path = folder / "texts.csv"
    rows = b'key;text\nk1;"two\nlines; one ""text"""\nk2\n\nk3;plain\n;no key\nk5;\xff\nk6;"end"'
    path.write_bytes(rows)
    return path


def parquet_file(folder: Path) -> Path:
    path = folder / "texts.parquet"
    table = pa.table({"text": ["a", None, "c", "d", "e"], "key": [10, 11, 12, 13, None]})
    pq.write_table(table, path, row_group_size=2)
    return path


def folder_of_texts(folder: Path) -> Path:
    root = folder / "notes"
    (root / "b").mkdir(parents=True)
    (root / "a.md").write_text("One two three. Four five six seven eight nine ten.")
    (root / "b" / "c.txt").write_text("alpha beta")
    (root / "picture.png").write_bytes(b"\x89PNG\0\0")
    (root / "latin.txt").write_bytes("Käse".encode("latin-1"))
    (root / ".hidden").write_text("not this")
    (root / "empty.txt").touch()
    return root


def test_lines_keep_their_numbers_and_blank_ones_are_skipped(tmp_path: Path) -> None:
    inputs = opened(text_file(tmp_path))
    assert records(inputs) == [(0, "first"), (3, "fourth: ä"), (5, "last without an end")]
    ((place, reason),) = rejects(inputs)
    assert place == "line 5"
    assert "UTF-8" in reason


def test_each_bad_json_line_has_a_reason(tmp_path: Path) -> None:
    inputs = opened(jsonl_file(tmp_path), id_column="key")
    assert records(inputs) == [(5, "a"), (9, "b")]
    found = rejects(inputs)
    assert [place for place, _ in found] == ["line 3", "line 4", "line 5", "line 6"]
    for (_, reason), word in zip(found, ("'text' is not a string", "not JSON", "no field", "object"), strict=True):
        assert word in reason


def test_csv_with_quotes_line_breaks_and_semicolons(tmp_path: Path) -> None:
    inputs = opened(csv_file(tmp_path), id_column="key")
    assert records(inputs) == [("k1", 'two\nlines; one "text"'), ("k3", "plain"), ("k6", "end")]
    found = rejects(inputs)
    assert [place for place, _ in found] == ["row 2", "row 4", "row 5"]
    for (_, reason), word in zip(found, ("1 columns, but the header has 2", "'key' is empty", "UTF-8"), strict=True):
        assert word in reason


def test_parquet_rows_without_text_or_id_are_refused(tmp_path: Path) -> None:
    inputs = opened(parquet_file(tmp_path), id_column="key")
    assert records(inputs) == [(10, "a"), (12, "c"), (13, "d")]
    assert [place for place, _ in rejects(inputs)] == ["row 1", "row 4"]


def test_ids_of_chunks_name_file_and_characters(tmp_path: Path) -> None:
    root = folder_of_texts(tmp_path)
    inputs = opened(root)
    found = records(inputs)
    text = (root / "a.md").read_text()
    chunks = [(id_, part) for id_, part in found if str(id_).startswith("a.md#")]
    assert len(chunks) == 4
    for id_, part in found[: len(chunks)]:
        start, end = map(int, str(id_).partition("#")[2].split("-"))
        assert text[start:end] == part
    assert found[-1] == ("b/c.txt#0-10", "alpha beta")
    assert [place for place, _ in rejects(inputs)] == ["latin.txt", "picture.png"]


LONG = "One two three. Four five six seven eight nine ten. " * 3


def long_rows(folder: Path) -> Path:
    path = folder / "long.jsonl"
    rows = [{"text": "short", "key": 1}, {"text": LONG, "key": 2}, {"text": " ", "key": 3}, {"text": LONG, "key": "x"}]
    path.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    return path


def test_rows_are_cut_into_chunks_if_wanted(tmp_path: Path) -> None:
    found = records(opened(long_rows(tmp_path), id_column="key", chunk_rows=True))
    assert found[0] == ("1#0-5", "short")
    parts = [(str(id_).split("#")[1], text) for id_, text in found if str(id_).startswith("2#")]
    assert len(parts) > 5
    assert all(LONG[slice(*map(int, place.split("-")))] == text for place, text in parts)
    assert (3, " ") in found, "it is refused as an empty text, and not left out"
    assert [text for id_, text in found if str(id_).startswith("x#")] == [text for _, text in parts]
    other = text_file(tmp_path)
    assert records(opened(other, long_rows(tmp_path), chunk_rows=True))[0] == (f"{other}:0#0-5", "first")


@pytest.mark.parametrize("chunk_rows", [False, True])
@pytest.mark.parametrize("make", [text_file, jsonl_file, csv_file, parquet_file, folder_of_texts, long_rows])
def test_reading_can_start_at_any_position(tmp_path: Path, make: Callable[[Path], Path], chunk_rows: bool) -> None:
    """A resumed job reads the same ids, texts, rejects and places as an uninterrupted one."""
    id_column = None if make in (text_file, folder_of_texts) else "key"
    paths = [make(tmp_path), text_file(tmp_path) if id_column is None else make(tmp_path)]
    whole = list(opened(*paths, id_column=id_column, chunk_rows=chunk_rows).read(Cursor()))
    assert len(whole) > 4
    for index, step in enumerate(whole):
        inputs = opened(*paths, id_column=id_column, chunk_rows=chunk_rows)
        assert list(inputs.read(step.after)) == whole[index + 1 :]
    assert whole[-1].after.done == opened(*paths, id_column=id_column).size_bytes


def test_ids_of_several_inputs_name_the_input(tmp_path: Path) -> None:
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text("a\n")
    other.write_text("b\n")
    assert records(opened(one, other)) == [(f"{one}:0", "a"), (f"{other}:0", "b")]


@pytest.mark.parametrize(
    ("name", "content", "column", "word"),
    [
        ("a.csv", "x,y\n1,2\n", None, "--column: x, y"),
        ("a.csv", "x,y\n1,2\n", "z", "no column 'z'; it has: x, y"),
        ("a.csv", "", None, "empty"),
        ("a.txt", "line\n", "z", "no columns"),
        ("a.parquet", "this is no Parquet", None, "cannot read .* as Parquet"),
    ],
)
def test_an_unreadable_input_is_an_error(tmp_path: Path, name: str, content: str, column: str | None, word: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ConfigError, match=word):
        records(opened(path, column=column))


def test_an_overlong_line_is_refused_and_the_next_one_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeembed.bulk.lines.MAX_BYTES", 1000)
    for name, head in (("a.txt", ""), ("a.csv", "text\n")):
        path = tmp_path / name
        path.write_text(f"{head}short\n{'x' * 5000}\nnext\n")
        inputs = opened(path)
        assert [text for _, text in records(inputs)] == ["short", "next"]
        assert "longer than" in rejects(inputs)[0][1]
