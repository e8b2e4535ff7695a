"""Columns that pass from the input to the output, and jobs that tell of rows that were refused."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from edgeembed.bulk.dataset_job import planned
from edgeembed.bulk.job import Job, check_inputs
from edgeembed.bulk.outputs import Output as Target
from edgeembed.bulk.shards import JobRules
from edgeembed.cli.embed import embed
from edgeembed.cli.embed_summary import EXIT_REJECTS
from edgeembed.cli.rerank import rerank
from edgeembed.errors import ConfigError, EdgeEmbedError
from tests.bulk.daemon import serving
from tests.bulk.datasets import dataset_job
from tests.bulk.jobs import finished, unfinished
from tests.fakes import FakeEngine


def make_job(source: Path, name: str, keep: tuple[str, ...] = (), **more: Any) -> Job:
    target = Target.of(f"{source.parent}/{name}")
    flags = {key: more.pop(key) for key in ("strict", "resume", "overwrite") if key in more}
    rules = JobRules(format=target.format, keep_columns=keep, **({"shard_rows": 4} | more))
    return Job(inputs=[str(source)], output=target, rules=rules, **flags)


def rows_of(out: Path) -> list[dict[str, Any]]:
    if out.suffix == ".jsonl":
        rows: list[dict[str, Any]] = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        rows = (pa.ipc.open_file(out).read_all() if out.suffix == ".arrow" else pq.read_table(out)).to_pylist()
    return [{name: value for name, value in row.items() if name != "vector"} for row in rows]


def rejects_of(folder: Path, name: str = "v") -> list[tuple[str, str]]:
    lines = (folder / f"{name}.rejects.jsonl").read_text().splitlines()
    return [(row["place"], row["reason"]) for row in map(json.loads, lines)]


ROWS: list[dict[str, Any]] = [
    {"text": "a", "year": 1999, "score": 1, "tags": ["x"], "on": True, "mixed": "s"},
    {"text": "b", "year": None, "score": 0.5, "tags": {"y": 1}, "on": False, "mixed": 5},
    {"text": "c", "score": 2.0, "tags": [], "on": None, "mixed": None},
    *({"text": f"row {row}", "year": row, "score": row, "tags": None, "on": True, "mixed": 0.5} for row in range(7)),
]
KEEP = ("year", "score", "tags", "on", "mixed")


@pytest.mark.parametrize("name", ["v.parquet", "v.arrow"])
async def test_fields_of_json_become_columns_of_their_types(tmp_path: Path, name: str) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    await finished(make_job(source, name, KEEP, with_text=True))
    out = tmp_path / name
    schema = pq.read_schema(out) if name == "v.parquet" else pa.ipc.open_file(out).schema
    assert [(field, str(schema.field(field).type)) for field in KEEP] == [
        ("year", "int64"), ("score", "double"), ("tags", "string"), ("on", "bool"), ("mixed", "string"),
    ]  # fmt: skip
    found = rows_of(out)
    assert [row["year"] for row in found] == [1999, None, None, *range(7)]
    assert [row["score"] for row in found] == [row["score"] for row in ROWS]
    assert [row["tags"] for row in found[:3]] == ['["x"]', '{"y":1}', "[]"]
    assert [row["mixed"] for row in found[:4]] == ["s", "5", None, "0.5"]


async def test_lines_hold_the_fields_of_json_as_they_are(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    rows = [{"text": f"row {row}", "tags": {"a": [row, None, 0.5]}, "year": row} for row in range(6)]
    source.write_text(json.dumps(rows))
    await finished(make_job(source, "v.jsonl", ("year",)))
    assert rows_of(tmp_path / "v.jsonl") == [{"id": row, "year": row} for row in range(6)]


async def test_columns_of_csv_are_text_as_it_stands_there(tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("zip,text,version\n01234,a,1.10\n,b,2\n")
    await finished(make_job(source, "v.parquet", ("version", "zip")))
    assert rows_of(tmp_path / "v.parquet") == [
        {"id": 0, "version": "1.10", "zip": "01234"},
        {"id": 1, "version": "2", "zip": ""},
    ]


def typed_table() -> pa.Table:
    rows = 9
    return pa.table(
        {
            "text": [f"row {row}" for row in range(rows)],
            "key": pa.array(range(rows), pa.int32()),
            "time": pa.array([1_700_000_000_123_456_789 + row for row in range(rows)], pa.timestamp("ns", tz="UTC")),
            "day": pa.array([datetime.date(2020, 1, row + 1) for row in range(rows)]),
            "price": pa.array([decimal.Decimal("1.10")] * rows, pa.decimal128(10, 2)),
            "nested": pa.array([{"a": row, "b": ["x", None]} for row in range(rows)]),
            "numbers": pa.array([[row, 2] for row in range(rows)], pa.list_(pa.int8())),
            "bytes": pa.array([b"\0\1"] * rows),
            "kind": pa.array(["x", "y", None] * 3).dictionary_encode(),
            "small": pa.array(range(rows), pa.uint8()),
            "none": pa.array([None] * rows, pa.int16()),
        }
    )


async def test_columns_of_parquet_keep_their_types_and_values(tmp_path: Path) -> None:
    table, source = typed_table(), tmp_path / "a.parquet"
    pq.write_table(table, source, row_group_size=4)
    table = pq.read_table(source)  # as Parquet keeps it: dictionaries have indices of 32 bits
    keep = tuple(name for name in table.schema.names if name not in ("text", "key"))
    await finished(make_job(source, "v.parquet", keep, id_column="key"))
    found = pq.read_table(tmp_path / "v.parquet")
    for name in keep:
        as_written = found[name].cast(pa.int64()) if name == "time" else found[name]
        assert as_written.to_pylist() == (table[name].cast(pa.int64()) if name == "time" else table[name]).to_pylist(), name
    assert [str(found.schema.field(name).type) for name in keep] == [str(table.schema.field(name).type) for name in keep]
    await finished(make_job(source, "v.jsonl", keep))
    assert rows_of(tmp_path / "v.jsonl")[1] == {
        "id": 1, "time": "2023-11-14 22:13:20.123456790Z", "day": "2020-01-02", "price": "1.10",
        "nested": {"a": 1, "b": ["x", None]}, "numbers": [1, 2], "bytes": "AAE=", "kind": "y", "small": 1, "none": None,
    }  # fmt: skip


async def test_a_value_of_another_type_later_is_a_reject_and_not_another_value(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    rows = [{"text": f"row {row}", "year": "?" if row == 6 else row} for row in range(9)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = await finished(make_job(source, "v.parquet", ("year",)))
    assert (result.rows, result.refused) == (8, 1)
    assert rejects_of(tmp_path) == [("line 7", "the column 'year' is a str, not int64 as in the first rows")]


async def test_a_column_that_no_row_has_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "a"}\n{"text": "b"}\n')
    with pytest.raises(ConfigError, match="none of the first 2 rows has the column 'yaer'"):
        await finished(make_job(source, "v.parquet", ("yaer",)))
    source.with_suffix(".csv").write_text("text,year\na,1\n")
    with pytest.raises(ConfigError, match="no column 'yaer'; it has: text, year"):
        await finished(make_job(source.with_suffix(".csv"), "v.parquet", ("yaer",)))


@pytest.mark.parametrize("chunk_rows", [False, True])
@pytest.mark.parametrize("flag", ["column", "id_column", "keep"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.parquet"])
def test_a_column_that_the_input_lacks_is_an_error_before_a_model_is_loaded(
    tmp_path: Path, name: str, flag: str, chunk_rows: bool
) -> None:
    rows = [{"text": f"text {row}", "key": row} | ({"year": row} if row > 2 else {}) for row in range(6)]
    lines = "\n".join(map(json.dumps, rows))
    if name == "a.parquet":
        pq.write_table(
            pa.Table.from_pylist(rows, pa.schema({"text": "string", "key": "int64", "year": "int64"})), tmp_path / name
        )
    else:
        content = {
            "a.jsonl": lines.encode(),
            "a.jsonl.gz": gzip.compress(lines.encode()),
            "a.json": json.dumps(rows).encode(),
            "a.csv": b"text,key,year\na,1,2\n",
        }
        (tmp_path / name).write_bytes(content[name])
    right: dict[str, Any] = {"column": "text", "id_column": "key", "keep": ("year",), "chunk_rows": chunk_rows}
    check_inputs(make_job(tmp_path / name, "v.parquet", **right))
    uri = f"file://{tmp_path / name}"
    wrong = right | {flag: ("yaer",) if flag == "keep" else "yaer"}
    rules = {"keep_columns" if key == "keep" else key: value for key, value in wrong.items()}
    with pytest.raises(ConfigError, match=r"the column 'yaer'|no (column|field) 'yaer'"):
        check_inputs(make_job(tmp_path / name, "v.parquet", **wrong))
    with pytest.raises(ConfigError, match=r"the column 'yaer'|no (column|field) 'yaer'"):
        planned(dataset_job(uri, f"{tmp_path}/v/", **rules))


async def test_chunks_have_the_columns_of_their_rows(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps({"text": "One two three four five. " * 20, "year": 5}) + "\n")
    await finished(make_job(source, "v.parquet", ("year",), chunk_rows=True))
    found = rows_of(tmp_path / "v.parquet")
    assert len(found) > 5
    assert {row["year"] for row in found} == {5}


async def test_kept_columns_are_those_of_the_first_run_when_a_job_goes_on(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    rows = [{"text": f"row {row}", "year": 0.5 if row == 0 else row} for row in range(9)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    await unfinished(make_job(source, "v.parquet", ("year",)), "row 8")
    with pytest.raises(ConfigError, match="keep_columns"):
        await finished(make_job(source, "v.parquet", resume=True))
    result = await finished(make_job(source, "v.parquet", ("year",), resume=True))
    assert result.before
    assert [row["year"] for row in rows_of(tmp_path / "v.parquet")] == [0.5, *range(1, 9)]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json"])
async def test_compressed_and_array_inputs_resume_to_the_same_bytes(tmp_path: Path, name: str) -> None:
    source, rows = tmp_path / name, [{"text": f"row {row}", "year": row} for row in range(20)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    source.write_bytes(gzip.compress(lines) if name.endswith(".gz") else json.dumps(rows).encode())
    await finished(make_job(source, "whole.parquet", ("year",)))
    await unfinished(make_job(source, "v.parquet", ("year",)), "row 17")
    engine = FakeEngine()
    result = await finished(make_job(source, "v.parquet", ("year",), resume=True), engine)
    assert result.before >= 8, "finished shards are not computed again"
    assert "row 3" not in engine.computed
    assert (tmp_path / "v.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


@pytest.mark.parametrize(("dtype", "width"), [("int8", 384), ("binary", 48)])
async def test_small_numbers_take_a_byte_in_parquet_as_in_npy(tmp_path: Path, dtype: Any, width: int) -> None:
    """Parquet has no integers of fewer than 32 bits, except as places in a dictionary."""
    from edgeembed.bulk.computed import Computed
    from edgeembed.bulk.shards import JobManifest
    from edgeembed.bulk.writers import ShardRows, write_shard

    rows = 500
    vectors = np.random.default_rng(1).normal(size=(rows, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rules = JobRules(format="parquet", dtype=dtype)
    manifest = JobManifest(inputs=[], rules=rules, model="m", digest="", dimensions=384, ids="int")
    write_shard(tmp_path / "v.parquet", ShardRows(range(rows), Computed(vectors, {}), None), manifest)
    assert (tmp_path / "v.parquet").stat().st_size < rows * width * 1.05 + 8000


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (['{"text": "a"}', "{oops"], "line 2: not JSON"),
        (['{"text": "a"}', '{"text": " "}'], "line 2: the text is empty"),
        (['{"text": "' + "word " * 50 + '"}', '{"text": "a"}'], "line 1: .*52 tokens"),
    ],
)
async def test_a_strict_job_ends_at_the_first_row_that_is_refused(tmp_path: Path, lines: list[str], reason: str) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text("\n".join([*lines, *(f'{{"text": "row {row}"}}' for row in range(9))]))
    with pytest.raises(EdgeEmbedError, match=rf"a\.jsonl, {reason}.*--strict"):
        await finished(make_job(source, "v.parquet", strict=True))
    assert not (tmp_path / "v.parquet").exists()
    result = await finished(make_job(source, "v.parquet", resume=True))
    assert (result.refused, result.rows) == (1, 10)


async def test_a_strict_job_does_not_go_on_behind_a_reject_of_an_earlier_run(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text("\n".join(["", '{"text": "a"}', "{oops", *(f'{{"text": "row {row}"}}' for row in range(9))]))
    await unfinished(make_job(source, "v.parquet"), "row 8")
    with pytest.raises(EdgeEmbedError, match=r"line 3: not JSON.*--strict"):
        await finished(make_job(source, "v.parquet", strict=True, resume=True))


def test_exit_status_and_summary_tell_of_rejects(tmp_path: Path) -> None:
    source, out = tmp_path / "a.jsonl", tmp_path / "v.parquet"
    source.write_text('{"text": "a", "year": 1}\n{oops\n{"text": ""}\n')
    with serving(FakeEngine()) as port:

        def run(*more: str) -> tuple[int, str]:
            found = CliRunner().invoke(embed, [str(source), "-o", str(out), "--port", str(port), *more])
            return found.exit_code, found.output

        status, output = run()
        assert status == EXIT_REJECTS
        assert f"2 rows could not be embedded; they are listed in {tmp_path / 'v.rejects.jsonl'}" in output
        assert f"the first, {source}, line 2: not JSON" in output
        assert run("--resume")[0] == EXIT_REJECTS, "it is complete, and so are its rejects"
        source.write_text('{"text": "a", "year": 1}\n')
        assert run("--overwrite", "--keep-columns", "year")[0] == 0
        assert rows_of(out) == [{"id": 0, "year": 1}]
        assert run("--resume")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nosuch.jsonl"], "no such file: nosuch.jsonl; if it is a text and no file's name, add --text"),
        (["a text", "some/where"], "no such file: some/where"),
        (["a text", "--strict"], "--strict is for whole files"),
        (["a text", "--keep-columns", "a"], "--keep-columns is for whole files"),
        (["a.txt", "--text", "-o", "v.parquet"], "--text is for texts on the command line"),
        (["a.txt", "-o", "v.npy", "--keep-columns", "a"], "hold only numbers"),
        (["a.txt", "-o", "v.parquet", "--keep-columns", "a,vector"], "a column 'vector' of its own"),
        (["a.txt", "-o", "v.parquet", "--keep-columns", "id"], "with --id"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_what_to_do(arguments: list[str], word: str) -> None:
    with pytest.raises(ConfigError) as refused:
        CliRunner().invoke(embed, arguments, catch_exceptions=False)
    assert word in refused.value.message


def test_what_looks_like_a_file_can_be_a_text(tmp_path: Path) -> None:
    with serving(FakeEngine()) as port:
        found = CliRunner().invoke(embed, ["notes.jsonl", "-", "--text", "--port", str(port)])
    assert (found.exit_code, len(found.output.splitlines())) == (0, 2), found.output


def test_documents_for_the_reranker_are_no_names_of_files() -> None:
    for argument in ("nosuch.txt", __file__):
        with pytest.raises(ConfigError, match="add --text"):
            CliRunner().invoke(rerank, ["query", argument], catch_exceptions=False)


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes of POSIX")
async def test_a_pipe_is_refused_with_what_to_do(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="send it to standard input"):
        await finished(make_job(tmp_path / "pipe", "v.parquet"))


async def test_a_job_of_which_nothing_can_be_embedded_ends_early(tmp_path: Path) -> None:
    """One mistake does not become a million rejects."""
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": 5}\n' * 5000)
    with pytest.raises(ConfigError, match=r"none of the first 2,000 .*line 1.* because: the field 'text' is not a string"):
        await finished(make_job(source, "v.parquet", shard_rows=2000))
    assert not (tmp_path / "v.parquet.parts" / "manifest.json").exists()
