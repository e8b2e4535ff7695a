"""Jobs that compute other outputs than dense vectors: what each file format holds, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from edgeembed.bulk import embedding, shards
from edgeembed.cli.embed import embed
from edgeembed.common.files import read_json
from edgeembed.engine.interface import Output
from edgeembed.engine.outputs import unpack
from edgeembed.errors import ConfigError, EdgeEmbedError
from edgeembed.inference.number_formats import quantised
from tests.bulk.daemon import serving
from tests.bulk.jobs import TEXTS, embedder_of, finished, make_job, unfinished
from tests.fakes import DIMENSIONS, FakeEngine, fake_packed_row
from tests.server.dialect_requests import unit

ALL: tuple[Output, ...] = ("dense", "multi", "sparse", "tokens")


def expected(output: Output, text: str) -> np.ndarray:
    return unpack(fake_packed_row(text, (output,)), (output,))[output]


def check_rows(rows: list[dict[str, Any]], outputs: tuple[Output, ...]) -> None:
    """Compare rows, with sparse weights as dictionaries, with what the engine computes."""
    assert [row["id"] for row in rows] == list(range(len(TEXTS)))
    for row, text in zip(rows, TEXTS, strict=True):
        if "dense" in outputs:
            assert np.allclose(row["vector"], unit(text), atol=1e-6)
        if "multi" in outputs:
            assert np.allclose(row["multi_vector"], expected("multi", text), atol=1e-6)
        if "tokens" in outputs:
            assert np.array_equal(np.array(row["token_vectors"], np.float32), expected("tokens", text))
        if "sparse" in outputs:
            assert row["sparse"] == {int(token): weight for token, weight in expected("sparse", text)}


@pytest.mark.parametrize("outputs", [ALL, ("sparse",), ("multi",), ("dense", "sparse")])
@pytest.mark.parametrize("name", ["v.parquet", "v.arrow", "v/"])
async def test_tables_hold_lists_of_vectors_and_maps_of_weights(
    tmp_path: Path, name: str, outputs: tuple[Output, ...]
) -> None:
    result = await finished(make_job(tmp_path, name, outputs))
    assert result.rows == len(TEXTS)
    table = pa.ipc.open_file(tmp_path / name).read_all() if name == "v.arrow" else pq.read_table(tmp_path / name)
    assert table.schema.metadata[b"edgeembed.outputs"].decode() == ",".join(outputs)
    vector = pa.list_(pa.float32(), DIMENSIONS)
    types = {"vector": vector, "multi_vector": pa.list_(vector), "token_vectors": pa.list_(vector)}
    for field in table.schema:
        if field.name in types:
            assert field.type.equals(types[field.name])
    assert "sparse" not in outputs or table.schema.field("sparse").type.equals(pa.map_(pa.int32(), pa.float32()))
    rows = table.to_pylist()
    check_rows([row | ({"sparse": dict(row["sparse"])} if "sparse" in row else {}) for row in rows], outputs)


async def test_lines_hold_weights_as_vector_databases_take_them(tmp_path: Path) -> None:
    await finished(make_job(tmp_path, "v.jsonl", ALL))
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert set(rows[0]["sparse"]) == {"indices", "values"}
    check_rows(
        [row | {"sparse": dict(zip(row["sparse"]["indices"], row["sparse"]["values"], strict=True))} for row in rows], ALL
    )


@pytest.mark.parametrize("dtype", ["float16", "int8", "binary"])
async def test_multi_vectors_are_stored_in_fewer_bits_as_dense_ones_are(tmp_path: Path, dtype: Any) -> None:
    for name in ("v.parquet", "v.jsonl"):
        await finished(make_job(tmp_path, name, ("dense", "multi", "sparse"), dtype=dtype))
    table = pq.read_table(tmp_path / "v.parquet").to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    kind = "ubinary" if dtype == "binary" else dtype
    for text, row, line in zip(TEXTS, table, lines, strict=True):
        wanted = quantised(expected("multi", text), kind)
        for found in (row, line):
            assert np.array_equal(np.array(found["multi_vector"], wanted.dtype), wanted)
            assert np.array_equal(np.array(found["vector"], wanted.dtype), quantised(unit(text)[None], kind)[0])
        assert dict(row["sparse"]) == {int(token): weight for token, weight in expected("sparse", text)}


@pytest.mark.parametrize("name", ["v.parquet", "v.jsonl", "v.arrow"])
async def test_a_job_with_other_outputs_is_not_continued(tmp_path: Path, name: str) -> None:
    """With the same ones it is, and writes the same bytes as an uninterrupted one."""
    begun = await unfinished(make_job(tmp_path, name, ("dense", "multi", "sparse")), TEXTS[15])
    with pytest.raises(ConfigError, match="began with outputs = dense, multi, sparse, now it is dense; start again"):
        await finished(make_job(tmp_path, name, ("dense",), resume=True))
    again = FakeEngine()
    result = await finished(msgspec.structs.replace(begun, resume=True), again)
    assert 0 < result.before == len(TEXTS) - len(set(again.computed) & set(TEXTS)), "finished shards are kept"
    await finished(make_job(tmp_path, f"whole-{name}", ("dense", "multi", "sparse")))
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()


async def test_a_job_of_an_earlier_version_is_one_of_dense_vectors(tmp_path: Path) -> None:
    begun = await unfinished(make_job(tmp_path, "v.parquet", ("dense",)), TEXTS[15])
    file = begun.output.work().folder / "manifest.json"
    found = json.loads(file.read_text())
    del found["widths"], found["rules"]["outputs"]
    file.write_text(json.dumps(found))
    assert read_json(file, shards.JobManifest) is not None
    assert (await finished(msgspec.structs.replace(begun, resume=True))).before > 0


async def test_texts_with_many_rows_are_computed_and_written_in_smaller_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard of long texts is held in memory."""
    monkeypatch.setattr(shards, "TOKEN_ROW_SHARD_CHARACTERS", 60)
    monkeypatch.setattr(embedding, "TOKEN_ROW_CHARACTERS_PER_REQUEST", 30)
    folders = []
    for outputs in (("dense",), ("multi",)):
        (tmp_path / outputs[0]).mkdir()
        await finished(make_job(tmp_path / outputs[0], "v/", outputs))
        folders.append(len(list((tmp_path / outputs[0] / "v").glob("shard-*"))))
    assert folders[0] == 4 < folders[1]


async def test_a_model_without_an_output_is_an_error_that_tells_what_it_has() -> None:
    with pytest.raises(EdgeEmbedError, match=r"has no sparse vectors; it has dense vectors"):
        async with embedder_of(("sparse",), FakeEngine(), own=("dense",)):
            pass


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-o", "v.npy", "--sparse"], r"\.npy files hold one matrix"),
        (["-o", "v.npy", "--dense", "--multi-vector"], r"use \.parquet, \.arrow or \.jsonl"),
        (["-o", "v.jsonl", "--sparse", "--dimensions", "8"], "--dimensions is for dense vectors"),
        (["-o", "v.jsonl", "--token-vectors", "--dtype", "int8"], "--dtype int8 is for vectors of length 1"),
    ],
)
def test_flags_that_do_not_fit_are_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("a text")
    found = CliRunner().invoke(embed, ["texts.txt", *flags])
    assert isinstance(found.exception, ConfigError)
    with pytest.raises(ConfigError, match=words):
        raise found.exception


def test_texts_are_printed_with_what_was_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(FakeEngine(), outputs=("dense", "multi", "sparse")) as port:
        monkeypatch.setenv("EDGEEMBED_PORT", str(port))
        found = CliRunner().invoke(embed, ["two words", "one", "--sparse", "--multi-vector"])
        assert found.exit_code == 0, found.output
        first, second = map(json.loads, found.stdout.splitlines())
        assert np.allclose(first.pop("multi_vector"), expected("multi", "two words"), atol=1e-6)
        assert first == {"model": "embedder", "sparse": {"indices": [13, 15], "values": [2.0, 2.0]}}
        assert list(second) == ["model", "multi_vector", "sparse"]
        found = CliRunner().invoke(embed, ["one", "--dense", "--sparse"])
        assert list(json.loads(found.stdout)) == ["model", "embedding", "sparse"]
