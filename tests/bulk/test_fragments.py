"""Fragments: together they hold what the inputs hold, each can be read by itself and from anywhere in it."""

from __future__ import annotations

import gzip
import json
import pickle
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgeembed.bulk import fragments, tables
from edgeembed.bulk.formats import Columns
from edgeembed.bulk.fragments import Fragment, kept_types, plan, read_fragment
from edgeembed.bulk.inputs import Cursor, Step, open_inputs
from edgeembed.bulk.places import Place, PlaceError
from edgeembed.bulk.records import Position, Record, Reject
from edgeembed.errors import ConfigError
from edgeembed.inference.chunking import Chunker, ChunkRules, WordTokens
from tests.bulk.dataset_hub import REPOSITORY, TOKEN, dataset_hub
from tests.bulk.object_store import ObjectStore, object_store
from tests.bulk.reading import count
from tests.bulk.web_server import web_server

CHUNKER = Chunker(ChunkRules(6, 2), WordTokens(count))


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fragments are small."""
    monkeypatch.setattr(fragments, "FRAGMENT_BYTES", 997)
    monkeypatch.setattr(fragments, "FRAGMENT_ROWS", 20)


def upload(store: ObjectStore, folder: Path) -> str:
    """Put the files of a folder into the store, and return the URI of what was made of the folder."""
    root = Place.of(f"{store.root}/{folder.parent.name}/{folder.name}")
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            root.child(file.relative_to(folder).as_posix()).write_bytes(file.read_bytes())
    return root.name


def steps_of(found: Sequence[Fragment], columns: Columns, chunker: Chunker | None = None) -> list[Step]:
    return [step for fragment in found for step in read_fragment(fragment, columns, chunker)]


def rows_of(found: Sequence[Fragment], columns: Columns, chunker: Chunker | None = None) -> list[tuple[object, str]]:
    return [(s.read.id, s.read.text) for s in steps_of(found, columns, chunker) if isinstance(s.read, Record)]


def stream_of(*names: str) -> list[tuple[object, str]]:
    """Return the same by the reader of a whole job."""
    inputs = open_inputs(names, None, Columns(), CHUNKER)
    return [(step.read.id, step.read.text) for step in inputs.read(Cursor()) if isinstance(step.read, Record)]


def require_resumable(found: Sequence[Fragment], columns: Columns, chunker: Chunker | None = None) -> None:
    for fragment in found:
        whole = list(read_fragment(fragment, columns, chunker))
        for index, step in enumerate(whole):
            assert list(read_fragment(fragment, columns, chunker, step.after.place)) == whole[index + 1 :]
            assert step.after.input == fragment.input
            assert (whole[index - 1].after.done if index else 0) <= step.after.done <= fragment.bytes


def write_lines(path: Path, rows: int = 400) -> list[str]:
    """Write objects with texts of many lengths, among them blank lines, and return the texts."""
    rng = random.Random(3)
    lines = [
        json.dumps({"text": "ä" * rng.randrange(90) + str(row)}, ensure_ascii=False) if row % 7 else ""
        for row in range(rows)
    ]
    path.write_text("\ufeff" + "\r\n".join(lines) + "\r\n" * (rows % 2), encoding="utf-8", newline="")
    return [json.loads(line)["text"] for line in lines if line]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("where", ["path", "s3"])
@pytest.mark.parametrize("form", ["jsonl", "txt"])
def test_ranges_of_lines_hold_each_line_once(store: ObjectStore, tmp_path: Path, where: str, form: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    file = folder / f"a.{form}"
    texts = write_lines(file, 400 if where == "path" else 60)
    if form == "txt":
        texts = [line for line in file.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    name = str(file) if where == "path" else f"{upload(store, folder)}/{file.name}"
    found = plan([name], None, Columns())
    assert len(found) == -(-file.stat().st_size // 997)
    assert [fragment.index for fragment in found] == list(range(len(found)))
    assert sum(fragment.bytes for fragment in found) == file.stat().st_size
    rows = rows_of(found, Columns())
    assert [text for _, text in rows] == texts
    content = file.read_bytes()
    for id_, text in rows:  # the offset of its line
        assert isinstance(id_, int)
        line = content[id_:].removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0].decode()
        assert line.rstrip("\r") == text if form == "txt" else json.loads(line)["text"] == text
    require_resumable(found[:3], Columns())


@pytest.mark.usefixtures("small")
def test_a_line_that_is_longer_than_several_ranges_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(f"one\n{'long ' * 1000}\nthree")
    found = plan([str(file)], None, Columns())
    assert len(found) == 6
    assert [len(text) for _, text in rows_of(found, Columns())] == [3, 5000, 5]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("where", ["path", "s3"])
def test_row_groups_hold_each_row_once_and_the_path_is_a_column(store: ObjectStore, tmp_path: Path, where: str) -> None:
    root = tmp_path / "set"
    for year, rows in ((2023, 1), (2024, 90), (2025, 33)):
        (root / f"year={year}" / "lang=a%20b").mkdir(parents=True)
        table = pa.table({"text": [f"{year} {row}" for row in range(rows)], "size": pa.array(range(rows), pa.int16())})
        pq.write_table(table, root / f"year={year}" / "lang=a%20b" / "x.parquet", row_group_size=7)
    pq.write_table(pa.table({"text": ["not this"]}), root / "_summary.parquet")
    name = str(root) if where == "path" else upload(store, root)
    columns = Columns(keep=["size", "year", "lang"])
    found = plan([name], None, columns)
    assert [fragment.rows for fragment in found] == [1, 14, 14, 14, 14, 14, 20, 14, 19]
    assert {**kept_types(found[0], columns), "size": ""} == {"size": "", "year": "int64", "lang": "string"}
    steps = steps_of(found, columns)
    reads = [step.read for step in steps if isinstance(step.read, Record)]
    assert [read.text for read in reads] == [
        f"{y} {row}" for y, rows in ((2023, 1), (2024, 90), (2025, 33)) for row in range(rows)
    ]
    assert [read.id for read in reads][-1] == "year=2025/lang=a%20b/x.parquet:32"
    assert {**reads[-1].kept, "size": reads[-1].kept["size"].as_py()} == {"size": 32, "year": 2025, "lang": "a b"}
    require_resumable(found[-3:], columns)


def test_large_row_groups_are_divided_and_small_ones_are_joined(tmp_path: Path) -> None:
    table = pa.table({"text": [str(row) for row in range(200_000)]})
    for name, group in (("a.parquet", 200_000), ("b.parquet", 1000), ("c.parquet", 65_536)):
        pq.write_table(table, tmp_path / name, row_group_size=group)
    divided = plan([str(tmp_path / "a.parquet")], None, Columns())
    assert [fragment.rows for fragment in divided] == [50_000] * 4
    assert sum(fragment.bytes for fragment in divided) == (tmp_path / "a.parquet").stat().st_size
    assert rows_of(divided, Columns()) == [(row, str(row)) for row in range(200_000)]
    assert [fragment.rows for fragment in plan([str(tmp_path / "c.parquet")], None, Columns())] == [65_536] * 3 + [3392]
    assert [fragment.rows for fragment in plan([str(tmp_path / "b.parquet")], None, Columns())] == [
        65_000,
        65_000,
        65_000,
        5000,
    ]


@pytest.mark.usefixtures("small")
def test_parts_of_row_groups_hold_each_row_once_whatever_is_around_them(tmp_path: Path) -> None:
    """Groups of other sizes before and after those that are divided, empty ones among them."""
    schema = pa.schema({"text": "string"})
    with pq.ParquetWriter(tmp_path / "a.parquet", schema) as file:
        at = 0
        for rows in (3, 0, 50, 20, 0, 21, 1, 61, 2):
            file.write_table(
                pa.table({"text": [str(row) for row in range(at, at + rows)]}, schema), row_group_size=max(rows, 1)
            )
            at += rows
    found = plan([str(tmp_path / "a.parquet")], None, Columns())
    assert [fragment.rows for fragment in found] == [3, 16, 17, 17, 20, 10, 11, 1, 15, 15, 15, 16, 2]
    assert rows_of(found, Columns()) == [(row, str(row)) for row in range(158)]
    require_resumable(found, Columns())


def test_a_part_of_a_row_group_is_read_up_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by a server: neither what follows a part is fetched, nor other columns."""
    monkeypatch.setattr(tables, "REMOTE_BUFFER_BYTES", 2**16)
    monkeypatch.setattr(fragments, "FRAGMENT_ROWS", 4096)
    noise, rows, width = random.Random(1), 4 * 4096, 100
    table = pa.table({"text": [noise.randbytes(width // 2).hex() for _ in range(rows)], "other": ["x" * width] * rows})
    pages = {"compression": "none", "use_dictionary": False, "data_page_size": 2**16}
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=rows, **pages)
    with web_server(tmp_path) as server:
        found = plan([f"{server.url}/a.parquet"], None, Columns())
        assert [fragment.rows for fragment in found] == [4096] * 4
        for part, fragment in enumerate(found, 1):
            before = server.sent
            assert sum(1 for _ in read_fragment(fragment, Columns(), None)) == 4096
            assert server.sent - before < (part + 0.5) * 4096 * (width + 4)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("form", ["a.jsonl.gz", "a.json", "a.csv"])
def test_what_cannot_be_cut_is_one_fragment(tmp_path: Path, form: str) -> None:
    texts = [f"{'word ' * 20}\n{row}" for row in range(60)]
    content = {
        "a.jsonl.gz": lambda: gzip.compress("\n".join(json.dumps({"text": text}) for text in texts).encode()),
        "a.json": lambda: json.dumps([{"text": text} for text in texts]).encode(),
        "a.csv": lambda: ("text\n" + "\n".join(f'"{text}"' for text in texts)).encode(),
    }[form]()
    (tmp_path / form).write_bytes(content)
    found = plan([str(tmp_path / form)], None, Columns())
    assert len(found) == 1
    assert [text for _, text in rows_of(found, Columns())] == texts
    require_resumable(found, Columns())


def folder_of_texts(folder: Path) -> Path:
    (folder / "b").mkdir(parents=True)
    (folder / "a.md").write_text("One two three. Four five six seven eight nine ten.")
    (folder / "b" / "c.txt").write_text("alpha beta")
    (folder / "latin.txt").write_bytes("Käse".encode("latin-1"))
    (folder / "empty.txt").touch()
    (folder / "b" / "page.html").write_text("<title>Of a page</title><p>gamma delta</p>")
    return folder


@pytest.mark.parametrize("where", ["path", "s3"])
def test_the_texts_of_a_folder_are_cut_as_in_a_job_of_one_process(store: ObjectStore, tmp_path: Path, where: str) -> None:
    root = folder_of_texts(tmp_path / "notes")
    name = str(root) if where == "path" else upload(store, root)
    found = plan([name], None, Columns())
    assert rows_of(found, Columns(), CHUNKER) == stream_of(str(root))
    assert rows_of(found, Columns(), CHUNKER) == stream_of(name)
    assert [step.read.place for step in steps_of(found, Columns(), CHUNKER) if isinstance(step.read, Reject)] == [
        "latin.txt"
    ]
    require_resumable(found, Columns(), CHUNKER)


def test_many_small_texts_are_few_fragments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fragments, "FRAGMENT_FILES", 10)
    for number in range(25):
        (tmp_path / f"{number:02}.txt").write_text(f"text {number}. " * 3)
    found = plan([str(tmp_path)], None, Columns())
    assert [len(fragment.files) for fragment in found] == [10, 10, 5]
    assert len({fragment.version for fragment in found}) == 3
    assert rows_of(found, Columns(), CHUNKER) == stream_of(str(tmp_path))
    require_resumable(found, Columns(), CHUNKER)
    (tmp_path / "12.txt").write_text("other")
    with pytest.raises(ConfigError, match=r"12\.txt has changed since the job began"):
        rows_of(found, Columns(), CHUNKER)


def write_rows(folder: Path, form: str) -> Path:
    """Write small files, in folders of a year each, with a row that has no text in the fourth."""
    for number in range(7):
        texts = [f"file {number} row {row}" for row in range(number)]
        if number == 3:
            texts[1] = ""
        rows = [{"text": text, "size": len(text)} for text in texts]
        lines = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
        content = {
            "jsonl": lines,
            "jsonl.gz": gzip.compress(lines),
            "json": json.dumps(rows).encode(),
            "csv": "".join(
                f"{line}\n" for line in ("text,size", *(f"{row['text']},{row['size']}" for row in rows))
            ).encode(),
            "parquet": b"",
        }[form]
        file = folder / f"year={2020 + number // 2}" / f"{number}.{form}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist(rows, pa.schema({"text": "string", "size": "int64"})), file)
    return folder


@pytest.mark.parametrize("where", ["path", "s3", "two"])
@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "json", "csv", "parquet"])
def test_small_files_of_rows_are_few_fragments_and_read_as_each_by_itself(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, form: str
) -> None:
    root = write_rows(tmp_path / form, form)
    names = [upload(store, root) if where == "s3" else str(root), *([str(root / "year=2023")] if where == "two" else ())]
    columns = Columns(text="text", keep=["size"] if where == "two" else ["size", "year"])
    found = plan(names, None, columns)
    assert [len(fragment.files) for fragment in found] == [
        7 - (form in ("jsonl", "parquet")),
        *([0] if where == "two" else []),
    ]
    monkeypatch.setattr(fragments, "FRAGMENT_FILES", 1)
    each = plan(names, None, columns)
    assert sum(fragment.bytes for fragment in found) == sum(fragment.bytes for fragment in each)
    assert kept_types(found[0], columns) == kept_types(each[0], columns)
    for chunker in (None, CHUNKER):
        steps = [(step.input, step.read._replace(after=Position())) for step in steps_of(found, columns, chunker)]
        assert steps == [(step.input, step.read._replace(after=Position())) for step in steps_of(each, columns, chunker)]
        require_resumable(found, columns, chunker)
    reads = [step.read for step in steps_of(found[:1], columns)]
    assert len(reads) == 21
    last = reads[-1]
    assert isinstance(last, Record)
    assert str(last.id).startswith(f"{names[0]}/year=2023/6.{form}:" if where == "two" else f"year=2023/6.{form}:")
    assert where == "two" or last.kept["year"] == 2023


def test_small_files_of_rows_are_together_up_to_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And only whole ones: not with the end of a file that is divided."""
    for number in range(10):
        rows = 400 if number == 4 else 10
        (tmp_path / f"{number}.jsonl").write_text("".join(f'{{"text": "{row:085}"}}\n' for row in range(rows)))
        pq.write_table(pa.table({"text": [str(row) for row in range(rows)]}), tmp_path / f"{number}.parquet")

    def sizes(form: Any) -> list[int]:
        return [len(fragment.files) for fragment in plan([str(tmp_path)], form, Columns())]

    assert sizes("jsonl") == sizes("parquet") == [10]
    with monkeypatch.context() as patch:
        patch.setattr(fragments, "FRAGMENT_BYTES", 36_000)
        patch.setattr(fragments, "JOINED_BYTES", 3000)
        assert sizes("jsonl") == [3, 0, 0, 0, 3, 2]
        assert [index.index for index in plan([str(tmp_path)], "jsonl", Columns())] == list(range(6))
    with monkeypatch.context() as patch:
        patch.setattr(fragments, "FRAGMENT_ROWS", 100)
        patch.setattr(fragments, "JOINED_ROWS", 50)
        assert sizes("parquet") == [4, 0, 0, 0, 0, 5]
        patch.setattr(fragments, "FRAGMENT_FILES", 2)
        assert sizes("parquet") == [2, 2, 0, 0, 0, 0, 2, 2, 0]


def test_each_file_of_a_fragment_is_checked_for_changes(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("one\ntwo\n")
    (found,) = plan([str(tmp_path)], "text", Columns())
    steps = read_fragment(found, Columns(), None)
    assert [next(steps).input for _ in range(3)][-1] == str(tmp_path / "1.txt")
    with (tmp_path / "1.txt").open("a") as lines:
        lines.write("three\n")
    with pytest.raises(ConfigError, match=r"1\.txt has changed since the job began"):
        list(steps)
    (tmp_path / "1.txt").unlink()
    with pytest.raises(ConfigError, match=r"1\.txt is gone since the job began"):
        list(read_fragment(found, Columns(), None))
    last = found.files[-1].relative
    assert len(list(read_fragment(found, Columns(), None, Position(file=last)))) == 2, "the others are not read"


def test_a_document_among_the_inputs_gives_all_fragments_its_columns(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.html").write_text("<title>Title</title><p>text")
    for names in ([str(tmp_path)], [str(tmp_path / "a.txt"), str(tmp_path / "b" / "c.html")]):
        found = plan(names, None, Columns())
        assert [kept_types(fragment, Columns()) for fragment in found] == [{"title": "string", "page": "int64"}] * len(found)
    assert [fragment.format for fragment in plan(names, None, Columns())] == ["text", "document"]


def test_chunks_of_rows_have_the_ids_of_their_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one two three four five six seven"}\n{"text": "eight"}')
    found = plan([str(tmp_path / "a.jsonl")], None, Columns())
    assert [id_ for id_, _ in rows_of(found, Columns(), CHUNKER)][-1] == "46#0-5"
    require_resumable(found, Columns(), CHUNKER)


def test_a_folder_of_several_formats_needs_one_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}')
    (tmp_path / "b.csv").write_text("text\nb")
    with pytest.raises(ConfigError, match=r"1 of the format csv, 1 of the format jsonl\); choose one with --format"):
        plan([str(tmp_path)], None, Columns())
    assert rows_of(plan([str(tmp_path)], "csv", Columns()), Columns()) == [(0, "b")]
    with pytest.raises(ConfigError, match="has no parquet files"):
        plan([str(tmp_path)], "parquet", Columns())


def test_mistakes_show_in_the_plan(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["a"], "title": ["b"]}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text('{"body": "a"}\n')
    with pytest.raises(ConfigError, match="--column: body, title"):
        plan([str(tmp_path / "a.parquet")], None, Columns())
    with pytest.raises(ConfigError, match=r"it has: body\. Name the one that holds the texts with --column"):
        plan([str(tmp_path / "a.jsonl")], None, Columns())
    with pytest.raises(ConfigError, match="no such file"):
        plan([str(tmp_path / "none.jsonl")], None, Columns())
    with pytest.raises(ConfigError, match="standard input"):
        plan(["-"], "jsonl", Columns())


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\ntwo\n")
    (found,) = plan([str(file)], None, Columns())
    steps = read_fragment(found, Columns(), None)
    next(steps)
    with file.open("a") as lines:
        lines.write("three\n")
    with pytest.raises(ConfigError, match=r"a\.txt has changed since the job began"):
        list(steps)


def test_a_file_that_changed_since_the_plan_is_named(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("one")
    for name in (str(tmp_path / "in" / "a.txt"), f"{upload(store, tmp_path / 'in')}/a.txt"):
        (found,) = plan([name], None, Columns())
        Place.of(name).write_bytes(b"other")
        with pytest.raises(ConfigError, match=r"a\.txt has changed since the job began"):
            rows_of([found], Columns())
        Place.of(name).remove()
        with pytest.raises(ConfigError, match=r"a\.txt is gone"):
            rows_of([found], Columns())


@pytest.mark.parametrize("form", ["named", "large", "parquet"])
def test_content_of_the_same_size_in_the_same_second_is_a_change_in_s3(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """By the ETag, of each file that the plan opens anyway. Of a few tries, most are within a second."""
    monkeypatch.setattr(fragments, "FRAGMENT_BYTES", 10 if form == "large" else 1000)
    file = Place.of(f"{store.root}/{tmp_path.name}/a.{'parquet' if form == 'parquet' else 'txt'}")
    name = file.name if form == "named" else file.name.rpartition("/")[0]

    def write(text: str) -> int:
        content = f"{text}\nof several\n".encode()
        if form == "parquet":
            pq.write_table(pa.table({"text": [text]}), tmp_path / "a")
            content = (tmp_path / "a").read_bytes()
        file.write_bytes(content)
        return len(content)

    for number in range(5):
        sizes = [write(f"{number} before")]
        found = plan([name], None if form == "parquet" else "text", Columns())
        assert rows_of(found, Columns())[0][1] == f"{number} before"
        etag = file.require().etag
        assert etag and all(fragment.version.endswith(etag) for fragment in found)
        sizes.append(write(f"{number} behind"))
        assert sizes[0] == sizes[1]
        with pytest.raises(ConfigError, match=rf"{file.file_name} has changed since the job began"):
            rows_of(found, Columns())


def test_planning_reads_only_footers(tmp_path: Path) -> None:
    """Counted by a server that is asked for each file."""
    noise = random.Random(1)
    table = pa.table({"text": [noise.randbytes(500).hex() for _ in range(4000)]})
    for number in range(4):
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=500)
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    with web_server(tmp_path) as server:
        found = plan([f"{server.url}/{number}.parquet" for number in range(4)], None, Columns())
        assert len(found) == 4
        assert sum(fragment.bytes for fragment in found) == size > 8_000_000
        before = server.sent
        found = plan([f"{server.url}/0.parquet"], None, Columns())
        footer = int.from_bytes((tmp_path / "0.parquet").read_bytes()[-8:-4], "little")
        assert footer < 2**16 - 8, "so that pyarrow fetches 64 KiB"
        assert server.sent - before < 2**16 + 2**13 + 100, "the end, the beginning, and a byte for each look at the size"


@pytest.mark.parametrize("ranges", [True, False])
def test_files_of_a_web_server_are_read_in_ranges_or_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranges: bool
) -> None:
    monkeypatch.setattr(fragments, "FRAGMENT_BYTES", 4000)
    texts = write_lines(tmp_path / "a.jsonl")
    with web_server(tmp_path) as server:
        server.ranges = ranges
        name = f"{server.url}/a.jsonl?token=53cret"
        found = plan([name], None, Columns())
        assert (len(found) > 3) == ranges
        assert [text for _, text in rows_of(found, Columns())] == texts
        assert [text for _, text in stream_of(name)] == texts
        assert "53cret" not in repr(found)
        assert all("53cret" not in step.input for step in steps_of(found, Columns()))
        require_resumable(found[:1], Columns()) if ranges else None


def test_several_inputs_have_their_names_before_numbers(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"first\n{name}")
    names = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    found = plan(names, None, Columns())
    assert [(fragment.input, fragment.index) for fragment in found] == [(0, 0), (1, 0)]
    assert pickle.loads(pickle.dumps(found)) == found  # noqa: S301 - our own, as Ray sends them
    assert len(pickle.dumps(found[0])) < 1000
    expected: list[tuple[Any, str]] = [
        *((f"{name}:{offset}", text) for name in names for offset, text in ((0, "first"), (6, Path(name).name)))
    ]
    assert rows_of(found, Columns()) == expected


def test_a_repository_of_a_hub_is_a_folder_and_needs_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for year in (2024, 2025):
        (tmp_path / f"year={year}").mkdir()
        pq.write_table(pa.table({"text": [f"{year}"]}), tmp_path / f"year={year}" / "a.parquet")
        (tmp_path / f"year={year}" / "b.jsonl").write_text(f'{{"text": "{year} b"}}\n')
    with dataset_hub(tmp_path) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        name, columns = f"hf://datasets/{REPOSITORY}", Columns(keep=("year",))
        for format_, texts in (("parquet", ["2024", "2025"]), ("jsonl", ["2024 b", "2025 b"])):
            found = plan([name], format_, columns)  # type: ignore[arg-type]
            reads = [step.read for step in steps_of(found, columns)]
            assert [(read.text, read.kept["year"]) for read in reads if isinstance(read, Record)] == [
                (text, int(text[:4])) for text in texts
            ]
        monkeypatch.setenv("HF_TOKEN", "hf_0ther")
        with pytest.raises(
            PlaceError, match=r"cannot list hf://datasets/owner/texts: .*401.*HF_TOKEN if it is private"
        ) as caught:
            Place.of(name).files()
        assert "hf_0ther" not in caught.value.message
