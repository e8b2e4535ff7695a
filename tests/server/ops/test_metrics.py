"""GET /metrics, as Prometheus reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from aiohttp.test_utils import TestClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from edgeembed.cache import VectorCache
from edgeembed.errors import BadVectorError
from edgeembed.server.app import make_app
from edgeembed.server.app_keys import SERVICE
from tests.fakes import FakeEngine, fake_row, fake_service
from tests.server.helpers import loaded

MODEL = "fake-model:F32"


class Samples:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self.all: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in parse(text):
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in self.all, f"{key} appears twice"
                self.all[key] = sample.value

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.all.get((f"edgeembed_{name}", frozenset(labels.items())))


async def scrape(client: TestClient) -> Samples:
    response = await client.get("/metrics")
    assert response.status == 200 and response.headers["Content-Type"].startswith("text/plain; version=")
    return Samples(await response.text())


async def test_requests_are_counted_by_route_and_status_and_never_by_path(client: TestClient) -> None:
    await loaded(client)
    before = await scrape(client)
    await client.post("/v1/embeddings", json={"input": ["a text", "another"]})
    await client.post("/v1/embeddings", json={"input": []})
    for secret in ("secret-one", "secret-two"):
        await client.get(f"/v1/models/{secret}")
        await client.get(f"/{secret}")
    now = await scrape(client)
    assert before("http_requests_total", route="/v1/embeddings", status="200") is None
    assert now("http_requests_total", route="/v1/embeddings", status="200") == 1
    assert now("http_requests_total", route="/v1/embeddings", status="400") == 1
    assert now("http_requests_total", route="/v1/models/{name}", status="404") == 2
    assert now("http_requests_total", route="none", status="404") == 2
    assert not any("secret" in str(key) for key in now.all)
    assert now("http_request_duration_seconds_count", route="/v1/embeddings") == 2
    assert now("http_request_duration_seconds_bucket", route="/v1/embeddings", le="+Inf") == 2
    assert now("http_requests_in_flight") == 1, "the scrape itself"


async def test_a_client_that_disconnects_is_counted_and_no_longer_in_flight(client: TestClient, engine: FakeEngine) -> None:
    await loaded(client)
    engine.paused = True
    request = asyncio.create_task(client.post("/v1/embeddings", json={"input": "gone"}))
    await engine.until(lambda: engine.waiting == ["gone"])
    assert (await scrape(client))("http_requests_in_flight") == 2
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await engine.until(lambda: engine.cancelled == ["gone"])
    async with asyncio.timeout(20):
        while (await scrape(client))("http_requests_total", route="/v1/embeddings", status="499") != 1:
            pass  # the count follows the cancellation, within a few turns of the loop
    assert (await scrape(client))("http_requests_in_flight") == 1


async def test_models_cache_and_vectors_have_metrics(client: TestClient, engine: FakeEngine) -> None:
    await loaded(client)
    texts = ["one", "two", "three"]
    for _ in range(2):
        await client.post("/v1/embeddings", json={"input": texts})
    await client.post("/v1/embeddings", json={"input": "a query", "input_type": "query"})
    engine.failing = lambda text: BadVectorError("NaN") if text == "bad" else None
    await client.post("/v1/embeddings", json={"input": "bad"})
    now = await scrape(client)
    assert now("model_requests_total", model=MODEL) == 3
    assert now("model_texts_total", model=MODEL) == 7
    assert now("model_loads_total", model=MODEL) == 1
    assert now("model_state", model=MODEL, state="ready") == 1
    assert now("cache_hits_total", model=MODEL, tier="memory") == 3
    assert now("cache_misses_total", model=MODEL) == 5
    assert now("batch_texts_sum", model=MODEL) == len(engine.computed)
    assert now("execution_mode", model=MODEL, mode="fake") == 1
    assert now("queue_texts", model=MODEL) == 0
    assert now("memory_budget_bytes") == 1
    norms = [float(np.linalg.norm(fake_row(text))) for text in texts]
    assert now("vector_norm_count", model=MODEL, input_type="plain") == 3
    assert now("vector_norm_sum", model=MODEL, input_type="plain") == pytest.approx(sum(norms), rel=1e-5)
    assert now("vector_norm_count", model=MODEL, input_type="query") == 1
    assert now("vector_bad_rows_total", model=MODEL, input_type="plain") == 1
    assert now("vector_alarm", model=MODEL, input_type="plain") == 0


async def test_outputs_have_metrics(client: TestClient) -> None:
    await loaded(client)
    for _ in range(4):  # the last ones come from stored responses
        await client.post("/v1/embeddings", json={"input": ["one", "two"]})
    await client.post("/pooling", json={"input": "one"})
    now = await scrape(client)
    assert now("model_texts_total", model=MODEL) == 9
    assert now("model_outputs_total", model=MODEL, output="dense") == 8
    assert now("model_outputs_total", model=MODEL, output="tokens") == 1


async def test_waiting_texts_and_tokens_have_metrics(client: TestClient, engine: FakeEngine) -> None:
    await loaded(client)
    engine.paused = True
    request = asyncio.create_task(client.post("/v1/embeddings", json={"input": "word " * 10}))
    await engine.until(lambda: len(engine.waiting) == 1)
    now = await scrape(client)
    assert now("queue_texts", model=MODEL) == 1
    tokens = now("queue_tokens", model=MODEL)
    assert tokens is not None and tokens > 5
    engine.paused = False
    engine.resume()
    await request
    assert (await scrape(client))("queue_tokens", model=MODEL) == 0


async def test_a_model_that_drains_while_it_is_loaded_again_is_one_series(client: TestClient, engine: FakeEngine) -> None:
    """Two samples with the same labels would make the whole response invalid."""
    await loaded(client)
    pool = client.app[SERVICE].pool
    model = client.app[SERVICE].registry.models[0]
    engine.paused = True
    request = asyncio.create_task(client.post("/v1/embeddings", json={"input": "slow"}))
    await engine.until(lambda: engine.waiting == ["slow"])
    unloading = asyncio.create_task(pool.unload(model))
    await asyncio.sleep(0)
    loading = asyncio.create_task(pool.load(model))
    await asyncio.sleep(0)
    old, new = pool.slots
    old.memory_bytes, new.memory_bytes = 5, 7
    now = await scrape(client)
    assert now("model_state", model=MODEL, state="unloading") == 1
    assert now("model_state", model=MODEL, state="loading") == 1
    assert now("model_memory_bytes", model=MODEL) == 12
    engine.paused = False
    engine.resume()
    await asyncio.gather(request, unloading, loading)
    assert (await scrape(client))("model_unloads_total", model=MODEL) == 1


async def test_openmetrics_is_available(client: TestClient) -> None:
    await loaded(client)
    await client.post("/v1/embeddings", json={"input": "x"})
    response = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    text = await response.text()
    assert text.endswith("# EOF\n")
    families = {family.name: family for family in parse_openmetrics(text)}
    assert families["edgeembed_http_requests"].type == "counter"
    assert families["edgeembed_batch_tokens"].type == "summary"


async def test_two_applications_have_separate_counts(aiohttp_client: Callable[..., Awaitable[TestClient]]) -> None:
    one, other = [await aiohttp_client(make_app(fake_service(FakeEngine(), None))) for _ in range(2)]
    await loaded(one)
    await loaded(other)
    await one.post("/v1/embeddings", json={"input": "x"})
    assert (await scrape(one))("model_requests_total", model=MODEL) == 1
    assert (await scrape(other))("model_requests_total", model=MODEL) is None


async def test_metrics_without_a_disk_cache(aiohttp_client: Callable[..., Awaitable[TestClient]]) -> None:
    client = await aiohttp_client(make_app(fake_service(FakeEngine(), VectorCache(None, memory_mib=1, disk_mib=0))))
    await loaded(client)
    assert (await scrape(client))("cache_disk_up") == 0
