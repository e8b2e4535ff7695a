"""Batches of Arrow in, the same with vectors out, by a daemon with a fake engine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from edgeembed.bulk import embed_batches, embedded_schema
from edgeembed.bulk.computed import Computed
from edgeembed.bulk.embedders import DaemonEmbedder
from edgeembed.bulk.job import Job, claimed, run
from edgeembed.bulk.shards import SHARD_ROWS, JobRules
from edgeembed.bulk.stores.output import output_of
from edgeembed.errors import ConfigError, EngineUnavailableError, RequestError
from edgeembed.inference.postprocess import unit_rows
from tests.bulk.daemon import CountingEngine, serving
from tests.bulk.jobs import Silent, embedder_of
from tests.fakes import DIMENSIONS, FakeEngine, fake_row


@dataclass
class Daemon:
    engine: CountingEngine
    url: str


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    engine = CountingEngine()
    with serving(engine, outputs=("dense", "multi", "sparse")) as port:
        yield Daemon(engine, f"http://127.0.0.1:{port}")


def table(texts: list[str | None], **more: Any) -> Any:
    return pa.table({"number": range(len(texts)), "text": pa.array(texts, pa.string()), **more})


def embedded(given: Any, rows: int = 4, **options: Any) -> Any:
    """Return the table of what is made of a table in batches, which is as its schema says."""
    schema = embedded_schema(given.schema, **options)
    found = pa.Table.from_batches(embed_batches(given.to_batches(max_chunksize=rows), **options), schema)
    found.validate(full=True)
    return found


def rows_of(column: Any) -> Any:
    return np.array(column.to_pylist(), np.float32)


def vectors(*texts: str) -> Any:
    """Return what the fake engine computes, of length 1."""
    return unit_rows([fake_row(text) for text in texts])


def test_all_columns_pass_through_and_vectors_are_added(daemon: Daemon) -> None:
    texts = [f"text {number}" for number in range(11)]
    given = table(texts, more=[[number] for number in range(11)])
    found = embedded(given, daemon=daemon.url)
    assert found.schema.names == ["number", "text", "more", "vector", "error"]
    assert found.schema.field("vector").type == pa.list_(pa.float32())
    assert found.select(given.schema.names).equals(given)
    assert np.array_equal(rows_of(found["vector"]), vectors(*texts))
    assert found["error"].null_count == 11


def test_rows_that_cannot_be_embedded_have_no_vector_and_a_reason(daemon: Daemon) -> None:
    texts = ["one", None, "  ", "word " * 1000, "two"]
    found = embedded(table(texts), rows=2, daemon=daemon.url)
    assert [row is None for row in found["vector"].to_pylist()] == [False, True, True, True, False]
    reasons = found["error"].to_pylist()
    assert (reasons[0], reasons[1:3], reasons[4]) == (None, ["no text", "the text is empty"], None)
    assert "tokens" in reasons[3] and "input[" not in reasons[3]
    assert np.array_equal(rows_of(found["vector"][4:]), vectors("two"))
    cut = embedded(table(texts), daemon=daemon.url, truncate="end")
    assert cut["error"].to_pylist()[3] is None


def test_a_row_that_cannot_be_embedded_raises_if_wanted(daemon: Daemon) -> None:
    options: Any = {"daemon": daemon.url, "errors": "raise"}
    with pytest.raises(RequestError, match="row 2 of the partition: the text is empty"):
        list(embed_batches(table(["one", "two", " ", None]).to_batches(), **options))
    assert embedded(table(["one"]), **options).schema.names == ["number", "text", "vector"]


def test_partitions_without_a_vector(daemon: Daemon) -> None:
    found = embedded(table([None, ""]), daemon=daemon.url)
    assert found["vector"].to_pylist() == [None, None]


def test_partitions_without_rows_start_nothing() -> None:
    empty = table([])
    batch = pa.RecordBatch.from_pylist([], empty.schema)
    assert list(embed_batches([], daemon="http://127.0.0.1:9")) == []
    assert list(embed_batches([batch, batch], daemon="http://127.0.0.1:9")) == []
    with pytest.raises(ConfigError, match="no edgeembed answers"):
        list(embed_batches(table(["a"]).to_batches(), daemon="http://127.0.0.1:9"))


@pytest.mark.parametrize(
    "type_", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=lambda type_: str(type_)
)
def test_texts_of_any_type_of_strings(daemon: Daemon, type_: Any) -> None:
    texts = pa.array(["one", None, "two", "one"], pa.string())
    column = texts.dictionary_encode() if pa.types.is_dictionary(type_) else texts.cast(type_)
    given = pa.table({"other": ["x", "y", "z", "w"], "words": column})
    found = embedded(given, rows=3, column="words", daemon=daemon.url)
    assert found.schema.field("words").type == type_
    assert np.array_equal(rows_of(found["vector"].drop_null()), vectors("one", "two", "one"))


def test_texts_that_are_huge_or_no_text(daemon: Daemon) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 2, 3], np.int32)), pa.py_buffer(b"\xff\xfea")]
    )
    given = pa.table({"text": pa.chunked_array([bad, ["x" * (2**24 + 1), "one"]])})
    found = pa.Table.from_batches(embed_batches(given.to_batches(), daemon=daemon.url))
    assert found["error"].to_pylist() == ["no text", None, "longer than 16 MiB", None]


def test_the_options_are_those_of_jobs(daemon: Daemon) -> None:
    found = embedded(
        table(["one", " ", "two words"]),
        outputs=["multi", "dense", "sparse"],
        dtype="int8",
        dimensions=4,
        fixed_size=True,
        daemon=daemon.url,
    )
    assert found.schema.names == ["number", "text", "vector", "multi_vector", "sparse", "error"]
    assert found.schema.field("vector").type == pa.list_(pa.int8(), 4)
    assert found.schema.field("multi_vector").type == pa.list_(pa.list_(pa.int8(), DIMENSIONS))
    assert found.schema.field("sparse").type == pa.map_(pa.int32(), pa.float32())
    assert [row is None for row in found["multi_vector"].to_pylist()] == [False, True, False]
    assert [row is None for row in found["sparse"].to_pylist()] == [False, True, False]


def test_what_any_program_can_write(tmp_path: Path, daemon: Daemon) -> None:
    """pyarrow writes no null of a list of a fixed size to Parquet, and would fail at the first row without a vector."""
    found = embedded(table(["one", None, "two", None]), rows=3, outputs=["dense", "multi"], daemon=daemon.url)
    assert found.schema.field("multi_vector").type == pa.list_(pa.list_(pa.float32()))
    pyarrow.parquet.write_table(found, tmp_path / "vectors.parquet")
    again = pyarrow.parquet.read_table(tmp_path / "vectors.parquet")
    assert again.equals(found)
    assert np.array_equal(rows_of(again["vector"][:1]), vectors("one"))


async def test_requests_are_divided_as_those_of_a_job(
    tmp_path: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the last digits are the same, too, however the partition is cut into batches."""
    rng = np.random.default_rng(0)
    texts = [None if number % 501 == 0 else "w" * int(rng.integers(1, 400)) for number in range(SHARD_ROWS + 700)]
    seen: list[list[str]] = []
    ask = DaemonEmbedder.embed

    async def noting(self: DaemonEmbedder, given: Any) -> Computed:
        seen.append(list(given))
        return await ask(self, given)

    monkeypatch.setattr(DaemonEmbedder, "embed", noting)
    await asyncio.to_thread(embedded, table(texts), rows=777, daemon=daemon.url)
    ours, seen = sorted(seen), []
    pyarrow.parquet.write_table(table(texts), tmp_path / "texts.parquet")
    job = Job(
        inputs=[str(tmp_path / "texts.parquet")],
        output=output_of(str(tmp_path / "out.parquet"), append=False),
        rules=JobRules(format="parquet", column="text"),
    )
    async with embedder_of(("dense",), FakeEngine()) as embedder:
        embed = embedder.embed

        async def noting_too(given: Any) -> Computed:
            seen.append(list(given))
            return await embed(given)

        embedder.embed = noting_too  # type: ignore[method-assign]
        with claimed(job):
            await run(job, embedder, Silent())
    assert len(seen) > 20
    assert ours == sorted(seen)


def test_long_partitions_are_a_stream(daemon: Daemon) -> None:
    read = 0

    def batches() -> Iterator[Any]:
        nonlocal read
        for _ in range(40):
            read += 1000
            yield from table(["one"] * 1000).to_batches()

    found = embed_batches(batches(), daemon=daemon.url)
    assert read == 0
    rows, ahead = 0, 0
    for batch in found:
        ahead = max(ahead, read - rows)
        rows += batch.num_rows
    assert rows == 40_000
    assert ahead < 3 * SHARD_ROWS


def test_what_is_left_unread_ends_with_it(daemon: Daemon) -> None:
    found = embed_batches(table(["one"] * 3 * SHARD_ROWS).to_batches(max_chunksize=1000), daemon=daemon.url)
    assert next(found).num_rows == 1000
    found.close()  # type: ignore[attr-defined]
    assert daemon.engine.computed


def test_a_failure_of_the_engine_is_no_row(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeembed.common.retry.RETRY_SECONDS", 0.0)
    daemon.engine.failing = lambda text: EngineUnavailableError("the card is gone") if text == "two" else None
    with pytest.raises(EngineUnavailableError, match="the card is gone"):
        list(embed_batches(table(["one", "two"]).to_batches(), daemon=daemon.url))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"column": "number"}, "name one column of texts"),
        ({"column": "nothing"}, r"number \(int64\), text \(string\)"),
        ({"input_type": "question"}, "input_type is 'question'; expected one of query, document"),
        ({"dtype": "bfloat16"}, "dtype is 'bfloat16'"),
        ({"errors": "ignore"}, "expected one of column, raise"),
        ({"outputs": []}, "outputs is ''"),
        ({"outputs": ["sparse"], "dimensions": 4}, "dimensions is for dense vectors"),
        ({"outputs": ["tokens"], "dtype": "int8"}, "token vectors are not"),
        ({"long_text": "mean", "truncate": "end"}, "without truncate"),
        ({"daemon": "https://elsewhere"}, "expected http://HOST:PORT"),
        ({"settings": {"treads": 4}}, "treads"),
    ],
)
def test_mistakes_are_named(daemon: Daemon, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        list(embed_batches(table(["one"]).to_batches(), **{"daemon": daemon.url, **options}))


def test_a_column_that_the_result_needs_is_refused(daemon: Daemon) -> None:
    given = pa.table({"text": ["one"], "vector": [1]})
    with pytest.raises(ConfigError, match="have a column 'vector' of their own"):
        list(embed_batches(given.to_batches(), daemon=daemon.url))
    with pytest.raises(ConfigError, match="have a column 'vector' of their own"):
        embedded_schema(given.schema, daemon=daemon.url)


def test_without_a_model() -> None:
    with pytest.raises(ConfigError, match="no model is named"):
        list(embed_batches(table(["one"]).to_batches()))
    with pytest.raises(ConfigError, match="no model is named"):
        embedded_schema(table(["one"]).schema)


def test_the_schema_of_a_catalogue_model_needs_no_file() -> None:
    """A driver of Spark need not have the model, nor reach the hub."""
    schema = table(["one"]).schema
    settings = {"offline": True}
    assert embedded_schema(schema, model="all-minilm-l6-v2").field("vector").type == pa.list_(pa.float32())
    found = embedded_schema(schema, model="all-minilm-l6-v2", fixed_size=True, settings=settings)
    assert found.field("vector").type == pa.list_(pa.float32(), 384)
    options: Any = {"outputs": ["dense", "multi"], "fixed_size": True, "settings": settings}
    found = embedded_schema(schema, model="bge-m3", dimensions=64, **options)
    assert found.field("vector").type == pa.list_(pa.float32(), 64)
    assert found.field("multi_vector").type == pa.list_(pa.list_(pa.float32(), 1024))


def test_importing_the_package_is_light() -> None:
    code = "import sys, edgeembed.bulk; print([name for name in ('pyarrow', 'numpy', 'aiohttp') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
