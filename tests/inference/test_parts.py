"""Large requests are computed in parts: their size is no limit, and nobody else waits for more than a part."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from edgeembed.cache import VectorCache
from edgeembed.errors import (
    EmptyInputError,
    EngineTimeoutError,
    EngineUnavailableError,
    InputTooLongError,
    OverloadedError,
)
from edgeembed.inference import parts, pipeline
from edgeembed.inference.parts import Part, parts_of
from edgeembed.inference.requests import EmbedRequest, RerankRequest
from edgeembed.inference.service import EmbeddingService
from edgeembed.models.pool import ModelPool, PoolRules
from edgeembed.models.registry import ModelRegistry
from edgeembed.models.served_model import ServedModel
from tests.fakes import CONTEXT_TOKENS, FakeEngine, fake_model, fake_row, fake_service
from tests.waiting import until_async

PART = 10
"""Texts of a part in these tests."""
TEXTS = [f"text {number}" for number in range(3 * PART + 5)]
LONG = "word " * (CONTEXT_TOKENS + 10)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_TEXTS", PART)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def test_parts_keep_the_order_and_their_limits() -> None:
    sizes = [1] * (PART + 1) + [60, 50, 500, 1]
    texts = {b"%d" % number: "x" * size for number, size in enumerate(sizes)}
    found = list(parts_of(texts, lambda: 100))
    assert [key for part in found for key in part.texts] == list(texts)
    assert [list(map(len, part.texts.values())) for part in found] == [[1] * PART, [1, 60], [50], [500], [1]]
    assert [part.characters for part in found] == [PART, 61, 50, 500, 1]
    assert list(parts_of({b"one": "x" * 500}, lambda: 100)) == [Part({b"one": "x" * 500}, 500)]


async def test_only_a_part_is_in_the_engines_queue_and_rows_come_in_order(engine: FakeEngine) -> None:
    engine.paused = True
    service = fake_service(engine, VectorCache(None, memory_mib=8, disk_mib=0))
    running = asyncio.create_task(service.embed(EmbedRequest([*TEXTS, *TEXTS[:5]])))
    waited = []
    while len(engine.computed) < len(TEXTS):
        await engine.until(lambda: engine.waiting)
        waited.append(len(engine.waiting))
        engine.resume()
        await asyncio.sleep(0)
    result = await running
    assert waited == [PART, PART, PART, 5]
    assert np.array_equal([row.vector for row in result.rows], [fake_row(text) for text in [*TEXTS, *TEXTS[:5]]])
    assert (result.hits, service.texts[fake_model().key]) == (0, len(TEXTS) + 5)


async def test_rows_of_finished_parts_are_cached_even_if_a_later_one_fails(engine: FakeEngine) -> None:
    engine.failing = lambda text: EmptyInputError("nothing") if text == TEXTS[-1] else None
    service = fake_service(engine, VectorCache(None, memory_mib=8, disk_mib=0))
    with pytest.raises(EmptyInputError) as caught:
        await service.embed(EmbedRequest(TEXTS))
    assert caught.value.param == f"input[{len(TEXTS) - 1}]"
    assert (await service.embed(EmbedRequest(TEXTS[: 3 * PART]))).hits == 3 * PART


async def test_a_request_is_admitted_by_its_parts_and_others_take_turns(engine: FakeEngine) -> None:
    """The whole book is larger than the queue; nothing of it is refused while others use the queue, too."""
    engine.paused = True
    service = fake_service(engine, max_queue_tokens=100)
    other = asyncio.create_task(service.embed(EmbedRequest(["some other text that waits"])))
    await until_async(lambda: len(engine.waiting) == 1)
    book = asyncio.create_task(service.embed(EmbedRequest([f"{text} of a whole book" for text in TEXTS])))
    await engine.until(lambda: len(engine.waiting) == 1 + PART)
    assert 0 < service.waiting_tokens(fake_model()) < 100
    with pytest.raises(OverloadedError):
        await service.embed(EmbedRequest(["words " * 15] * 3 + [f"{number} " * 15 for number in range(6)]))
    query = asyncio.create_task(service.embed(EmbedRequest(["a query"])))
    await engine.until(lambda: "a query" in engine.waiting)
    engine.resume()
    await asyncio.gather(other, query)
    assert not book.done(), "the query has come before the book's end"
    engine.paused = False
    engine.resume()
    assert len((await book).rows) == len(TEXTS)
    assert service.waiting_tokens(fake_model()) == 0


async def test_a_client_that_hangs_up_ends_the_rest(engine: FakeEngine) -> None:
    engine.paused = True
    service = fake_service(engine)
    running = asyncio.create_task(service.embed(EmbedRequest(TEXTS)))
    await engine.until(lambda: len(engine.waiting) == PART)
    engine.resume()
    await engine.until(lambda: len(engine.waiting) == PART)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    engine.resume()
    await asyncio.sleep(0)
    assert (len(engine.computed), engine.cancelled) == (PART, TEXTS[PART : 2 * PART])
    assert service.waiting_tokens(fake_model()) == 0


async def test_parts_are_as_large_as_the_model_is_fast(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(parts, "PART_TEXTS", 1000)
    monkeypatch.setattr(pipeline, "time", SimpleNamespace(monotonic=lambda: now))
    engine.paused = True
    texts = [f"{number:2} {'x' * 8 * 1024}" for number in range(80)]
    running = asyncio.create_task(fake_service(engine).embed(EmbedRequest(texts)))
    waited = []
    for took in (0.1, 0.1, 9.0, 0.5, 0.5):
        await engine.until(lambda: engine.waiting)
        waited.append(len(engine.waiting))
        now += took
        engine.resume()
        await asyncio.sleep(0)
    assert len((await running).rows) == 80
    assert waited == [7, 15, 31, 15, 12], "64, 128, 256 and again 128 KiB"


async def test_parts_of_a_repeatable_request_are_the_same_however_fast_the_model_is(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What shares a part may share a forward pass, on which the last digits depend."""
    now = 0.0
    monkeypatch.setattr(parts, "PART_TEXTS", 1000)
    monkeypatch.setattr(pipeline, "time", SimpleNamespace(monotonic=lambda: now))
    engine.paused = True
    texts = [f"{number:2} {'x' * 8 * 1024}" for number in range(30)]
    for seconds in ((0.1, 0.1, 0.1, 0.1, 0.1), (9.0, 9.0, 0.1, 0.5, 0.1)):
        running = asyncio.create_task(fake_service(engine).embed(EmbedRequest(texts, repeatable=True)))
        waited = []
        for took in seconds:
            await engine.until(lambda: engine.waiting)
            waited.append(len(engine.waiting))
            now += took
            engine.resume()
            await asyncio.sleep(0)
        await running
        assert waited == [7, 7, 7, 7, 2]


class Clock:
    """The event loop's time, ahead of the real one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        loop = asyncio.get_running_loop()
        real = loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + self.ahead)


async def test_the_time_limit_is_for_each_part(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    engine.paused = True
    service = fake_service(engine, timeout=100.0)
    running = asyncio.create_task(service.embed(EmbedRequest(TEXTS)))
    for _ in range(4):
        await until_async(lambda: engine.waiting)
        clock.ahead += 60.0
        engine.resume()
        await asyncio.sleep(0)
    assert len((await running).rows) == len(TEXTS)
    stuck = asyncio.create_task(service.embed(EmbedRequest(["other", *TEXTS])))
    await until_async(lambda: engine.waiting)
    clock.ahead += 101.0
    with pytest.raises(EngineTimeoutError):
        await stuck


async def test_a_large_rerank_is_computed_in_parts_too() -> None:
    engine = FakeEngine(dimensions=1)
    engine.row_of = lambda text: np.array([len(text)], dtype=np.float32)
    registry = ModelRegistry(None, [fake_model("ranker", "rerank")])
    service = EmbeddingService(registry, ModelPool(lambda _model: engine, PoolRules(budget_bytes=1)), None)
    scores = (await service.rerank(RerankRequest("q", ["x" * number for number in range(1, 2 * PART)]))).scores
    assert scores == sorted(scores)
    with pytest.raises(InputTooLongError):
        await service.rerank(RerankRequest("q", [*TEXTS, LONG]))
    assert len(engine.computed) == 2 * PART - 1


async def test_a_model_stays_loaded_between_parts(engine: FakeEngine) -> None:
    rules = PoolRules(budget_bytes=1, keep_alive=lambda _model: 0.0)
    service = EmbeddingService(ModelRegistry(fake_model()), pool := ModelPool(lambda _m: engine, rules), None)
    await service.embed(EmbedRequest(TEXTS))
    assert pool.loads.total() == 1


async def test_between_parts_another_model_may_take_the_memory() -> None:
    engines: list[FakeEngine] = []

    def make(_model: ServedModel) -> FakeEngine:
        engines.append(FakeEngine())
        engines[-1].paused = len(engines) == 1
        return engines[-1]

    registry = ModelRegistry(fake_model("one"), [fake_model("two")])
    pool = ModelPool(make, PoolRules(budget_bytes=1, estimate=lambda _model: 1))
    service = EmbeddingService(registry, pool, None)
    book = asyncio.create_task(service.embed(EmbedRequest(TEXTS, model="one")))
    await until_async(lambda: engines and len(engines[0].waiting) == PART)
    other = asyncio.create_task(service.embed(EmbedRequest(["a"], model="two")))
    await until_async(lambda: pool.unloads["one:F32"])
    engines[0].resume()
    await other
    assert len((await book).rows) == len(TEXTS)
    assert [len(each.computed) for each in engines] == [PART, 1, len(TEXTS) - PART]


async def test_a_pause_holds_for_the_parts_that_are_left(engine: FakeEngine) -> None:
    engine.paused = True
    service = fake_service(engine)
    book = asyncio.create_task(service.embed(EmbedRequest(TEXTS)))
    await engine.until(lambda: len(engine.waiting) == PART)
    service.pool.paused = True
    engine.resume()
    with pytest.raises(EngineUnavailableError, match="paused"):
        await book
    assert len(engine.computed) == PART
