"""The limit on what waits for a model."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from edgeembed.errors import OverloadedError
from edgeembed.inference.admission import Admission
from edgeembed.inference.requests import EmbedRequest
from tests.fakes import FakeEngine, fake_service
from tests.waiting import until_async


def test_an_empty_queue_takes_anything_and_a_full_one_nothing() -> None:
    door = Admission(100)
    with door.admit(10_000, interactive=False):
        with pytest.raises(OverloadedError, match="queue is full") as caught, door.admit(1, interactive=False):
            pass
        assert caught.value.status == 429
        assert caught.value.retry_after is not None and 1 <= caught.value.retry_after <= 60
    with door.admit(1, interactive=False):
        assert door.waiting_tokens == 1


def test_what_somebody_waits_for_is_let_in_a_little_longer() -> None:
    door = Admission(100)
    with door.admit(330, interactive=False):
        with pytest.raises(OverloadedError), door.admit(40, interactive=False):
            pass
        with door.admit(40, interactive=True):
            pass


def test_0_is_no_limit() -> None:
    door = Admission(0)
    with door.admit(10**9, interactive=False), door.admit(10**9, interactive=False):
        pass


def test_the_ratio_and_the_rate_are_learned() -> None:
    door = Admission(1000)
    for _ in range(60):
        door.learn(100, 100, time.monotonic() - 1.0)  # a token for each character, 100 tokens a second
    with door.admit(1000, interactive=False):
        assert door.waiting_tokens == pytest.approx(1000, rel=0.01)
        with pytest.raises(OverloadedError) as caught, door.admit(2000, interactive=False):
            pass
    assert caught.value.retry_after == pytest.approx(20, abs=2)


async def test_a_request_is_taken_whole_or_refused_whole_and_leaves_no_trace() -> None:
    engine = FakeEngine()
    engine.paused = True
    service = fake_service(engine, max_queue_tokens=30)
    first = asyncio.create_task(service.embed(EmbedRequest([f"some words to compute {number}" for number in range(4)])))
    await until_async(lambda: len(engine.priorities) == 4)
    with pytest.raises(OverloadedError):
        await service.embed(EmbedRequest(["another text that is long enough"] + [f"more {number}" for number in range(20)]))
    assert len(engine.priorities) == 4, "nothing of the refused request reached the engine"
    engine.paused = False
    engine.resume()
    await first
    await service.embed(EmbedRequest(["now there is room"]))


def test_an_empty_queue_is_empty_whatever_went_through_it() -> None:
    """A rest of a thousandth of a token would make it refuse what only an empty queue takes."""
    door = Admission(1000)
    door.learn(700, 100, time.monotonic())
    with contextlib.ExitStack() as inside:
        for characters in range(1, 200, 7):
            inside.enter_context(door.admit(characters, interactive=False))
    assert door.waiting_tokens == 0
    with door.admit(1_000_000, interactive=False):
        pass
