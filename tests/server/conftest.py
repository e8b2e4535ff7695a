"""A server around the fake engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from aiohttp.test_utils import TestClient

from edgeembed.cache import VectorCache
from edgeembed.hub.catalogue import Prompts
from edgeembed.server.app import make_app
from edgeembed.service import EmbeddingService, ServedModel
from tests.fakes import FakeEngine

PROMPTS = Prompts(query="Instruct: {instruction}\nQuery:{text}", document="{text}", instruction="find it")


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def client(engine: FakeEngine, aiohttp_client: Callable[..., Awaitable[TestClient]]) -> TestClient:
    model = ServedModel("fake-model", "0" * 64, aliases=("alias",), prompts=PROMPTS, created=1_700_000_000)
    service = EmbeddingService(model, engine, VectorCache(None, memory_mib=8, disk_mib=0), timeout=5)
    return await aiohttp_client(make_app(service, max_body_bytes=100_000, max_inputs=2048))
