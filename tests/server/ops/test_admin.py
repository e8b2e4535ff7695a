"""Administration: pause, resume, shutdown, clearing the cache, and who may use them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from edgeembed.cache import VectorCache
from edgeembed.config.settings import Settings
from edgeembed.server.app_keys import SERVICE
from edgeembed.server.auth import Access, Keys
from edgeembed.server.live_settings import LIVE, LiveSettings
from edgeembed.server.ops import admin
from edgeembed.server.ops.admin import Ending
from tests.server.dialect_requests import Server, get, post, resolved
from tests.server.helpers import loaded

Connect = Callable[..., Awaitable[TestClient]]


class Stop:
    called = 0

    def __call__(self) -> None:
        self.called += 1


@pytest.fixture
def stop() -> Stop:
    return Stop()


@pytest.fixture
def restart() -> Stop:
    return Stop()


@pytest.fixture
def connect(aiohttp_client: Callable[..., Awaitable[TestClient]], stop: Stop, restart: Stop) -> Connect:
    async def connect(server: Server | None = None, **access: Any) -> TestClient:
        server = server or Server(access=Access(**access))
        server.app[LIVE] = LiveSettings(resolved(Settings()))
        admin.add_to(server.app, Ending(stop, restart))
        client = await aiohttp_client(server.app)
        await loaded(client)
        return client

    return connect


def server_cache(client: TestClient) -> VectorCache:
    cache = client.app[SERVICE].cache
    assert cache is not None
    return cache


async def test_a_paused_daemon_answers_from_the_cache_only(connect: Connect) -> None:
    server = Server()
    client = await connect(server)
    assert (await post(client, "/v1/embeddings", input="cached"))[0] == 200
    assert await post(client, "/v1/admin/pause") == (200, {"paused": True, "stopping": False})
    computed = len(server.embedder.computed)
    assert (await post(client, "/v1/embeddings", input="cached"))[0] == 200
    for path, body in (
        ("/v1/embeddings", {"input": "new"}),
        ("/v1/embeddings", {"input": ["cached", "new"]}),
        ("/v1/rerank", {"query": "q", "documents": ["good"]}),
    ):
        response = await client.post(path, json=body)
        assert response.status == 503 and int(response.headers["Retry-After"]) > 0
        assert "paused" in (await response.json())["error"]["message"]
    assert len(server.embedder.computed) == computed
    assert await get(client, "/v1/admin") == (200, {"paused": True, "stopping": False})
    assert await post(client, "/v1/admin/resume") == (200, {"paused": False, "stopping": False})
    assert (await post(client, "/v1/embeddings", input="new"))[0] == 200


async def test_pausing_does_not_interrupt_running_requests(connect: Connect) -> None:
    server = Server()
    client = await connect(server)
    server.embedder.paused = True
    waiting = asyncio.create_task(post(client, "/v1/embeddings", input="slow"))
    await server.embedder.until(lambda: server.embedder.waiting == ["slow"])
    assert (await post(client, "/v1/admin/pause"))[0] == 200
    server.embedder.paused = False
    server.embedder.resume()
    assert (await waiting)[0] == 200


async def test_shutdown_stops_the_daemon(connect: Connect, stop: Stop) -> None:
    client = await connect()
    assert await post(client, "/v1/admin/shutdown") == (200, {"paused": False, "stopping": True})
    assert stop.called == 1


async def test_a_restart_is_not_a_shutdown(connect: Connect, stop: Stop, restart: Stop) -> None:
    client = await connect()
    assert await post(client, "/v1/admin/restart") == (200, {"paused": False, "stopping": True})
    assert (stop.called, restart.called) == (0, 1)


@pytest.mark.parametrize("broken", ["port = ", "prot = 1", 'host = "0.0.0.0"', 'certfile = "/nowhere"'])
async def test_a_daemon_that_would_not_start_again_goes_on(connect: Connect, restart: Stop, home: Path, broken: str) -> None:
    client = await connect()
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(broken)
    status, refused = await post(client, "/v1/admin/restart")
    assert status == 409 and "would not start again" in refused["error"]["message"] and restart.called == 0
    assert (await get(client, "/health"))[0] == 200


async def test_texts_are_computed_again_after_clearing_the_cache(connect: Connect) -> None:
    server = Server()
    client = await connect(server)

    async def computed(text: str) -> bool:
        before = len(server.embedder.computed)
        assert (await post(client, "/v1/embeddings", input=text))[0] == 200
        return len(server.embedder.computed) > before

    for text in ("one", "two"):
        assert await computed(text)
        for _ in range(3):  # so that the complete response is cached, too
            assert not await computed(text)
    assert await post(client, "/v1/admin/cache/clear") == (200, {"removed": 2})
    assert await computed("one") and await computed("two")
    assert await post(client, "/v1/admin/cache/clear", model="embedder") == (200, {"removed": 2})
    assert await computed("one")
    response = await client.post("/v1/admin/cache/clear")  # no body at all
    assert (response.status, await response.json()) == (200, {"removed": 1})


async def test_clearing_one_model_keeps_the_vectors_of_others(connect: Connect) -> None:
    server = Server()
    client = await connect(server)
    assert (await post(client, "/v1/embeddings", input="one"))[0] == 200
    assert (await post(client, "/v1/rerank", model="ranker", query="q", documents=["good", "bad"]))[0] == 200
    assert await post(client, "/v1/admin/cache/clear", model="Ranker") == (200, {"removed": 2})
    computed = len(server.embedder.computed)
    assert (await post(client, "/v1/embeddings", input="one"))[0] == 200
    assert len(server.embedder.computed) == computed
    status, refused = await post(client, "/v1/admin/cache/clear", model="ranker")
    assert status == 404 and "no rows of a model 'ranker'" in refused["error"]["message"]


async def test_administration_needs_post(connect: Connect, stop: Stop) -> None:
    client = await connect()
    assert (await get(client, "/v1/admin/shutdown"))[0] == 405
    assert stop.called == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "vscode-webview://tool"},
        {"Origin": "http://127.0.0.1"},
        {"Host": "evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"X-Forwarded-For": "203.0.113.9"},
        {"Forwarded": "for=203.0.113.9"},
        {"X-Real-IP": "203.0.113.9"},
        {"X-Forwarded-Proto": "https"},
        {"X-Forwarded-Host": "embed.example"},
        {"Via": "1.1 proxy"},
    ],
    ids=str,
)
async def test_web_pages_and_proxied_clients_may_not_administer(
    connect: Connect, stop: Stop, headers: dict[str, str]
) -> None:
    client = await connect(origins=("vscode-webview://*", "http://127.0.0.1"))
    assert (await post(client, "/v1/embeddings", input="kept"))[0] == 200
    for what in ("pause", "shutdown", "cache/clear"):
        response = await client.post(f"/v1/admin/{what}", headers=headers)
        assert response.status == 403
    assert server_cache(client).stats.memory_entries == 1
    assert stop.called == 0
    assert (await get(client, "/v1/admin"))[1]["paused"] is False


async def test_with_api_keys_administration_needs_one(connect: Connect, stop: Stop) -> None:
    client = await connect(keys=Keys.read("sesame", None))
    assert (await client.post("/v1/admin/shutdown")).status == 401
    assert stop.called == 0
    allowed = {"Authorization": "Bearer sesame", "X-Forwarded-For": "203.0.113.9"}
    assert (await client.post("/v1/admin/shutdown", headers=allowed)).status == 200
    assert stop.called == 1
