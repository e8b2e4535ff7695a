"""GET /livez, /readyz, /health and /v1/status."""

from __future__ import annotations

import asyncio

import numpy as np
from aiohttp.test_utils import TestClient

from edgeembed.engine.interface import Reference
from tests.fakes import FakeEngine, fake_row
from tests.server.helpers import loaded


async def test_health_is_ok_when_the_model_embeds(client: TestClient) -> None:
    await loaded(client)
    response = await client.get("/health")
    assert response.status == 200
    answer = await response.json()
    assert answer["status"] == "ok"
    assert answer["mode"] == "fake"


async def test_health_is_503_with_the_reason_otherwise(client: TestClient, engine: FakeEngine) -> None:
    await loaded(client)
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


async def test_a_client_that_disconnects_frees_its_place_in_the_queue(client: TestClient, engine: FakeEngine) -> None:
    engine.paused = True
    request = asyncio.create_task(client.post("/v1/embeddings", json={"input": "gone"}))
    await engine.until(lambda: "gone" in engine.waiting)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await engine.until(lambda: engine.cancelled == ["gone"])


async def test_livez_checks_the_process_and_readyz_the_model(client: TestClient, engine: FakeEngine) -> None:
    await loaded(client)
    assert (await client.get("/readyz")).status == 200
    engine.state, engine.reason = "restarting", "ended by SIGSEGV"
    assert (await client.get("/livez")).status == 200
    ready = await client.get("/readyz")
    assert (ready.status, (await ready.json())["reason"]) == (503, "ended by SIGSEGV")


async def test_unusual_vectors_are_reported_and_a_changed_model_is_not_ready(client: TestClient, engine: FakeEngine) -> None:
    await loaded(client)
    factor = 1.0
    probe = fake_row("hello")
    engine.reference = Reference(text="hello", row=probe.tobytes(), least=0.9, given=True)
    engine.row_of = lambda text: probe if text == "hello" else (factor * fake_row(text)).astype(np.float32)

    async def embed(first: int, count: int) -> None:
        body = {"input": [f"text {number}" for number in range(first, first + count)]}
        assert (await client.post("/v1/embeddings", json=body)).status == 200

    await embed(0, 1000)
    assert (await (await client.get("/health")).json())["status"] == "ok"
    factor = 50.0
    await embed(1000, 1500)
    degraded = await client.get("/health")
    answer = await degraded.json()
    assert (degraded.status, answer["status"]) == (200, "degraded")
    assert "fake-model:F32: norms are about" in answer["vectors"] and "the texts" in answer["vectors"]
    (watched,) = (await (await client.get("/v1/status")).json())["vectors"]
    assert watched["rows"] == 2500 and "norms" in watched["alarm"]
    probe = -probe
    ill = await client.get("/readyz")
    assert (ill.status, (await ill.json())["status"]) == (503, "unavailable")
    assert "probe text's vector" in (await ill.json())["reason"]
    probe = -probe
    assert (await client.get("/readyz")).status == 200, "it recovers"
