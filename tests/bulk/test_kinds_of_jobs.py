"""A folder of shards is written by jobs over local files and by jobs over fragments; each finds what the other left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from edgeembed.bulk.outputs import Output
from edgeembed.errors import ConfigError
from tests.bulk.datasets import StopError, completed, dataset_job, stopping
from tests.bulk.jobs import TEXTS, finished, make_job, unfinished

Run = Callable[..., object]
"""Runs a job that writes to the folder `v`, with flags, and waits for the threads that it began."""


def over_local_files(folder: Path) -> Run:
    return lambda **flags: asyncio.run(finished(make_job(folder, "v/", ("dense",), **flags)))


def over_fragments(folder: Path) -> Run:
    make_job(folder, "v/", ("dense",))  # writes the texts
    texts, out = f"file://{folder}/texts.txt", f"file://{folder}/v"
    return lambda **flags: asyncio.run(completed(dataset_job(texts, out, id_column=None, **flags)))


KINDS = [(over_local_files, over_fragments), (over_fragments, over_local_files)]


@pytest.mark.parametrize(("first", "second"), KINDS)
def test_complete_output_of_the_other_kind_is_complete_and_can_be_replaced(
    tmp_path: Path, first: Callable[[Path], Run], second: Callable[[Path], Run]
) -> None:
    first(tmp_path)()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="v exists already; replace it with --overwrite"):
        second(tmp_path)()
    assert sorted(tmp_path.rglob("*")) == before
    assert Output.of(f"{tmp_path}/v").finished
    assert dataset_job("unused", str(tmp_path / "v")).finished() is not None
    second(tmp_path)(overwrite=True)
    assert pq.read_table(tmp_path / "v").num_rows == len(TEXTS)
    assert len({file.name.partition("-")[0] for file in (tmp_path / "v").glob("*.parquet")}) == 1
    assert len(list((tmp_path / "v" / "_edgeembed").glob("finished*"))) == 1
    first(tmp_path)(overwrite=True)
    assert pq.read_table(tmp_path / "v").num_rows == len(TEXTS)


@pytest.mark.parametrize(("first", "second"), KINDS)
def test_an_unfinished_job_of_the_other_kind_is_not_continued_and_can_be_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: Callable[[Path], Run], second: Callable[[Path], Run]
) -> None:
    if first is over_local_files:
        asyncio.run(unfinished(make_job(tmp_path, "v/", ("dense",)), TEXTS[15]))
    else:
        with stopping(monkeypatch, 2, done=True), pytest.raises(StopError):
            first(tmp_path)()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="v has an unfinished job; run the command that began it with --resume"):
        second(tmp_path)()
    with pytest.raises(ConfigError, match="continue it with the command that began it, or start again with --overwrite"):
        second(tmp_path)(resume=True)
    assert sorted(tmp_path.rglob("*")) == before
    second(tmp_path)(overwrite=True)
    assert pq.read_table(tmp_path / "v").num_rows == len(TEXTS)
    assert len({file.name.partition("-")[0] for file in (tmp_path / "v").glob("*.parquet")}) == 1


@pytest.mark.parametrize("kind", [over_local_files, over_fragments])
def test_files_of_other_programs_are_never_replaced(tmp_path: Path, kind: Callable[[Path], Run]) -> None:
    """Spark and pyarrow name theirs part-…, too."""
    kind(tmp_path)()
    strange = tmp_path / "v" / "part-00000-3a1b.snappy.parquet"
    strange.write_bytes(b"precious")
    with pytest.raises(ConfigError, match=r"contains part-00000-3a1b\.snappy\.parquet, which edgeembed"):
        kind(tmp_path)(overwrite=True)
    assert strange.read_bytes() == b"precious"
    assert Output.of(f"{tmp_path}/v").finished
