"""The end of the server: whoever is served gets the grace period, once."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import ClientSession, ServerDisconnectedError

from edgeembed.config.settings import Settings
from edgeembed.server.lifecycle import listening
from tests.fakes import FakeEngine, fake_service

GRACE = 1.0


@pytest.fixture
def settings() -> Settings:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    return Settings(port=port, grace_period=GRACE)


async def stop_with(engine: FakeEngine, settings: Settings, *, resume_after: float | None) -> tuple[bool, object]:
    """Stop while a text is being computed; gives whether that took a second grace period, and what the client got."""
    loop = asyncio.get_running_loop()
    twice = asyncio.Event()
    async with ClientSession() as session:
        async with listening(fake_service(engine), settings, (), lambda _used: None, lambda: None) as url:
            async with asyncio.timeout(20):
                while (await session.get(f"{url}/readyz")).status != 200:
                    await asyncio.sleep(0.01)
            engine.paused = True
            asked = asyncio.create_task(session.post(f"{url}/v1/embeddings", json={"input": "a"}))
            async with asyncio.timeout(20):
                while not engine.status.texts_waiting:
                    await asyncio.sleep(0.01)
            if resume_after is not None:
                engine.paused = False
                loop.call_later(resume_after, engine.resume)
            # The same loop's clock for both: a machine that stalls holds up the one as it does the other.
            timer = loop.call_later(2 * GRACE - 0.1, twice.set)
        timer.cancel()
        (got,) = await asyncio.gather(asked, return_exceptions=True)
        return twice.is_set(), got


async def test_what_is_not_done_when_the_grace_period_ends_is_given_up_at_once(settings: Settings) -> None:
    engine = FakeEngine()
    twice, got = await stop_with(engine, settings, resume_after=None)
    assert not twice, "a second grace period was granted"
    assert isinstance(got, (ServerDisconnectedError, ConnectionResetError)), got
    assert engine.cancelled == ["a"]


async def test_what_is_done_in_time_is_answered(settings: Settings) -> None:
    twice, got = await stop_with(FakeEngine(), settings, resume_after=GRACE / 4)
    assert not twice
    assert getattr(got, "status", None) == 200
