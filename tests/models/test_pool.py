"""Loaded models: first use, keep-alive, pinning, the memory budget, failures. On fake engines of given sizes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from edgeembed.engine.interface import INTERACTIVE, Engine
from edgeembed.errors import EngineUnavailableError, ModelLoadingError
from edgeembed.models import pool as pool_module
from edgeembed.models.pool import ModelPool, PoolRules
from edgeembed.models.served_model import ServedModel
from tests.fakes import FakeEngine, fake_model
from tests.waiting import settle, until_async

GB = 10**9


class Garage:
    """Makes fake engines and remembers them; each takes `sizes[name]` bytes."""

    def __init__(self, **sizes: float) -> None:
        self.sizes = {name: int(size * GB) for name, size in sizes.items()}
        self.made: list[tuple[str, FakeEngine]] = []
        self.prepare: Callable[[str, FakeEngine], None] = lambda _name, _engine: None
        self.most = 0

    def make(self, model: ServedModel) -> Engine:
        engine = FakeEngine()
        self.prepare(model.name, engine)
        self.made.append((model.name, engine))
        self.most = max(self.most, sum(self.sizes[name] for name, made in self.made if not made.closed))
        return engine

    def loaded(self) -> list[str]:
        return [name for name, engine in self.made if not engine.closed]

    def pool(
        self,
        budget: float = 100,
        keep_alive: float | dict[str, float | None] | None = None,
        pinned: tuple[str, ...] = (),
        load_wait: float = 20,
        measure: Callable[[Engine], int | None] = lambda _engine: None,
    ) -> ModelPool:
        rules = PoolRules(
            budget_bytes=int(budget * GB),
            load_wait=load_wait,
            keep_alive=lambda model: keep_alive.get(model.name) if isinstance(keep_alive, dict) else keep_alive,
            pinned=lambda model: model.name in pinned,
            estimate=lambda model: self.sizes[model.name],
            measure=measure,
        )
        return ModelPool(self.make, rules)


async def use(pool: ModelPool, name: str) -> None:
    async with pool.lease(fake_model(name)) as lease:
        await asyncio.gather(*lease.submit([f"text for {name}"], INTERACTIVE))


async def test_a_model_is_loaded_on_first_use_and_once_for_all_who_wait() -> None:
    garage = Garage(a=1)
    pool = garage.pool()
    assert garage.made == []
    await asyncio.gather(*(use(pool, "a") for _ in range(20)))
    assert garage.loaded() == ["a"]
    await pool.close()
    assert garage.loaded() == []


async def test_an_idle_model_leaves_after_its_keep_alive_and_a_busy_one_stays() -> None:
    garage = Garage(a=1, b=1)
    pool = garage.pool(keep_alive=0.05)
    async with pool.lease(fake_model("b")):
        for _ in range(2):  # b could have left when a does for the second time
            await use(pool, "a")
            await until_async(lambda: "a" not in garage.loaded())
        assert garage.loaded() == ["b"], "a lease that is held keeps its model"
    await until_async(lambda: garage.loaded() == [])
    assert pool.slots == []
    await use(pool, "a")
    assert garage.loaded() == ["a"], "and it comes back when it is asked for"
    await pool.close()


async def test_keep_alive_0_unloads_at_once_and_none_never() -> None:
    garage = Garage(a=1)
    pool = garage.pool(keep_alive=0)
    await use(pool, "a")
    await until_async(lambda: garage.loaded() == [])
    garage = Garage(a=1, b=1)
    pool = garage.pool(keep_alive={"a": None, "b": 0.05})
    await use(pool, "a")
    await use(pool, "b")
    await until_async(lambda: "b" not in garage.loaded())
    assert garage.loaded() == ["a"]
    await pool.close()


async def test_a_preloaded_model_that_nobody_uses_leaves_too_unless_pinned() -> None:
    garage = Garage(a=1, b=1)
    pool = garage.pool(keep_alive=0.05, pinned=("b",))
    await pool.load(fake_model("a"))
    await pool.load(fake_model("b"))
    await until_async(lambda: garage.loaded() == ["b"])
    await use(pool, "a")
    await until_async(lambda: "a" not in garage.loaded())
    assert garage.loaded() == ["b"]
    await pool.close()


async def test_use_begins_the_keep_alive_anew() -> None:
    garage = Garage(a=1)
    pool = garage.pool(keep_alive=0.5)
    for _ in range(8):
        await use(pool, "a")
        await asyncio.sleep(0.1)  # less than keep_alive, and more than that in all
    assert len(garage.made) == 1
    await pool.close()


async def test_the_budget_holds_and_the_least_recently_used_leaves() -> None:
    garage = Garage(a=4, b=4, c=4)
    pool = garage.pool(budget=10)
    await use(pool, "a")
    await use(pool, "b")
    await use(pool, "a")
    await use(pool, "c")
    assert sorted(garage.loaded()) == ["a", "c"], "b was used least recently"
    assert garage.most <= 10 * GB, "b was gone before c came"
    await use(pool, "b")
    assert sorted(garage.loaded()) == ["b", "c"]
    await pool.close()


async def test_only_as_many_leave_as_have_to() -> None:
    garage = Garage(a=3, b=3, c=3, d=3)
    pool = garage.pool(budget=9)
    for name in "abcd":
        await use(pool, name)
    assert sorted(garage.loaded()) == ["b", "c", "d"]
    await pool.close()


async def test_a_pinned_model_never_leaves_and_what_cannot_fit_beside_it_says_so() -> None:
    garage = Garage(pinned=6, small=3, large=5)
    pool = garage.pool(budget=10, pinned=("pinned",))
    await use(pool, "pinned")
    await use(pool, "small")
    with pytest.raises(EngineUnavailableError, match=r"about 5.0 GB.*budget .* is 10.0 GB, of which pinned models take 6.0"):
        await use(pool, "large")
    assert sorted(garage.loaded()) == ["pinned", "small"], "nobody was sent away in vain"
    await pool.close()


async def test_a_model_larger_than_the_budget_says_so() -> None:
    garage = Garage(huge=11)
    with pytest.raises(EngineUnavailableError, match="memory_budget_mib"):
        await use(garage.pool(budget=10), "huge")
    assert garage.made == []


async def test_a_busy_model_finishes_before_it_makes_room_and_loses_no_request() -> None:
    garage = Garage(a=6, b=6)
    pool = garage.pool(budget=10)
    garage.prepare = lambda name, engine: setattr(engine, "paused", name == "a")
    busy = [asyncio.create_task(use(pool, "a")) for _ in range(3)]
    await until_async(lambda: bool(garage.made) and len(garage.made[0][1].priorities) == 3)
    other = asyncio.create_task(use(pool, "b"))
    await until_async(lambda: bool(pool.unloads))
    assert garage.loaded() == ["a"] and not other.done()
    again = asyncio.create_task(use(pool, "a"))  # comes while a drains: waits until it is loaded again
    await settle()
    garage.prepare = lambda _name, _engine: None
    garage.made[0][1].resume()
    await asyncio.gather(*busy, other, again)
    assert [name for name, _ in garage.made] == ["a", "b", "a"]
    assert garage.most <= 10 * GB
    await pool.close()


async def test_texts_keep_their_model_although_their_request_went_away() -> None:
    garage = Garage(a=1)
    pool = garage.pool(keep_alive=0)
    garage.prepare = lambda _name, engine: setattr(engine, "paused", True)
    async with pool.lease(fake_model("a")) as lease:
        (future,) = lease.submit(["somebody else waits for this"], INTERACTIVE)
    await settle()
    assert garage.loaded() == ["a"]
    garage.made[0][1].resume()
    assert (await future).tokens == 7
    await until_async(lambda: garage.loaded() == [])


async def test_requests_for_a_loading_model_wait_and_then_get_a_retry_after() -> None:
    garage = Garage(slow=1, quick=1)
    pool = garage.pool(load_wait=0.1)
    gate = asyncio.Event()
    garage.prepare = lambda name, engine: setattr(engine, "loaded", gate) if name == "slow" else None
    with pytest.raises(ModelLoadingError, match="still loading") as caught:
        await use(pool, "slow")
    assert caught.value.status == 503 and caught.value.retry_after
    await use(pool, "quick")  # others are not held up
    waiting = asyncio.create_task(use(pool, "slow"))
    await settle()
    gate.set()
    await waiting
    assert [name for name, _ in garage.made] == ["slow", "quick"], "the load went on although nobody waited"
    await pool.close()


async def test_a_model_that_fails_says_why_leaves_the_others_alone_and_gets_another_chance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    garage = Garage(bad=1, good=1)
    pool = garage.pool()

    def fail(name: str, engine: FakeEngine) -> None:
        if name == "bad":
            engine.state, engine.reason = "failed", "no pooling in it"

    garage.prepare = fail
    await use(pool, "good")
    for _ in range(3):
        with pytest.raises(EngineUnavailableError, match="'bad' cannot be served: no pooling in it") as caught:
            await use(pool, "bad")
        assert caught.value.retry_after
    assert [name for name, _ in garage.made] == ["good", "bad"], "it is not loaded again for each request"
    await use(pool, "good")
    assert {slot.model.name: slot.state for slot in pool.slots} == {"good": "ready", "bad": "failed"}
    garage.prepare = lambda _name, _engine: None
    monkeypatch.setattr(pool_module, "FAILURE_SECONDS", 0.0)
    await use(pool, "bad")
    await pool.close()
    assert garage.loaded() == []


async def test_an_engine_that_died_for_good_is_made_anew_later(monkeypatch: pytest.MonkeyPatch) -> None:
    garage = Garage(a=1)
    pool = garage.pool()
    await use(pool, "a")
    garage.made[0][1].state = "failed"
    garage.made[0][1].reason = "its file was replaced"
    with pytest.raises(EngineUnavailableError, match="its file was replaced"):
        await use(pool, "a")
    monkeypatch.setattr(pool_module, "FAILURE_SECONDS", 0.0)
    await use(pool, "a")
    assert len(garage.made) == 2
    await pool.close()


async def test_a_model_that_turns_out_larger_sends_idle_ones_away() -> None:
    garage = Garage(a=4, b=4)
    pool = garage.pool(budget=10, measure=lambda engine: 7 * GB if engine is garage.made[-1][1] else 4 * GB)
    await use(pool, "a")
    await use(pool, "b")
    await until_async(lambda: garage.loaded() == ["b"])
    assert pool.used_bytes == 7 * GB
    await pool.close()


async def test_closing_in_the_middle_of_a_load_leaves_nothing() -> None:
    garage = Garage(a=1)
    pool = garage.pool()
    garage.prepare = lambda _name, engine: engine.loaded.clear()
    request = asyncio.create_task(use(pool, "a"))
    await until_async(lambda: bool(garage.made))
    await pool.close()
    with pytest.raises(EngineUnavailableError):
        await request
    assert garage.loaded() == []


async def test_a_storm_of_requests_for_more_models_than_fit_is_answered_within_the_budget() -> None:
    garage = Garage(**dict.fromkeys("abcdef", 3))
    pool = garage.pool(budget=7, keep_alive=0.01)
    await asyncio.gather(*(use(pool, "abcdef"[number % 6]) for number in range(120)))
    assert garage.most <= 7 * GB
    await pool.close()
    assert garage.loaded() == []


async def test_a_load_that_the_end_interrupts_is_not_logged_as_an_error(caplog: pytest.LogCaptureFixture) -> None:
    started = asyncio.Event()

    async def start() -> None:
        started.set()
        await asyncio.Event().wait()

    garage = Garage(a=1)
    garage.prepare = lambda _name, engine: setattr(engine, "start", start)
    pool = garage.pool()
    loading = asyncio.create_task(pool.load(fake_model("a")))
    await started.wait()
    await pool.close()
    with pytest.raises(EngineUnavailableError, match="stopping"):
        await loading
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_nobody_waits_for_a_model_whose_failed_engine_cannot_even_be_closed() -> None:
    async def close() -> None:
        raise RuntimeError("it does not end")

    def prepare(_name: str, engine: FakeEngine) -> None:
        engine.state, engine.reason = "failed", "no such file"
        engine.close = close  # type: ignore[method-assign]

    garage = Garage(a=1)
    garage.prepare = prepare
    with pytest.raises(EngineUnavailableError, match="no such file"):
        await asyncio.wait_for(garage.pool().load(fake_model("a")), 20)


async def test_a_model_that_is_the_default_no_longer_leaves_when_idle() -> None:
    rules: dict[str, float | None] = {"before": None, "after": 0.05}
    garage = Garage(before=1, after=1)
    pool = garage.pool(keep_alive=rules)
    await use(pool, "before")
    async with pool.lease(fake_model("after")):
        rules |= {"before": 0.05, "after": None}  # another default
        for name in rules:
            pool.keep_by_rules(fake_model(name))
    await until_async(lambda: garage.loaded() == ["after"])
    await settle()
    assert garage.loaded() == ["after"]
    await pool.close()
