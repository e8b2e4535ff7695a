"""Jobs over fragments whose inputs and output are in an object store or on a web server."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest

from edgeembed.bulk import file_systems
from edgeembed.bulk.places import Place, PlaceError
from tests.bulk.datasets import completed, dataset_job, write_tables
from tests.bulk.object_store import ObjectStore, object_store
from tests.bulk.web_server import web_server


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


def upload(folder: Path, root: Place) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            root.child(file.relative_to(folder).as_posix()).write_bytes(file.read_bytes())


def shards(root: Place) -> dict[str, bytes | None]:
    return {file.relative: file.place.read_bytes() for file in root.files()}


async def test_a_store_is_read_and_written_with_the_bytes_of_local_files(store: ObjectStore, tmp_path: Path) -> None:
    local = write_tables(tmp_path / "in" / "year=2024").parent
    upload(local, Place.of(f"{store.root}/in"))
    tables = []
    for inputs in (str(local), f"{store.root}/in"):
        outputs = [f"{tmp_path}/{len(inputs)}/", f"{store.root}/{len(inputs)}/"]
        for output in outputs:
            result = await completed(dataset_job(inputs, output, keep_columns=("year",), with_text=True))
            assert (result.rows, result.refused) == (119, 1)
        here, there = (shards(Place.of(output)) for output in outputs)
        assert here == there
        assert len(here) > 20
        tables.append([pq.read_table(io.BytesIO(content or b"")) for content in here.values()])
    assert tables[0] == tables[1]  # but for the names, for which a store's version of a file counts
    assert tables[0][0]["year"].to_pylist() == [2024] * tables[0][0].num_rows


async def test_a_store_that_dies_in_the_middle_ends_the_job_and_it_is_resumed(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = str(write_tables(tmp_path / "in"))
    whole = Place.of(f"{store.root}/whole")
    await completed(dataset_job(inputs, whole.name))
    output = Place.of(f"{store.root}/out")
    job, write, written = dataset_job(inputs, output.name), Place.write_bytes, iter(range(1000))

    def write_until(self: Place, content: bytes | memoryview) -> None:
        if next(written) == 9:
            patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # nobody is there
        write(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(file_systems, "ATTEMPTS", 1)
        patch.setattr(Place, "write_bytes", write_until)
        with pytest.raises(PlaceError, match=r"s3://bucket/out/.*check the bucket's name, AWS_ENDPOINT_URL"):
            await completed(job)
    assert 3 < len(output.files()) < len(whole.files())
    result = await completed(msgspec.structs.replace(job, resume=True))
    assert (result.rows, result.refused) == (119, 1)
    assert shards(output) == shards(whole)


async def test_a_signed_address_is_in_no_file_of_a_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    lines = "\n".join([*(f"line {row}" for row in range(20)), "\udcff"])
    (tmp_path / "in" / "a.txt.gz").write_bytes(gzip.compress(lines.encode(errors="surrogateescape")))
    with web_server(tmp_path / "in") as server:
        host = server.url.removeprefix("http://")
        inputs = f"http://user:pa55word@{host}/a.txt.gz?X-Amz-Signature=53cret"
        result = await completed(dataset_job(inputs, f"{tmp_path}/out/", id_column=None, with_text=True))
    assert (result.rows, result.refused) == (20, 1)
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert len(files) > 5
    assert any(f"http://{host}/a.txt.gz?…" in file.read_text() for file in files if file.name == "rejects.jsonl")
    for file in files:
        assert b"53cret" not in file.read_bytes()
        assert b"pa55word" not in file.read_bytes()
    assert "53cret" not in "".join(capsys.readouterr())
