"""Jobs into files of this machine: the same bytes whether they are interrupted or not, and a note where they may differ."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.bulk.jobs import TEXTS, Silent, TogetherEngine, finished, make_job, unfinished
from tests.fakes import FakeEngine


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("v*") if file.is_file()}


@pytest.mark.parametrize("name", ["v.npy", "v.parquet", "v.jsonl", "v/"])
async def test_a_resumed_job_gives_the_bytes_of_one_that_was_not_interrupted(tmp_path: Path, name: str) -> None:
    """Its engine's rows depend on what is computed with them."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    await finished(make_job(whole, name, ("dense",)), TogetherEngine())
    begun = await unfinished(make_job(stopped, name, ("dense",)), TEXTS[15], TogetherEngine())
    result = await finished(msgspec.structs.replace(begun, resume=True), TogetherEngine())
    assert result.before, "nothing was finished before it stopped"
    assert content(stopped) == content(whole)


async def test_an_engine_that_changes_in_the_middle_is_noted_once(tmp_path: Path) -> None:
    engine, row_of = FakeEngine(), FakeEngine().row_of
    notes: list[str] = []

    class Listener(Silent):
        def note(self, line: str) -> None:
            notes.append(line)

    def change_at(text: str) -> object:
        engine.mode = "plain" if text == TEXTS[7] else engine.mode
        return row_of(text)

    engine.row_of = change_at  # type: ignore[assignment]
    await finished(make_job(tmp_path, "v.npy", ("dense",)), engine, Listener())
    (note,) = notes
    assert ", fake, " in note
    assert ", plain, " in note
