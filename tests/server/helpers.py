"""Shared by the server's tests."""

from __future__ import annotations

import asyncio

from aiohttp.test_utils import TestClient

from edgeembed.hub.catalogue import Prompts

PROMPTS = Prompts(query="Instruct: {instruction}\nQuery:{text}", document="{text}", instruction="find it")


async def loaded(client: TestClient) -> None:
    """Wait until the default model is loaded."""
    async with asyncio.timeout(10):
        while (await (await client.get("/health")).json())["status"] == "starting":
            await asyncio.sleep(0.01)
