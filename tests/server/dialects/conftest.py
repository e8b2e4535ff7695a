"""Fixtures for the tests of the dialects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from aiohttp.test_utils import TestClient

from tests.server.dialect_requests import Server


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def client(server: Server, aiohttp_client: Callable[..., Awaitable[TestClient]]) -> TestClient:
    return await aiohttp_client(server.app)
