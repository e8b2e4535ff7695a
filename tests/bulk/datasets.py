"""Helpers for tests of jobs over fragments: runs one in this process, with a fake engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgeembed.bulk.dataset_job import DatasetJob, Totals, claimed, planned, run_here
from edgeembed.bulk.embedders import fitted_rules
from edgeembed.bulk.fragment_shards import FragmentWork
from edgeembed.bulk.job import JobResult
from edgeembed.bulk.places import Place
from edgeembed.bulk.shards import JobRules
from tests.bulk.jobs import Silent, embedder_of
from tests.fakes import FakeEngine

ROWS, FILES, GROUP = 40, 3, 7


def write_tables(folder: Path) -> Path:
    """Write a few Parquet files of texts, whose row groups have several shards, with an empty text in the second."""
    folder.mkdir(parents=True)
    for file in range(FILES):
        rows = range(file * ROWS, (file + 1) * ROWS)
        texts = ["" if row == ROWS + 3 else f"{'word ' * (row % 4)}number {row} of them" for row in rows]
        pq.write_table(pa.table({"key": list(rows), "text": texts}), folder / f"in-{file}.parquet", row_group_size=GROUP)
    return folder


def dataset_job(inputs: str, output: str, *, single: str | None = None, **more: Any) -> DatasetJob:
    """Return a job. more: flags of the job, and rules."""
    flags = {name: more.pop(name) for name in ("resume", "overwrite", "strict", "input_format") if name in more}
    rules = JobRules(format="parquet", **{"id_column": "key", "shard_rows": 5} | more)
    place = Place.of(single) if single else None
    return DatasetJob(inputs=[inputs], output=Place.of(output), single=place, rules=rules, **flags)


async def completed(job: DatasetJob, engine: FakeEngine | None = None) -> JobResult:
    async with embedder_of(job.rules.outputs, engine or FakeEngine()) as embedder:
        with claimed(job):
            plan = planned(job)
            manifest = job.begin(plan, embedder.info, await fitted_rules(job.rules.chunks, embedder), Silent())
            totals = Totals(embedder.info.engine, Silent().note)
            async for receipt in run_here(
                FragmentWork(job.output, manifest, job.strict), plan.fragments, embedder, Silent()
            ):
                totals.add(receipt)
            result, _ = job.finish(manifest, totals)
            return result


def content(folder: Path) -> dict[str, bytes]:
    """Return the files of an output, but for what a job says of its engine."""
    found = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return {name: _without_folder(each, folder) for name, each in found.items()}


def _without_folder(found: bytes, folder: Path) -> bytes:
    return found.replace(json.dumps(str(folder)).strip('"').encode(), b"OUT")


class StopError(Exception):
    """What a test lets a put raise."""


@contextmanager
def stopping(monkeypatch: pytest.MonkeyPatch, put: int, *, done: bool) -> Iterator[None]:
    """Let a put raise, counted from 0. done: after it has written."""
    write, count = Place.write_bytes, iter(range(10**6))

    def write_bytes(self: Place, given: bytes | memoryview) -> None:
        stop = next(count) == put
        if not stop or done:
            write(self, given)
        if stop:
            raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(Place, "write_bytes", write_bytes)
        yield
