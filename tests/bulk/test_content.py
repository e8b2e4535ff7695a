"""Files are known by what they hold: compression is undone, and what is no text is refused, whatever its name."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgeembed.bulk import lines
from edgeembed.bulk.content import content_of
from edgeembed.bulk.inputs import Cursor, looks_like_file
from edgeembed.bulk.lines import stdin_lines
from edgeembed.bulk.warm_up import read_queries
from edgeembed.errors import CacheFileError, ConfigError
from tests.bulk.reading import opened, records, rejects

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": lambda content: zstd.compress(content, options={zstd.CompressionParameter.checksum_flag: 1}),
    "bz2": bz2.compress,
    "xz": lzma.compress,
}
ROWS = [{"text": f"text {row} {row * 7919 % 1000}", "key": row} for row in range(400)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
EXPECTED = [(row["key"], row["text"]) for row in ROWS]


def stdin_of(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a.jsonl.{}", "a.jsonl"])
@pytest.mark.parametrize("kind", COMPRESS)
def test_compressed_lines_are_read_whatever_the_files_name(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / name.format(kind)
    middle = LINES.index(b"\n", len(LINES) // 2) + 1
    path.write_bytes(COMPRESS[kind](LINES[:middle]) + COMPRESS[kind](LINES[middle:]))  # of two parts, as pigz makes them
    inputs = opened(path, id_column="key")
    assert records(inputs) == EXPECTED
    steps = list(inputs.read(Cursor()))
    assert steps[-1].after.done == inputs.size_bytes, "progress counts bytes of the file"
    for index in (0, 1, 200, 398):
        again = opened(path, id_column="key").read(steps[index].after)
        assert [(step.read.id, step.read.place) for step in again] == [
            (step.read.id, step.read.place)
            for step in steps[index + 1 :]  # type: ignore[union-attr]
        ]


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("damage", ["truncated", "damaged"])
def test_a_damaged_stream_is_an_error_with_file_and_position(tmp_path: Path, kind: str, damage: str) -> None:
    content = bytearray(COMPRESS[kind](LINES * 20))
    if damage == "truncated":
        del content[-9:]
    else:
        for place in range(len(content) // 2, len(content) // 2 + 9):
            content[place] ^= 0xFF
    path = tmp_path / f"a.jsonl.{kind}"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"a\.jsonl\.{kind} .* is {damage}.*after [\d,]+ bytes.*before byte [\d,]+"):
        records(opened(path))


@pytest.mark.parametrize("kind", COMPRESS)
def test_standard_input_is_decompressed(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    stdin_of(monkeypatch, COMPRESS[kind](b"one\n\ntwo\n"))
    assert list(stdin_lines()) == ["one", "two"]


def test_a_compressed_file_of_csv_has_its_header_read_once(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"key;text\n1;one\n2;two\n"))
    assert records(opened(path, id_column="key")) == [("1", "one"), ("2", "two")]


def _tar() -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    return whole.getvalue()


def _zip() -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("a.txt", "text")
    return whole.getvalue()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\x7fELF\2\1\1\0" + b"\0" * 8, "a program"),
        (b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR", "a PNG image"),
        (_zip(), "a ZIP archive"),
        (gzip.compress(_tar()), "a tar archive"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"{\\rtf1 text}", "an RTF document"),
        ("Käse\n".encode("utf-16"), "UTF-16"),
        ("cheese and bread\n".encode("utf-16-le"), "UTF-16"),
        ("cheese and bread\n".encode("utf-16-be"), "UTF-16"),
        (gzip.compress(gzip.compress(b"text\n")), "compressed twice"),
        (b"one\n\0\1\2two\n", "is binary"),
    ],
    ids=["elf", "png", "zip", "tar", "jpeg", "sqlite", "rtf", "bom", "utf-16-le", "utf-16-be", "twice", "zeros"],
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_what_is_no_text_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, word: str, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{name} .*{word}"):
        records(opened(path))
    stdin_of(monkeypatch, content)
    with pytest.raises(ConfigError, match=f"standard input .*{word}"):
        list(stdin_lines())
    if name == "a.txt":
        with pytest.raises(CacheFileError, match=word):
            read_queries(path)
        folder = tmp_path / "folder"
        folder.mkdir()
        path.rename(folder / "a.md")
        assert [(place, word in reason) for place, reason in rejects(opened(folder))] == [("a.md", True)]


def test_texts_with_the_beginning_of_another_format_are_texts() -> None:
    for text in (b"BZh9 is how files of bzip2 begin", b"GIF89a is an image format", b"MZ\n", b"PAR1", b"", b"a"):
        assert content_of(text) == "text"


def test_parquet_is_read_under_another_name(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    pq.write_table(pa.table({"text": ["a", "b"]}), path)
    assert records(opened(path)) == [(0, "a"), (1, "b")]
    packed = tmp_path / "texts.parquet.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ConfigError, match="is compressed"):
        records(opened(packed))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz"])
def test_an_array_is_read_element_by_element(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content = json.dumps([*ROWS, "alone", {"key": 1}, {"text": 3}, 5], indent=1).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    inputs = opened(path)
    assert [text for _, text in records(inputs)] == [*(row["text"] for row in ROWS), "alone"]
    assert [place for place, _ in rejects(inputs)] == ["element 402", "element 403", "element 404"]
    steps = list(inputs.read(Cursor()))
    again = list(opened(path).read(steps[200].after))
    assert [step.read.place for step in again] == [step.read.place for step in steps[201:]]


def test_an_array_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first element is there when a part of the file was read."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": f"{row} " * 50} for row in range(20_000)]))
    done = next(iter(opened(path).read(Cursor()))).after.done
    assert 0 < done < path.stat().st_size / 10


def test_half_a_character_is_no_text(tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl"):
        path = tmp_path / name
        row = '{"text": "\\ud800 half"}'
        path.write_text(f'[{{"text": "a"}}, {row}]' if name == "a.json" else f'{{"text": "a"}}\n{row}\n')
        inputs = opened(path)
        assert all(text.encode() for _, text in records(inputs))
        assert len(records(inputs)) + len(rejects(inputs)) == 2


@pytest.mark.parametrize("content", ['[{"text": "a"}, {"text": "b"', '[{"text": "a"}, {"text": oops}]', '[{"text": "a"}] x'])
def test_a_damaged_array_is_an_error_with_the_place(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"a\.json is damaged after element 1: "):
        records(opened(path))


def test_an_array_is_read_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin_of(monkeypatch, b'[{"text": "a"}, {"text": "b"}, {"text": "c"}]')
    source = lines.Lines(None)
    assert source.name == "-"
    from edgeembed.bulk.json_rows import JsonRows
    from edgeembed.bulk.records import Position

    rows = JsonRows(None, None, None)
    first = next(iter(rows.read(Position())))
    assert [read.place for read in rows.read(first.after)] == ["element 2", "element 3"]


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ('{"body": "x", "key": 1}\n{"text": "y"}\n', {}, "line 1: no field 'text' .*it has: body, key"),
        ('[{"body": "x", "key": 1}]', {}, "element 1: no field .*it has: body, key"),
        ('\n{"text": "x"}\n', {"column": "bdoy"}, "line 2: no field 'bdoy'; it has: text"),
        ('{"text": "x", "nr": 1}\n', {"id_column": "key"}, "line 1: no field 'key'; it has: text, nr"),
        ('{\n "text": "x"\n}\n', {}, "over several lines"),
    ],
)
def test_a_field_that_is_not_there_is_an_error_at_the_first_record(
    tmp_path: Path, content: str, options: dict[str, Any], words: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=words):
        next(iter(opened(path, **options).read(Cursor())))
    with pytest.raises(ConfigError, match=words):
        opened(path, **options).check()


def test_queries_for_the_cache_come_from_the_same_readers(tmp_path: Path) -> None:
    packed = tmp_path / "a.jsonl.zst"
    packed.write_bytes(zstd.compress(b'"one"\n{"query": "two"}\n"one"\n'))
    assert read_queries(packed) == ["one", "two"]
    array = tmp_path / "a.json"
    array.write_text('["one", {"text": "two"}]')
    assert read_queries(array) == ["one", "two"]
    packed.write_bytes(packed.read_bytes()[:-4])
    with pytest.raises(CacheFileError, match="truncated"):
        read_queries(packed)


@pytest.mark.parametrize(
    ("text", "is_file"),
    [
        ("notes.jsonl", True),
        ("*.csv", True),
        ("data/texts", True),
        ("./my notes", True),
        ("C:\\texts.txt", True),
        ("~/a file", True),
        ("hello", False),
        ("Hello, world.", False),
        ("what is in notes.txt", False),
        ("and / or", False),
        ("Wait...", False),
        ("-", False),
    ],
)
def test_arguments_that_are_rather_names_of_files(text: str, is_file: bool) -> None:
    assert looks_like_file(text) is is_file
