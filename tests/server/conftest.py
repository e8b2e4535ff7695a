"""A server around the fake engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp.test_utils import TestClient

from edgeembed.cache import VectorCache
from edgeembed.hub.catalogue import Prompts
from edgeembed.server.app import make_app
from tests.fakes import FakeEngine, fake_service

PROMPTS = Prompts(query="Instruct: {instruction}\nQuery:{text}", document="{text}", instruction="find it")


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def client(engine: FakeEngine, aiohttp_client: Callable[..., Awaitable[TestClient]]) -> TestClient:
    cache = VectorCache(None, memory_mib=8, disk_mib=0)
    service = fake_service(engine, cache, prompts=PROMPTS, aliases={"alias": "fake-model"}, timeout=5)
    return await aiohttp_client(make_app(service, max_body_bytes=100_000, max_inputs=2048))


async def loaded(client: TestClient) -> None:
    """Wait until the default model is loaded."""
    async with asyncio.timeout(10):
        while (await (await client.get("/health")).json())["status"] == "starting":
            await asyncio.sleep(0.01)
