"""What clients of Ollama get that want more than embeddings, and how they unload a model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from tests.server.dialect_requests import Server, get, post
from tests.server.helpers import loaded


@pytest.fixture
async def client(server: Server, aiohttp_client: Callable[..., Awaitable[TestClient]]) -> TestClient:
    client = await aiohttp_client(server.app)
    await loaded(client)
    return client


async def test_ollama_stop_unloads_a_model(client: TestClient, server: Server) -> None:
    status, answer = await post(client, "/api/generate", model="embedder:latest", keep_alive=0)
    assert (status, answer["model"], answer["done_reason"]) == (200, "embedder:latest", "unload")
    await server.embedder.until(lambda: server.embedder.closed)
    assert (await get(client, "/api/ps"))[1]["models"] == []


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/api/generate", {"model": "embedder", "prompt": "a"}, 400, "'embedder' does not support generate"),
        ("/api/generate", {"model": "embedder"}, 400, "'embedder' does not support generate"),
        ("/api/generate", {"model": "embedder", "prompt": "a", "keep_alive": 0}, 400, "does not support generate"),
        ("/api/generate", {"model": "other"}, 404, "model 'other' not found, try pulling it first"),
        ("/api/generate", {}, 400, "model is required"),
        ("/api/chat", {"model": "embedder", "messages": []}, 404, "computes embeddings"),
        ("/api/create", {"model": "mine", "from": "embedder"}, 404, "edgeembed convert"),
        ("/api/push", {"model": "mine"}, 404, "makes no models"),
        ("/api/blobs/sha256:00", {}, 404, "makes no models"),
    ],
)
async def test_what_is_not_supported_says_so(
    client: TestClient, server: Server, path: str, body: dict[str, Any], status: int, words: str
) -> None:
    got, answer = await post(client, path, **body)
    assert (got, list(answer)) == (status, ["error"])
    assert words in answer["error"]
    assert not server.embedder.closed


async def test_no_blob_is_there(client: TestClient) -> None:
    assert (await client.head("/api/blobs/sha256:00")).status == 404
