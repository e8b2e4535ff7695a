"""Repeatable requests: their rows are those of one worker, in the batches that follow from their texts alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pytest

from edgeembed.engine.interface import BULK, Priority, Row, Text
from edgeembed.engine.supervisor.fallback_policy import FallbackPolicy
from edgeembed.engine.supervisor.worker_engine import WorkerEngine
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.errors import EngineUnavailableError
from edgeembed.inference.single_flight import MOST_ATTEMPTS, SingleFlight
from edgeembed.models.pool import Lease
from tests.engine.tiny_qwen3 import make_tiny_qwen3
from tests.waiting import until_async

TEXTS: Mapping[bytes, Text] = {b"one": "one", b"two": "two"}
SOUND = [(2, False), (2, False)]


class ScriptedLease:
    """The rows of each attempt, or its error; the last one stays. A row is its worker, and whether it is alone."""

    def __init__(self, *attempts: Sequence[tuple[int, bool]] | EngineUnavailableError) -> None:
        self._attempts = attempts
        self.submitted = 0

    def submit(self, texts: Sequence[Text], *_: object, **__: object) -> list[asyncio.Future[Row]]:
        rows = self._attempts[min(self.submitted, len(self._attempts) - 1)]
        self.submitted += 1
        if isinstance(rows, EngineUnavailableError):
            raise rows
        futures: list[asyncio.Future[Row]] = []
        for _text, (worker, alone) in zip(texts, rows, strict=True):
            futures.append(asyncio.get_running_loop().create_future())
            futures[-1].set_result(Row(np.full(2, self.submitted, np.float32), 3, worker=worker, alone=alone))
        return futures


async def compute(lease: object, texts: Mapping[bytes, Text] = TEXTS, *, isolated: bool = True) -> dict[bytes, Row]:
    priority: Priority = BULK
    return await SingleFlight().compute(cast(Lease, lease), texts, priority, lambda _key, _row: None, isolated=isolated)


@pytest.mark.parametrize("first", [[(1, False), (2, False)], [(2, True), (2, False)]], ids=["two workers", "alone"])
async def test_all_texts_are_computed_again_if_not_all_were_computed_together(first: list[tuple[int, bool]]) -> None:
    lease = ScriptedLease(first, SOUND)
    rows = await compute(lease)
    assert lease.submitted == 2
    assert [row.vector.tolist() for row in rows.values()] == [[2, 2], [2, 2]]


async def test_what_one_worker_computed_together_is_not_computed_again() -> None:
    lease = ScriptedLease(SOUND)
    await compute(lease)
    assert lease.submitted == 1


async def test_requests_that_are_not_repeatable_are_computed_once() -> None:
    lease = ScriptedLease([(1, False), (2, True)])
    await compute(lease, isolated=False)
    assert lease.submitted == 1


async def test_where_workers_end_each_time_the_rows_are_returned_as_they_came() -> None:
    lease = ScriptedLease(*([(number, True), (number + 1, True)] for number in range(1, 9)))
    rows = await compute(lease)
    assert lease.submitted == MOST_ATTEMPTS
    assert all(row.alone for row in rows.values())


async def test_what_the_same_workers_fail_at_is_not_tried_for_ever() -> None:
    lease = ScriptedLease([(1, True), (1, True)])
    rows = await compute(lease)
    assert lease.submitted == 2
    assert all(row.alone for row in rows.values())


async def test_rows_are_not_lost_if_computing_them_again_fails() -> None:
    lease = ScriptedLease([(1, True), (2, True)], EngineUnavailableError("restarting"))
    rows = await compute(lease)
    assert [row.vector.tolist() for row in rows.values()] == [[1, 1], [1, 1]]
    with pytest.raises(EngineUnavailableError, match="restarting"):
        await compute(ScriptedLease(EngineUnavailableError("restarting")))


@pytest.mark.model
async def test_a_worker_that_is_killed_in_the_middle_of_a_batch_changes_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its successor computes the texts of that batch alone, whose last digits are others."""
    options = WorkerOptions(
        path=str(make_tiny_qwen3(tmp_path / "tiny.gguf")),
        threads=2,
        context_tokens=512,
        batch_tokens=128,
        mode="cpu",
        extra_buffers=True,
    )
    engine = WorkerEngine(lambda _mode: options, FallbackPolicy())
    texts: dict[bytes, Text] = {b"%d" % number: f"{number} " + "x" * (number % 150) for number in range(1500)}
    futures: list[asyncio.Future[Row]] = []
    submit = engine.submit

    def submitted(*given: Any, **more: Any) -> list[asyncio.Future[Row]]:
        found = submit(*given, **more)
        futures.extend(found)
        return found

    await engine.start()
    try:
        wanted = await compute(engine, texts)
        worker = psutil.Process(engine.status.worker_pid)
        monkeypatch.setattr(engine, "submit", submitted)
        running = asyncio.create_task(compute(engine, texts))
        await until_async(lambda: futures)
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        worker.kill()
        found = await running
        assert engine.status.restarts == 1
    finally:
        await engine.close()
    assert bits(found) == bits(wanted)


def bits(rows: Mapping[bytes, Row]) -> dict[bytes, Any]:
    return {key: row.vector.tobytes() for key, row in rows.items()}
