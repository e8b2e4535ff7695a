"""Shutting down: requests in flight get the grace period once."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import ClientSession, ServerDisconnectedError

from edgeembed.config.settings import Settings
from edgeembed.server.lifecycle import listening
from tests.fakes import FakeEngine, fake_service
from tests.ports import free_port
from tests.server.dialect_requests import NO_ENDING, resolved

GRACE = 1.0


@pytest.fixture
def settings() -> Settings:
    return Settings(port=free_port(), grace_period=GRACE)


async def stop_with(engine: FakeEngine, settings: Settings, *, resume_after: float | None) -> tuple[bool, object]:
    """Stop while a text is computed; return whether that took two grace periods, and the client's response or error."""
    loop = asyncio.get_running_loop()
    twice = asyncio.Event()
    async with ClientSession() as session:
        async with listening(fake_service(engine), resolved(settings), (), lambda _used: None, NO_ENDING) as url:
            async with asyncio.timeout(20):
                while (await session.get(f"{url}/readyz")).status != 200:
                    pass
            engine.paused = True
            asked = asyncio.create_task(session.post(f"{url}/v1/embeddings", json={"input": "a"}))
            await engine.until(lambda: engine.waiting == ["a"])
            if resume_after is not None:
                engine.paused = False
                loop.call_later(resume_after, engine.resume)
            # On the clock of the same loop, so that a slow machine delays both timers alike.
            timer = loop.call_later(2 * GRACE - 0.1, twice.set)
        timer.cancel()
        (got,) = await asyncio.gather(asked, return_exceptions=True)
        return twice.is_set(), got


async def test_requests_still_running_after_the_grace_period_are_aborted(settings: Settings) -> None:
    engine = FakeEngine()
    twice, got = await stop_with(engine, settings, resume_after=None)
    assert not twice, "it took two grace periods"
    assert isinstance(got, (ServerDisconnectedError, ConnectionResetError)), got
    assert engine.cancelled == ["a"]


async def test_requests_done_within_the_grace_period_are_answered(settings: Settings) -> None:
    twice, got = await stop_with(FakeEngine(), settings, resume_after=GRACE / 4)
    assert not twice
    assert getattr(got, "status", None) == 200
