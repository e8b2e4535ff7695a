"""Jobs over fragments whose inputs and output are in an object store: moto's server, a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.parquet as pq
import pytest

from edgeembed.bulk.places import Place, PlaceError
from tests.bulk.datasets import FILES, ROWS, StopError, completed, dataset_job, stopping, write_tables
from tests.bulk.object_store import ObjectStore, object_store

ALL = FILES * ROWS - 1


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as found:
        yield found


@pytest.fixture(scope="module")
def inputs(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write_tables(tmp_path_factory.mktemp("tables") / "in")
    for path in folder.iterdir():
        Place.of(f"{store.root}/in/{path.name}").write_bytes(path.read_bytes())
    return f"{store.root}/in/"


def content(output: str) -> dict[str, bytes | None]:
    """Return the objects of an output, but for the mark, which names its place."""
    place = Place.of(output)
    found = {file.relative: file.place.read_bytes() for file in place.files()}
    inner = ("_edgeembed/manifest.json", "_edgeembed/rejects.jsonl")
    return found | {name: place.child(name).read_bytes() for name in inner}


async def test_a_job_in_a_store_that_stops_at_a_put_gives_the_same_bytes(
    store: ObjectStore, inputs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await completed(dataset_job(inputs, f"{store.root}/whole/"))
    wanted = content(f"{store.root}/whole")
    assert None not in wanted.values()
    for put in (1, 9):
        for done in (False, True):
            output = f"{store.root}/stopped-{put}-{done}/"
            with stopping(monkeypatch, put, done=done), pytest.raises(StopError):
                await completed(dataset_job(inputs, output))
            result = await completed(dataset_job(inputs, output, resume=True))
            assert result.rows == ALL
            assert content(output) == wanted


async def test_a_job_goes_on_after_the_store_was_away(
    store: ObjectStore, inputs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When nobody answers, the job ends with the place's name; --resume goes on."""
    await completed(dataset_job(inputs, f"{store.root}/unbroken/"))
    output, write, puts = f"{store.root}/broken/", Place.write_bytes, iter(range(1000))

    def write_bytes(self: Place, given: bytes | memoryview) -> None:
        if next(puts) == 7:
            monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        write(self, given)

    monkeypatch.setattr(Place, "write_bytes", write_bytes)
    with pytest.raises(PlaceError, match="s3://"):
        await completed(dataset_job(inputs, output))
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
    result = await completed(dataset_job(inputs, output, resume=True))
    assert (result.rows, result.refused) == (ALL, 1)
    assert content(output) == content(f"{store.root}/unbroken/")


async def test_a_single_file_in_a_store(store: ObjectStore, inputs: str) -> None:
    single = dataset_job(inputs, f"{store.root}/v.parquet.parts", single=f"{store.root}/v.parquet")
    await completed(single)
    with Place.of(f"{store.root}/v.parquet").open_arrow() as file:
        assert pq.read_table(file).num_rows == ALL
    assert not Place.of(f"{store.root}/v.parquet.parts").files()
    assert Place.of(f"{store.root}/v.rejects.jsonl").read_bytes()
