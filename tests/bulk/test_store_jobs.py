"""Jobs that write to stores, in this process: what is there after a stop at any point, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgeembed.bulk.job import Job
from edgeembed.bulk.searching import open_rows
from edgeembed.bulk.shards import WorkFolder
from edgeembed.bulk.stores.interface import Found
from edgeembed.errors import ConfigError
from tests.bulk.jobs import TEXTS, finished, make_job, unfinished
from tests.bulk.store_places import STORES, place_of
from tests.server.dialect_requests import unit


@pytest.fixture(params=[*STORES, "faiss"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)  # where a server's jobs keep their files
    with place_of(request.param, tmp_path) as name:
        yield name


def all_rows(place: str) -> dict[Any, Found]:
    rows = open_rows(place)
    try:
        found = rows.search(unit(TEXTS[7]).astype(np.float32), 100)
        assert len({row.id for row in found}) == len(found), "a row is there twice"
        return {row.id: row for row in found}
    finally:
        rows.close()


def check(place: str) -> None:
    rows = all_rows(place)
    assert sorted(rows) == list(range(len(TEXTS)))
    for number, text in enumerate(TEXTS):
        assert rows[number].text == text
        assert rows[number].score == pytest.approx(unit(text) @ unit(TEXTS[7]), abs=1e-5)


async def test_a_stopped_job_goes_on_from_where_it_was(place: str) -> None:
    """Also if the store has more than the job knows: a kill may come between the store's commit and the job's receipt."""
    await unfinished(make_job(Path.cwd(), place, ("dense",), with_text=True), TEXTS[15])
    work = make_job(Path.cwd(), place, ("dense",), with_text=True).output.work()
    receipts = sorted(work.folder.glob("receipt-*.json"))
    assert receipts
    receipts[-1].unlink()
    resumed = make_job(Path.cwd(), place, ("dense",), with_text=True, resume=True)
    result = await finished(resumed)
    assert (result.rows, result.before) == (20, 6 * (len(receipts) - 1))
    check(place)
    assert not work.folder.exists()


async def test_a_complete_store_is_replaced_only_when_asked(place: str) -> None:
    await finished(make_job(Path.cwd(), place, ("dense",)))
    with pytest.raises(ConfigError, match="exists already; replace it with --overwrite"):
        await finished(make_job(Path.cwd(), place, ("dense",)))
    assert all_rows(place)[0].text is None
    await finished(make_job(Path.cwd(), place, ("dense",), with_text=True, overwrite=True))
    check(place)


@pytest.mark.parametrize("place", ["sqlite:{}/index.db"])
async def test_a_stop_before_the_store_is_there_or_when_the_old_one_is_still_there(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await finished(make_job(tmp_path, place, ("dense",)))
    began = WorkFolder.begin

    def begin(self: WorkFolder, manifest: Any) -> None:
        began(self, manifest)
        raise OSError("stop")

    monkeypatch.setattr(WorkFolder, "begin", begin)
    with pytest.raises(ConfigError, match="stop"):
        await finished(make_job(tmp_path, place, ("dense",), with_text=True, overwrite=True))
    monkeypatch.undo()
    await finished(make_job(tmp_path, place, ("dense",), with_text=True, resume=True))
    check(place.format(tmp_path))


def with_texts(job: Job, folder: Path, lines: str) -> Job:
    (folder / "more.jsonl").write_text(lines)
    return msgspec.structs.replace(job, inputs=[f"{folder}/more.jsonl"])


@pytest.mark.parametrize("kind", STORES)
async def test_rows_are_added_to_a_store(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with place_of(kind, tmp_path) as place:
        await finished(make_job(tmp_path, place, ("dense",), with_text=True))
        more = '{"text": "new", "key": 50}\n{"text": "changed", "key": 3}\n{"text": "x", "key": "no number"}'
        rules: dict[str, Any] = {"with_text": True, "id_column": "key", "append": True}
        result = await finished(with_texts(make_job(tmp_path, place, ("dense",), **rules), tmp_path, more))
        assert (result.rows, result.refused) == (2, 1)
        rows = all_rows(place)
        assert sorted(rows) == [*range(20), 50]
        assert (rows[50].text, rows[3].text) == ("new", "changed")
        assert rows[3].score == pytest.approx(unit("changed") @ unit(TEXTS[7]), abs=1e-5)


async def test_a_store_takes_the_rows_of_a_folder_that_is_named_by_its_uri(tmp_path: Path) -> None:
    """With what the folders of a data set are called as a column."""
    for year in (2024, 2025):
        (tmp_path / "in" / f"year={year}").mkdir(parents=True)
        (tmp_path / "in" / f"year={year}" / "a.jsonl").write_text(f'{{"text": "of {year}"}}\n')
    job = make_job(tmp_path, f"sqlite:{tmp_path}/index.db#notes", ("dense",), with_text=True, keep_columns=("year",))
    await finished(msgspec.structs.replace(job, inputs=[f"file://{tmp_path}/in"]))
    rows = open_rows(f"sqlite:{tmp_path}/index.db#notes")
    found = rows.search(unit("of 2025").astype(np.float32), 1, {"year": [2025]})
    rows.close()
    assert [(row.text, row.columns["year"]) for row in found] == [("of 2025", 2025)]


def test_texts_of_a_folder_that_is_named_by_its_uri_are_cut(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "rows").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("a note")
    (tmp_path / "rows" / "a.jsonl").write_text('{"text": "a row"}')
    job = make_job(tmp_path, f"sqlite:{tmp_path}/index.db#notes", ("dense",))
    for folder, cut in (("notes", True), ("rows", False)):
        assert msgspec.structs.replace(job, inputs=[f"file://{tmp_path}/{folder}"]).has_chunks == cut
