"""Texts that wait for their rows, and what a worker sends for them."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from edgeembed.engine.interface import BULK, INTERACTIVE
from edgeembed.engine.ipc.messages import RowItem
from edgeembed.engine.outputs import pack
from edgeembed.engine.supervisor.pending import PendingTexts
from edgeembed.errors import EngineError
from tests.fakes import DIMENSIONS


@pytest.mark.parametrize("length", [0, 3, 4 * DIMENSIONS - 4, 4 * DIMENSIONS + 1, 4 * DIMENSIONS + 4])
async def test_a_row_of_another_length_is_not_handed_on(length: int) -> None:
    """A worker that was taken over may send anything."""
    pending = PendingTexts(lambda _id: None)
    (item,), (future,) = pending.add(["text"], BULK, "row")
    with pytest.raises(ValueError, match=f"a row of {length} bytes instead of {4 * DIMENSIONS}"):
        pending.finish_rows([RowItem(item.id, 1, bytes(length))], DIMENSIONS)
    assert not future.done()
    row = np.ones(DIMENSIONS, dtype=np.float32)
    pending.finish_rows([RowItem(item.id + 99, 1, row.tobytes()), RowItem(item.id, 1, row.tobytes())], DIMENSIONS)
    assert np.array_equal((await future).vector, row)


async def test_a_packed_row_that_is_malformed_is_not_handed_on() -> None:
    pending = PendingTexts(lambda _id: None)
    (item,), (future,) = pending.add(["text"], BULK, "row", outputs=("tokens",))
    with pytest.raises(ValueError, match="a packed row"):
        pending.finish_rows([RowItem(item.id, 1, np.ones(DIMENSIONS, np.float32).tobytes())], DIMENSIONS)
    assert not future.done()
    row = pack({"tokens": np.ones((3, 2), np.float32)})
    pending.finish_rows([RowItem(item.id, 1, row.tobytes())], DIMENSIONS)
    assert np.array_equal((await future).vector, row)


async def test_the_next_worker_gets_the_outputs_of_a_text() -> None:
    pending = PendingTexts(lambda _id: None)
    pending.add(["text"], BULK, "row", outputs=("dense", "sparse"))
    assert [item.outputs for item in pending.items()] == [("dense", "sparse")]


async def test_queries_are_counted_until_their_outcome_or_their_end() -> None:
    pending = PendingTexts(lambda _id: None)
    items, futures = pending.add(["one", "two", "three"], INTERACTIVE, "row")
    _, (bulk,) = pending.add(["bulk"], BULK, "row")
    assert pending.queries == 3
    pending.finish_rows([RowItem(items[0].id, 1, np.ones(2, dtype=np.float32).tobytes())], 2)
    futures[1].cancel()
    await asyncio.sleep(0)
    assert pending.queries == 1
    pending.fail_all(lambda: EngineError("stopped"))
    assert pending.queries == 0 == len(pending)
    assert futures[2].exception() and bulk.exception()
