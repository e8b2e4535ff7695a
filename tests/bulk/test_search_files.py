"""Searching the files that jobs write: each format and each type of numbers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgeembed.bulk.searching import open_rows, parse_where, recorded_model
from edgeembed.bulk.stores.files import FileRows
from edgeembed.bulk.stores.interface import StoreInfo
from edgeembed.errors import ConfigError
from tests.bulk.jobs import TEXTS, finished, make_job
from tests.server.dialect_requests import unit

FILES = ["v.parquet", "v.arrow", "v.jsonl", "v.npy", "v/"]
QUERY = unit(TEXTS[7]).astype(np.float32)
SCORES = np.array([unit(text) @ unit(TEXTS[7]) for text in TEXTS])
BEST = np.argsort(-SCORES)


@pytest.mark.parametrize("name", [*FILES, "v.faiss"])
async def test_the_nearest_rows_are_found(tmp_path: Path, name: str) -> None:
    await finished(make_job(tmp_path, name, ("dense",), with_text=name != "v.npy"))
    rows = open_rows(f"{tmp_path}/{name}")
    found = rows.search(QUERY, 5)
    assert [row.id for row in found] == BEST[:5].tolist()
    assert [row.score for row in found] == pytest.approx(SCORES[BEST[:5]].tolist(), abs=1e-5)
    assert found[0].text == (None if name == "v.npy" else TEXTS[7])
    assert len(rows.search(QUERY, 100)) == len(TEXTS)
    assert bool(rows.info.model) == (name not in ("v.npy", "v.jsonl"))
    rows.close()


@pytest.mark.parametrize("dtype", ["float16", "int8", "binary"])
@pytest.mark.parametrize("name", FILES)
async def test_small_numbers_are_searched_too(tmp_path: Path, name: str, dtype: str) -> None:
    scaled = {"int8_range": 0.3} if dtype == "int8" else {}
    await finished(make_job(tmp_path, name, ("dense",), dtype=dtype, **scaled))
    found = open_rows(f"{tmp_path}/{name}").search(QUERY, 20)
    assert found[0].id == 7
    tolerance = {"float16": 0.001, "int8": 0.1, "binary": 0.5}[dtype]
    assert [row.score for row in found] == pytest.approx([SCORES[int(row.id)] for row in found], abs=tolerance)
    assert np.all(np.diff([row.score for row in found]) <= 0)


async def test_other_columns_are_shown_and_asked_for(tmp_path: Path) -> None:
    lines = [
        '{"id": "a", "vector": [1.0, 0.0], "author": "Ann", "year": 1999}',
        '{"id": "b", "vector": [0.8, 0.6], "author": "Bob", "year": 2001}',
        '{"id": "c", "vector": [0.0, 1.0], "author": "Ann", "year": 2001}',
    ]
    (tmp_path / "v.jsonl").write_text("\n".join(lines))
    rows = FileRows(tmp_path / "v.jsonl")
    query = np.array([1, 0], np.float32)
    assert rows.search(query, 1)[0].columns == {"author": "Ann", "year": 1999}
    assert [row.id for row in rows.search(query, 3, parse_where(["author=Ann"]))] == ["a", "c"]
    assert [row.id for row in rows.search(query, 3, parse_where(["year=2001", "year=1999", "author=Ann"]))] == ["a", "c"]
    assert [row.id for row in rows.search(query, 3, parse_where(["year=2001"]))] == ["b", "c"]
    with pytest.raises(ConfigError, match="no column 'place'; its columns are author, year"):
        rows.search(query, 3, {"place": "x"})


@pytest.mark.parametrize("content", [b"", b"no table", b"PAR1", b"{", b"[1]", b"\x93NUMPY"])
@pytest.mark.parametrize("name", ["v.parquet", "v.arrow", "v.jsonl", "v.npy", "v.txt", "v.faiss"])
def test_a_file_that_is_no_output_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError):
        open_rows(f"{tmp_path}/{name}")
    with pytest.raises(ConfigError, match="no such file"):
        open_rows(f"{tmp_path}/none.parquet")


async def test_a_faiss_index_is_searched_among_the_rows_that_a_condition_names(tmp_path: Path) -> None:
    lines = [f'{{"text": "{text}", "part": {number % 3}}}' for number, text in enumerate(TEXTS)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    job = make_job(tmp_path, "v.faiss", ("dense",), with_text=True, keep_columns=("part",))
    await finished(msgspec.structs.replace(job, inputs=[f"{tmp_path}/a.jsonl"]))
    rows = open_rows(f"faiss:{tmp_path}/v.faiss")
    found = rows.search(QUERY, 4, {"part": 1})
    assert [row.id for row in found] == [number for number in BEST if number % 3 == 1][:4]
    assert (found[0].text, found[0].columns) == (TEXTS[7], {"part": 1})
    rows.close()
    (tmp_path / "v.faiss.rows.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"has 20 rows, but .*v.faiss.rows.jsonl 1"):
        open_rows(f"{tmp_path}/v.faiss")


@pytest.mark.parametrize(
    "name", ["hf:owner/repository", "hf:owner/repository:Q8_0", "HF:owner/repository", "model.gguf", "./x/model"]
)
def test_a_hostile_file_names_no_model_to_download_or_to_load_from_a_path(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    for file in ("model.gguf", "x/model"):
        (tmp_path / file).write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match="which is not loaded because a file says so; if you trust it"):
        recorded_model(StoreInfo(model=name, dimensions=3), None, "v.parquet")


def test_a_file_records_its_model_by_name() -> None:
    assert recorded_model(StoreInfo(model="bge-m3", type="Q8_0", dimensions=3), None, "v.parquet") == "bge-m3:Q8_0"
    assert recorded_model(StoreInfo(model="own-model", dimensions=3), "other", "v.parquet") == "own-model"
    assert recorded_model(StoreInfo(model="file", dimensions=3), "/models/file.gguf", "v.parquet") == "/models/file.gguf"
    assert recorded_model(StoreInfo(model="", dimensions=3), "other", "v.parquet") is None
