"""Shared by the server's tests."""

from __future__ import annotations

import contextlib

from aiohttp.test_utils import TestClient

from edgeembed.errors import EngineError
from edgeembed.hub.catalogue import Prompts
from edgeembed.server.app_keys import SERVICE

PROMPTS = Prompts(query="Instruct: {instruction}\nQuery:{text}", document="{text}", instruction="find it")


async def loaded(client: TestClient) -> None:
    """Wait until the default model is loaded."""
    assert client.app is not None
    service = client.app[SERVICE]
    assert service.registry.default is not None
    with contextlib.suppress(EngineError):  # a model that failed is no longer loading
        await service.pool.load(service.registry.default)
