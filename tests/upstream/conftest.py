"""An engine whose upstream is a stub server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from edgeembed.engine.interface import Engine
from edgeembed.upstream.client import UpstreamOptions
from edgeembed.upstream.engine import RemoteEngine
from edgeembed.upstream.identity import IdentityStore
from edgeembed.upstream.remote import Remote
from tests.fake_upstreams import FakeUpstream, Start


@pytest.fixture
async def server() -> AsyncIterator[FakeUpstream]:
    fake = FakeUpstream()
    await fake.start()
    yield fake
    fake.hold.set()
    await fake.stop()


@pytest.fixture
def make_remote(tmp_path: Path) -> Callable[..., Remote]:
    def make(server: FakeUpstream, **options: Any) -> Remote:
        settings = {"wait": 2.0, "timeout": 5.0, "recheck_every": 0, **options}
        return Remote(
            UpstreamOptions(url=server.url, **settings), server.model, IdentityStore(tmp_path / "upstream-identities.json")
        )

    return make


@pytest.fixture
async def start(make_remote: Callable[..., Remote]) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def started(
            server: FakeUpstream, fallback: Callable[[], Engine] | None = None, **options: Any
        ) -> RemoteEngine:
            remote = make_remote(server, **options)
            await remote.identify(5.0, asyncio.Event())
            engine = RemoteEngine(remote, fallback)
            stack.push_async_callback(engine.close)
            await engine.start()
            server.asked.clear()
            server.bodies.clear()
            return engine

        yield started
