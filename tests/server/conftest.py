"""A server around the fake engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from aiohttp.test_utils import TestClient

from edgeembed.cache import VectorCache
from edgeembed.server.app import make_app
from tests.fakes import FakeEngine, fake_service
from tests.server.helpers import PROMPTS


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def client(engine: FakeEngine, aiohttp_client: Callable[..., Awaitable[TestClient]]) -> TestClient:
    cache = VectorCache(None, memory_mib=8, disk_mib=0)
    service = fake_service(engine, cache, prompts=PROMPTS, aliases={"alias": "fake-model"}, timeout=5)
    return await aiohttp_client(make_app(service, max_body_bytes=100_000, max_request_texts=2048))
