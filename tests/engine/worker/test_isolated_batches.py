"""Isolated batches: how texts are batched, and the bits of their rows, depend only on these texts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from edgeembed.engine.interface import BULK, INTERACTIVE, Prompted, Text
from edgeembed.engine.ipc.messages import IsolatedBatch
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.supervisor.fallback_policy import FallbackPolicy
from edgeembed.engine.supervisor.worker_engine import WorkerEngine
from edgeembed.engine.worker.batching import WIDE, BatchQueue
from edgeembed.engine.worker.isolated_batches import IsolatedBatches, pack
from edgeembed.engine.worker.packing import QueuedText
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.inference.postprocess import unit_rows
from tests.engine.tiny_qwen3 import make_tiny_qwen3

BUDGET = 100


def queued(id_: int, count: int, priority: int = BULK) -> QueuedText[None]:
    return QueuedText(id_, None, count, priority)  # type: ignore[arg-type]


def test_batches_are_full_have_each_text_once_and_begin_with_the_longest() -> None:
    rng = random.Random(1)
    texts = [queued(id_, rng.randint(1, 60)) for id_ in range(300)]
    batches = pack(texts, BUDGET, 64)
    assert sorted(text.id for batch in batches for text in batch) == list(range(300))
    totals = [sum(text.count for text in batch) for batch in batches]
    assert max(totals) <= BUDGET
    assert min(totals[:-1]) >= BUDGET - 2, "a batch has room although short texts were left"
    assert all(batch == sorted(batch, key=lambda text: (-text.count, text.id)) for batch in batches)


def test_a_text_over_the_budget_is_alone_and_a_batch_has_a_limit_of_texts() -> None:
    assert [[text.id for text in batch] for batch in pack([queued(0, 1), queued(1, 500), queued(2, 90)], BUDGET, 64)] == [
        [1],
        [2, 0],
    ]
    assert [len(batch) for batch in pack([queued(id_, 1) for id_ in range(20)], BUDGET, 8)] == [8, 8, 4]


def test_a_batch_is_complete_with_its_last_text_in_any_order() -> None:
    isolated: IsolatedBatches[QueuedText[None]] = IsolatedBatches()
    one, other = IsolatedBatch(7, 3), IsolatedBatch(8, 2)
    assert isolated.add(one, queued(12, 1)) is None
    assert isolated.add(other, None) is None
    assert isolated.add(one, None) is None, "a refused text counts, too"
    whole = isolated.add(one, queued(11, 1))
    assert whole is not None
    assert [text.id for text in whole] == [11, 12]
    assert isolated.add(other, None) == []


def test_an_isolated_batch_is_taken_whole_and_with_no_other_text() -> None:
    queue: BatchQueue[None] = BatchQueue(BUDGET, 64, bulk_lanes=2, bulk_tokens=BUDGET)
    queue.add([queued(1, 10), queued(2, 10)])
    queue.add_isolated([queued(11, 30), queued(12, 30), queued(13, 35), queued(14, 5)])
    queue.add([queued(3, 10), queued(4, 10, INTERACTIVE)])
    taken = [[text.id for text in queue.take(lane)] for lane in (WIDE, 1, 2)]
    assert [4] in taken
    assert [13, 11, 12, 14] in taken
    rest = [text for batch in taken for text in batch if text in (1, 2, 3)]
    assert sorted(rest) == [1, 2, 3], "other texts share a batch past the isolated one"


def test_cancelled_texts_leave_an_isolated_batch() -> None:
    queue: BatchQueue[None] = BatchQueue(BUDGET, 64)
    queue.add_isolated([queued(id_, 10) for id_ in range(1, 5)])
    queue.cancel([2, 3])
    assert [text.id for text in queue.take()] == [1, 4]
    assert len(queue) == 0


def options_of(model: Path, **more: Any) -> WorkerOptions:
    return WorkerOptions(
        path=str(model), threads=2, context_tokens=512, batch_tokens=64, mode="cpu", extra_buffers=False, **more
    )


@pytest.mark.model
def test_an_isolated_text_keeps_its_prefix_at_once(tmp_path: Path) -> None:
    """How a text is computed must not depend on whether the context has seen its prefix before."""
    model = LlamaModel(options_of(make_tiny_qwen3(tmp_path / "tiny.gguf")))
    reading = model.read(Prompted("Instruct: find what answers the question\nQuery:", "x"))
    fresh, isolated = model.new_bulk_context(), model.new_bulk_context()
    try:
        fresh.compute([reading])
        isolated.compute([reading], isolated=True)
        assert (fresh.kept_prefixes, isolated.kept_prefixes) == (0, 1)
    finally:
        fresh.close()
        isolated.close()
        model.close()


@pytest.mark.model
def test_an_isolated_batch_is_never_padded(minilm: Callable[[str], Path]) -> None:
    rows: dict[bool, set[bytes]] = {False: set(), True: set()}
    for pad_from_tokens in (0, 8):
        model = LlamaModel(options_of(minilm("Q8_0"), pad_from_tokens=pad_from_tokens))
        reading = model.read("a text of some forty words " * 8)
        assert 40 < len(reading.tokens) < 64
        for isolated, found in rows.items():
            found.add(model.wide.compute([reading], isolated=isolated).tobytes())
        model.close()
    assert (len(rows[False]), len(rows[True])) == (2, 1)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[WorkerEngine]:
    model = make_tiny_qwen3(tmp_path / "tiny.gguf")

    engine = WorkerEngine(lambda _mode: options_of(model), FallbackPolicy())
    await engine.start()
    yield engine
    await engine.close()


@pytest.mark.model
@pytest.mark.parametrize("prefix", ["", "Instruct: find what answers the question\nQuery:"])
async def test_isolated_texts_have_the_same_bits_whatever_else_is_computed(engine: WorkerEngine, prefix: str) -> None:
    """Whatever waits with them, whichever lane takes them, whatever was computed before, with kept prefixes or without."""
    rng = random.Random(3)
    texts: list[Text] = [Prompted(prefix, "x" * rng.randint(1, 40)) for _ in range(40)]

    async def rows(*, isolated: bool, among: int) -> bytes:
        noise = [asyncio.gather(*engine.submit(["y" * rng.randint(1, 60)], BULK)) for _ in range(among)]
        futures = engine.submit(texts, BULK, isolated=isolated)
        noise += [asyncio.gather(*engine.submit(["z" * rng.randint(1, 60)], INTERACTIVE)) for _ in range(among)]
        found = np.stack([row.vector for row in await asyncio.gather(*futures)])
        await asyncio.gather(*noise)
        return found.tobytes()

    found = {await rows(isolated=True, among=among) for among in (0, 30, 7, 60, 0, 1)}
    assert len(found) == 1
    assert len({await rows(isolated=False, among=among) for among in (0, 30, 7, 60)}) > 1, (
        "otherwise this test shows nothing"
    )


@pytest.mark.model
async def test_a_worker_that_is_killed_in_the_middle_loses_no_isolated_text(engine: WorkerEngine) -> None:
    # Long enough that it is the middle also where this process gets little time.
    texts: list[Text] = [f"{number} " + "x" * (number % 150) for number in range(1500)]
    wanted = unit_rows([row.vector for row in await asyncio.gather(*engine.submit(texts, BULK, isolated=True))])
    before = engine.status.texts_computed
    pid = engine.status.worker_pid
    assert pid is not None
    futures = engine.submit(texts, BULK, isolated=True)
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    psutil.Process(pid).kill()
    found = unit_rows([row.vector for row in await asyncio.gather(*futures)])
    assert engine.status.restarts == 1
    assert engine.status.texts_computed < before + 2 * len(texts), "the whole batch was computed before the kill, or again"
    assert (found * wanted).sum(axis=1).min() > 0.9999
