"""Jobs over fragments: the same bytes however often they are interrupted, and whoever computes a fragment."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from edgeembed.bulk import dataset_job as dataset_module
from edgeembed.bulk import fragments
from edgeembed.bulk.dataset_job import DatasetJob, Totals, claimed, planned, run_here
from edgeembed.bulk.fragment_shards import FragmentReceipt, FragmentWork
from edgeembed.bulk.fragments import Fragment
from edgeembed.bulk.places import Place
from edgeembed.bulk.searching import open_rows
from edgeembed.errors import ConfigError, EdgeEmbedError
from tests.bulk.datasets import ROWS, StopError, completed, content, dataset_job, stopping, write_tables
from tests.bulk.jobs import Silent, TogetherEngine, embedder_of
from tests.fakes import FakeEngine

ALL = 3 * ROWS - 1


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Three small files, of which the first two are one fragment."""
    monkeypatch.setattr(fragments, "FRAGMENT_FILES", 2)
    return f"file://{write_tables(tmp_path / 'in')}"


def job_at(inputs: str, folder: Path, **more: Any) -> DatasetJob:
    return dataset_job(inputs, f"file://{folder}", **more)


def table(folder: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = pq.read_table(folder).to_pydict()
    return found


async def test_the_shards_sort_as_the_inputs_do_and_are_read_as_one_table(inputs: str, tmp_path: Path) -> None:
    result = await completed(job_at(inputs, tmp_path / "out", with_text=True))
    assert (result.rows, result.refused, result.before) == (ALL, 1, 0)
    names = [path.name for path in sorted((tmp_path / "out").glob("*.parquet"))]
    assert names[0].startswith("part-00000-000000-00000-")
    found = [key for name in names for key in pq.read_table(tmp_path / "out" / name)["id"].to_pylist()]
    assert found == [row for row in range(3 * ROWS) if row != ROWS + 3]
    assert table(tmp_path / "out")["id"] == found
    rejects = (tmp_path / "out" / "_edgeembed" / "rejects.jsonl").read_text()
    assert "in-1.parquet" in rejects
    assert "row 3" in rejects


@pytest.mark.parametrize("done", [False, True], ids=["lost", "written"])
async def test_a_job_that_stops_at_any_put_and_is_resumed_gives_the_same_bytes(
    inputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, done: bool
) -> None:
    """lost: the put fails. written: what was put is there, but nobody learns of it."""
    whole = tmp_path / "whole"
    await completed(job_at(inputs, whole), TogetherEngine())
    wanted = content(whole)
    for put in range(len(wanted)):
        folder = tmp_path / f"stopped-{put}"
        with stopping(monkeypatch, put, done=done), pytest.raises(StopError):
            await completed(job_at(inputs, folder), TogetherEngine())
        engine = TogetherEngine()
        finished = (folder / "_edgeembed" / "finished.json").exists()
        if not finished:
            there = len(list(folder.glob("*.parquet")))
            result = await completed(job_at(inputs, folder, resume=True), engine)
            assert result.rows == ALL
            assert len(engine.computed) <= 5 * (len(wanted) - there)
        assert content(folder) == wanted, f"stopped at put {put}"


async def test_what_is_finished_is_not_computed_again(inputs: str, tmp_path: Path) -> None:
    await completed(job_at(inputs, tmp_path / "out"))
    (tmp_path / "out" / "_edgeembed" / "finished.json").unlink()
    engine = FakeEngine()
    result = await completed(job_at(inputs, tmp_path / "out", resume=True), engine)
    assert (result.rows, result.before) == (ALL, ALL)
    assert len(engine.computed) == 1, "more than the text by which a model is asked for its dimensions"


async def test_fragments_computed_elsewhere_in_any_order_give_the_same_bytes(inputs: str, tmp_path: Path) -> None:
    await completed(job_at(inputs, tmp_path / "whole"))
    job = job_at(inputs, tmp_path / "many")
    async with embedder_of(job.rules.outputs, FakeEngine()) as embedder:
        plan = planned(job)
        work = FragmentWork(job.output, job.begin(plan, embedder.info, job.rules.chunks, Silent()))
        receipts: dict[tuple[int, int], FragmentReceipt] = {}

        async def worker(some: list[Fragment]) -> None:
            async for receipt in run_here(work, some, embedder, Silent()):
                receipts[receipt.place] = receipt

        backwards = plan.fragments[::-1]
        # One of them is computed by two workers at a time, as where one is believed to be dead.
        await asyncio.gather(worker(backwards[:2]), worker(backwards[1:]))
        totals = Totals(embedder.info.engine, Silent().note)
        for receipt in receipts.values():
            totals.add(receipt)
        job.finish(work.manifest, totals)
    wanted, found = content(tmp_path / "whole"), content(tmp_path / "many")
    assert found == wanted


async def test_a_worker_whose_engine_is_another_one_is_noted_once(
    inputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fragments, "FRAGMENT_FILES", 1)
    notes: list[str] = []
    job = job_at(inputs, tmp_path / "out")
    async with embedder_of(job.rules.outputs, FakeEngine()) as embedder:
        plan = planned(job)
        work = FragmentWork(job.output, job.begin(plan, embedder.info, job.rules.chunks, Silent()))
        totals = Totals(embedder.info.engine, notes.append)
        async for receipt in run_here(work, plan.fragments[:1], embedder, Silent()):
            totals.add(receipt)
    other = FakeEngine()
    other.mode = "another"
    async with embedder_of(job.rules.outputs, other) as embedder:
        async for receipt in run_here(work, plan.fragments[1:], embedder, Silent()):
            totals.add(receipt)
    (note,) = notes
    assert "another" in note


async def test_an_engine_that_changes_in_the_middle_is_noted_and_the_shards_say_which_it_computed(
    inputs: str, tmp_path: Path
) -> None:
    """Such as one whose worker is replaced by one in another execution mode."""
    notes: list[str] = []
    engine = FakeEngine()
    job = job_at(inputs, tmp_path / "out")
    async with embedder_of(job.rules.outputs, engine) as embedder:
        plan = planned(job)
        work = FragmentWork(job.output, job.begin(plan, embedder.info, job.rules.chunks, Silent()))
        first, second, *_ = plan.fragments
        receipts = [receipt async for receipt in run_here(work, [first], embedder, Silent())]
        engine.mode = "plain"
        receipts += [receipt async for receipt in run_here(work, [second], embedder, Silent())]
        engine.mode = "fake"
        again = {receipt.place: receipt.engine async for receipt in run_here(work, [first, second], embedder, Silent())}
    totals = Totals(embedder.info.engine, notes.append)
    for receipt in receipts:
        totals.add(receipt)
    (note,) = notes
    assert ", plain, " in note
    assert [", plain, " in receipt.engine for receipt in receipts] == [False, True]
    assert again == {receipt.place: receipt.engine for receipt in receipts}, "the shards are there already"


async def test_nothing_is_listed_while_a_job_is_computed(
    inputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store's list may be old: what is there is found by name."""
    await completed(job_at(inputs, tmp_path / "whole"))
    files, write = Place.files, Place.write_bytes
    done: list[str] = []

    def listed(self: Place) -> Any:
        done.append("list")
        return files(self)

    def written(self: Place, given: bytes | memoryview) -> None:
        done.append(self.suffix)
        write(self, given)

    monkeypatch.setattr(Place, "files", listed)
    monkeypatch.setattr(Place, "write_bytes", written)
    await completed(job_at(inputs, tmp_path / "out"))
    shards = [index for index, what in enumerate(done) if what == ".parquet"]
    assert "list" not in done[shards[0] : shards[-1]]
    assert content(tmp_path / "out") == content(tmp_path / "whole")


async def test_a_shard_that_is_damaged_is_an_error(inputs: str, tmp_path: Path) -> None:
    await completed(job_at(inputs, tmp_path / "out"))
    (tmp_path / "out" / "_edgeembed" / "finished.json").unlink()
    first = min((tmp_path / "out").glob("*.parquet"))
    first.write_bytes(b"something else")
    with pytest.raises(ConfigError, match="not what this job wrote"):
        await completed(job_at(inputs, tmp_path / "out", resume=True))


async def test_inputs_that_changed_are_refused(inputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stopping(monkeypatch, 4, done=True), pytest.raises(StopError):
        await completed(job_at(inputs, tmp_path / "out"))
    (tmp_path / "in" / "in-2.parquet").unlink()
    with pytest.raises(ConfigError, match="the inputs have changed"):
        await completed(job_at(inputs, tmp_path / "out", resume=True))


async def test_other_rules_are_refused(inputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stopping(monkeypatch, 4, done=True), pytest.raises(StopError):
        await completed(job_at(inputs, tmp_path / "out"))
    with pytest.raises(ConfigError, match="with_text"):
        await completed(job_at(inputs, tmp_path / "out", resume=True, with_text=True))


async def test_unfinished_complete_and_foreign_output_is_refused(
    inputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stopping(monkeypatch, 4, done=True), pytest.raises(StopError):
        await completed(job_at(inputs, tmp_path / "out"))
    with pytest.raises(ConfigError, match="unfinished job; run the command that began it with --resume"):
        await completed(job_at(inputs, tmp_path / "out"))
    await completed(job_at(inputs, tmp_path / "out", resume=True))
    with pytest.raises(ConfigError, match="exists already; replace it with --overwrite"):
        await completed(job_at(inputs, tmp_path / "out"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"contains notes\.txt, which is not of this job"):
        await completed(job_at(inputs, tmp_path / "other"))


async def test_overwriting_removes_the_earlier_output(inputs: str, tmp_path: Path) -> None:
    await completed(job_at(inputs, tmp_path / "out", shard_rows=3))
    await completed(job_at(inputs, tmp_path / "out", overwrite=True))
    await completed(job_at(inputs, tmp_path / "whole"))
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(ConfigError, match=r"mine\.txt, which edgeembed has not written"):
        await completed(job_at(inputs, tmp_path / "out", overwrite=True))


async def test_strict_ends_at_a_refused_row_and_resume_goes_on_without_it(inputs: str, tmp_path: Path) -> None:
    with pytest.raises(EdgeEmbedError, match="the text is empty"):
        await completed(job_at(inputs, tmp_path / "out", strict=True))
    result = await completed(job_at(inputs, tmp_path / "out", resume=True))
    assert (result.rows, result.refused) == (ALL, 1)
    assert result.first_refused is not None


async def test_many_refused_rows_stay_in_the_files_of_their_shards(
    inputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_module, "JOINED_REJECTS", 0)
    await completed(job_at(inputs, tmp_path / "out"))
    assert not (tmp_path / "out" / "_edgeembed" / "rejects.jsonl").exists()
    assert len(list((tmp_path / "out" / "_edgeembed" / "rejects").glob("part-*.jsonl"))) == 1


async def test_inputs_without_texts_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(EdgeEmbedError, match="the inputs have no texts"):
        await completed(job_at(f"file://{tmp_path}/empty.jsonl", tmp_path / "out", id_column=None))


async def test_a_fragment_all_of_whose_rows_are_refused_is_finished(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"text": ""}\n')
    (tmp_path / "in" / "b.jsonl").write_text('{"text": "some"}\n{"text": "more"}\n')
    result = await completed(job_at(f"file://{tmp_path}/in", tmp_path / "out", id_column=None))
    assert (result.rows, result.refused) == (2, 1)
    assert table(tmp_path / "out")["id"] == ["b.jsonl:0", "b.jsonl:17"]


async def test_columns_keep_the_types_that_the_first_rows_have(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"text": "some", "year": 2001, "lang": "en"}\n')
    (tmp_path / "in" / "b.jsonl").write_text('{"text": "more", "year": "?", "lang": "de"}\n{"text": "most", "year": 7}\n')
    result = await completed(
        job_at(f"file://{tmp_path}/in", tmp_path / "out", id_column=None, keep_columns=("year", "lang"), shard_rows=1)
    )
    assert (result.rows, result.refused) == (2, 1)
    assert table(tmp_path / "out")["year"] == [2001, 7]
    assert table(tmp_path / "out")["lang"] == ["en", None]


async def test_the_shards_are_searched_as_one(inputs: str, tmp_path: Path) -> None:
    await completed(job_at(inputs, tmp_path / "out"))
    rows = open_rows(f"{tmp_path}/out")
    found = rows.search(np.full(rows.info.dimensions, 0.25, np.float32), 1000)
    assert len(found) == ALL


async def test_a_single_file_has_the_rows_of_the_shards(inputs: str, tmp_path: Path) -> None:
    await completed(job_at(inputs, tmp_path / "out"))
    single = dataset_job(inputs, f"file://{tmp_path}/v.parquet.parts", single=f"file://{tmp_path}/v.parquet")
    await completed(single)
    assert table(tmp_path / "v.parquet") == table(tmp_path / "out")
    assert "row 3" in (tmp_path / "v.rejects.jsonl").read_text()
    assert not list((tmp_path / "v.parquet.parts").rglob("*.parquet"))
    with pytest.raises(ConfigError, match="exists already"):
        await completed(single)


async def test_what_is_too_large_for_a_single_file_stays_in_its_shards(
    inputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_module, "SINGLE_FILE_BYTES", 1000)
    single = dataset_job(inputs, f"file://{tmp_path}/v.parquet.parts", single=f"file://{tmp_path}/v.parquet")
    with pytest.raises(ConfigError, match="too much for --single-file"):
        await completed(single)
    assert len(table(tmp_path / "v.parquet.parts")["id"]) == ALL


async def test_a_single_file_that_is_being_replaced_is_not_taken_for_the_new_one(
    inputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(**more: Any) -> DatasetJob:
        return dataset_job(inputs, f"file://{tmp_path}/v.parquet.parts", single=f"file://{tmp_path}/v.parquet", **more)

    await completed(job())
    with stopping(monkeypatch, 3, done=True), pytest.raises(StopError):
        await completed(job(with_text=True, overwrite=True))
    again = job(with_text=True, resume=True)
    assert again.finished() is None
    await completed(again)
    assert len(table(tmp_path / "v.parquet")["text"]) == ALL
    assert again.finished() is not None


async def test_two_jobs_at_a_time_in_a_folder_of_a_store_are_noticed(inputs: str, tmp_path: Path) -> None:
    """A store has no locks, so the jobs are begun here without `claimed`."""
    first, second = job_at(inputs, tmp_path / "out"), job_at(inputs, tmp_path / "out", with_text=True)
    async with embedder_of(first.rules.outputs, FakeEngine()) as embedder:
        plan = planned(first)
        manifests = [job.begin(plan, embedder.info, job.rules.chunks, Silent()) for job in (first, second)]
        for job, manifest, message in zip(
            (first, second), manifests, ("another job began", "has 48 shards, but this job has 24"), strict=True
        ):
            totals = Totals(embedder.info.engine, Silent().note)
            async for receipt in run_here(FragmentWork(job.output, manifest), plan.fragments, embedder, Silent()):
                totals.add(receipt)
            with pytest.raises(ConfigError, match=message):
                job.finish(manifest, totals)
    assert not (tmp_path / "out" / "_edgeembed" / "finished.json").exists()
    await completed(job_at(inputs, tmp_path / "out", overwrite=True))
    assert len(table(tmp_path / "out")["id"]) == ALL


async def test_a_shard_that_is_gone_at_the_end_is_computed_again(
    inputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = DatasetJob.finish

    def without_one(self: DatasetJob, *arguments: Any) -> Any:
        min((tmp_path / "out").glob("*.parquet")).unlink()
        return finish(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DatasetJob, "finish", without_one)
        with pytest.raises(ConfigError, match="continue with --resume"):
            await completed(job_at(inputs, tmp_path / "out"))
    await completed(job_at(inputs, tmp_path / "out", resume=True))
    assert len(table(tmp_path / "out")["id"]) == ALL


async def test_a_job_that_moved_is_not_continued_with_other_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def job(folder: Path, **more: Any) -> DatasetJob:
        found = job_at("", tmp_path / "out", id_column=None, **more)
        return msgspec.structs.replace(found, inputs=[f"file://{folder}/in-{number}.parquet" for number in range(2)])

    write_tables(tmp_path / "in")
    with stopping(monkeypatch, 3, done=True), pytest.raises(StopError):
        await completed(job(tmp_path / "in"))
    (tmp_path / "in").rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="the inputs have changed"):
        await completed(job(tmp_path / "moved", resume=True))


async def test_an_output_that_is_an_input_or_near_one_is_refused(inputs: str, tmp_path: Path) -> None:
    await completed(job_at(inputs, tmp_path / "out", with_text=True))
    before = content(tmp_path / "out")
    for source in (tmp_path / "out", min((tmp_path / "out").glob("*.parquet"))):
        with pytest.raises(ConfigError, match="where the job writes"):
            await completed(job_at(f"file://{source}", tmp_path / "out", overwrite=True))
    with pytest.raises(ConfigError, match="whose files are inputs"):
        await completed(job_at(inputs, tmp_path / "in" / "out"))
    file = f"{inputs}/in-0.parquet"
    with pytest.raises(ConfigError, match="where the job writes"):
        await completed(dataset_job(file, f"{file}.parts", single=file, overwrite=True))
    assert content(tmp_path / "out") == before


async def test_a_folder_of_this_machine_is_locked_also_as_a_uri(inputs: str, tmp_path: Path) -> None:
    with (
        claimed(job_at(inputs, tmp_path / "out")),
        pytest.raises(ConfigError, match="another process is writing"),
        claimed(job_at(inputs, tmp_path / "out")),
    ):
        pass
