"""GET /health and GET /v1/status."""

from __future__ import annotations

import asyncio

from aiohttp.test_utils import TestClient

from tests.fakes import FakeEngine


async def test_health_is_ok_when_the_model_embeds(client: TestClient) -> None:
    response = await client.get("/health")
    assert response.status == 200
    answer = await response.json()
    assert answer["status"] == "ok"
    assert answer["rung"] == "fake"


async def test_health_is_503_with_the_reason_otherwise(client: TestClient, engine: FakeEngine) -> None:
    engine.state, engine.reason = "starting", "the model is loading"
    response = await client.get("/health")
    assert (response.status, (await response.json())["status"]) == (503, "starting")
    engine.state, engine.reason = "restarting", "ended by SIGSEGV"
    response = await client.get("/health")
    answer = await response.json()
    assert (response.status, answer["status"], answer["reason"]) == (503, "unavailable", "ended by SIGSEGV")


async def test_status_counts_what_was_computed_and_what_was_cached(client: TestClient) -> None:
    for _ in range(3):
        await client.post("/v1/embeddings", json={"input": "a secret text"})
    raw = await (await client.get("/v1/status")).text()
    assert "secret" not in raw
    answer = await (await client.get("/v1/status")).json()
    assert answer["model"]["name"] == "fake-model"
    assert answer["engine"]["texts_computed"] == 1
    assert answer["cache"]["memory_hits"] == 2


async def test_a_client_that_hangs_up_frees_its_place(client: TestClient, engine: FakeEngine) -> None:
    engine.paused = True
    request = asyncio.create_task(client.post("/v1/embeddings", json={"input": "gone"}))
    while not engine.priorities:
        await asyncio.sleep(0.01)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    async with asyncio.timeout(5):
        while engine.cancelled != ["gone"]:
            await asyncio.sleep(0.01)
