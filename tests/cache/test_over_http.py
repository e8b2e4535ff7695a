"""The cache over HTTP: what a request can say about it, and that a hit equals what was computed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient
from multidict import CIMultiDictProxy

from edgeembed.cache import CachedRow, KeyMaker, VectorCache
from edgeembed.cache.disk import DiskTier
from edgeembed.cache.rows import encode_row
from edgeembed.hub.catalogue import Prompts
from edgeembed.inference.service import EmbeddingService
from edgeembed.models.pool import ModelPool, PoolRules
from edgeembed.models.prompts import PLAIN, Prompt
from edgeembed.models.registry import ModelRegistry
from edgeembed.server import fast_path
from edgeembed.server.api_keys import Keys
from edgeembed.server.app import make_app
from edgeembed.server.auth import Access
from edgeembed.server.ops.metrics import METRICS
from tests.fakes import FakeEngine, fake_model, fake_service

Asked = tuple[int, dict[str, Any], str | None]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


Serve = Callable[..., Awaitable[TestClient]]


@pytest.fixture
def serve(aiohttp_client: Callable[..., Awaitable[TestClient]]) -> Serve:
    """Return a function that serves like the daemon, with the fast path for hits."""

    async def start(service: EmbeddingService, access: Access | None = None) -> TestClient:
        client = await aiohttp_client(make_app(service, access=access))
        fast_path.install(client.server.runner)  # type: ignore[union-attr]
        return client

    return start


@pytest.fixture
async def client(engine: FakeEngine, serve: Serve) -> TestClient:
    prompts = Prompts(query="query: {text}", document="doc: {text}")
    return await serve(fake_service(engine, VectorCache(None, memory_mib=8, disk_mib=0), prompts=prompts))


async def ask(client: TestClient, header: str | None = None, **body: Any) -> Asked:
    headers = {"X-Edgeembed-Cache": header} if header else {}
    response = await client.post("/v1/embeddings", json=body, headers=headers)
    return response.status, await response.json(), response.headers.get("X-Edgeembed-Cache")


async def test_a_hit_is_byte_for_byte_what_was_computed(client: TestClient, engine: FakeEngine) -> None:
    bodies: list[dict[str, Any]] = [
        {"encoding_format": encoding, "dimensions": dimensions, "input": given}
        for encoding in ("float", "base64")
        for dimensions in (None, 3, 16)
        for given in ("one", ["one"], ["one", "two"], ["two", "one", "two"])
    ]
    answers: dict[int, bytes] = {}
    for repetition in range(3):
        for number, asked in enumerate(bodies):
            response = await client.post("/v1/embeddings", json=asked)
            body = await response.read()
            assert answers.setdefault(number, body) == body
            if repetition:
                assert response.headers["X-Edgeembed-Cache"] == "hit"
    assert sorted(engine.computed) == ["one", "two"]
    _, short, _ = await ask(client, input="one", encoding_format="base64", dimensions=3)
    _, floats, _ = await ask(client, input="one", dimensions=3)
    decoded = np.frombuffer(base64.b64decode(short["data"][0]["embedding"]), "<f4")
    assert decoded.tolist() == np.array(floats["data"][0]["embedding"], np.float32).tolist()
    assert np.linalg.norm(decoded) == pytest.approx(1, abs=1e-6)
    assert short["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


async def test_a_hit_that_asks_for_too_much_is_refused_like_a_miss(client: TestClient) -> None:
    for _ in range(2):
        assert (await ask(client, input="one"))[0] == 200
        assert (await ask(client, input="one", dimensions=17))[0] == 400


async def test_such_a_hit_is_refused_even_if_the_models_header_has_no_dimensions(engine: FakeEngine, serve: Serve) -> None:
    registry = ModelRegistry(dataclasses.replace(fake_model(), dimensions=None))
    pool = ModelPool(lambda _model: engine, PoolRules(budget_bytes=1))
    client = await serve(EmbeddingService(registry, pool, VectorCache(None, memory_mib=8, disk_mib=0)))
    for _ in range(3):
        assert (await ask(client, input="one"))[0] == 200
        assert (await ask(client, input="one", dimensions=17))[0] == 400


async def test_a_row_of_another_length_is_computed_again(engine: FakeEngine, serve: Serve, tmp_path: Path) -> None:
    """Before the model is loaded its file says how long its rows are, and then the engine."""
    folder, model = tmp_path / "vectors", fake_model()
    assert model.row_dimensions == (engine.dimensions,)
    keys = [KeyMaker(model.digest, "embed").key(Prompt(PLAIN, "").identity, text) for text in ("one", "two")]
    with contextlib.closing(DiskTier(folder, 8 * 2**20)) as tier:
        tier.put_many((key, encode_row(key, CachedRow(np.ones(5000, np.float32), 3))) for key in keys)
    cache = VectorCache(folder, memory_mib=8, disk_mib=8)
    await cache.open()
    client = await serve(fake_service(engine, cache))
    for text in ("one", "two"):
        status, body, hits = await ask(client, input=text)
        assert (status, hits, len(body["data"][0]["embedding"])) == (200, "miss", engine.dimensions)
    assert (engine.computed, cache.stats.damaged) == (["one", "two"], 2)
    await cache.close()


async def test_prompt_and_model_are_part_of_the_key(client: TestClient, engine: FakeEngine) -> None:
    for _ in range(2):
        for kind in (None, "query", "document"):
            await ask(client, input="x", input_type=kind)
    assert engine.computed == ["x", "query: x", "doc: x"]


@pytest.mark.parametrize("options", [{"cache": False}, {"header": "off"}, {"header": " OFF "}])
async def test_cache_off_neither_reads_nor_stores(client: TestClient, engine: FakeEngine, options: dict[str, Any]) -> None:
    await ask(client, input="known")
    for _ in range(2):
        assert (await ask(client, input=["known", "new"], **options))[2] == "miss"
    assert engine.computed == ["known", "known", "new", "known", "new"]
    assert (await ask(client, input="new"))[2] == "miss"


@pytest.mark.parametrize("options", [{"cache": "no-store"}, {"header": "no-store"}])
async def test_no_store_reads_but_does_not_store(client: TestClient, engine: FakeEngine, options: dict[str, Any]) -> None:
    await ask(client, input="known")
    for _ in range(2):
        assert (await ask(client, input=["known", "new"], **options))[2] == "partial"
    assert engine.computed == ["known", "new", "new"]
    assert (await ask(client, input="known", **options))[2] == "hit"


async def test_the_body_takes_precedence_over_the_header(client: TestClient) -> None:
    await ask(client, input="known")
    assert (await ask(client, "off", input="known", cache=True))[2] == "hit"
    assert (await ask(client, "on", input="known", cache=False))[2] == "miss"


async def test_another_value_is_refused(client: TestClient) -> None:
    response = await client.post("/v1/embeddings", json={"input": "a", "cache": "never"})
    error = (await response.json())["error"]
    assert (response.status, error["param"]) == (400, "cache")
    status, answer, _ = await ask(client, "never", input="a")
    assert (status, answer["error"]["param"]) == (400, "X-Edgeembed-Cache")
    assert "no-store" in answer["error"]["message"]


async def test_the_status_has_hits_and_misses_of_each_model(client: TestClient) -> None:
    for _ in range(3):
        await ask(client, input=["a", "b"])
    told = (await (await client.get("/v1/status")).json())["cache"]
    (model,) = told["models"]
    assert model.startswith("fake-model:F32@")
    counts = told["models"][model]
    assert (counts["memory_hits"], counts["disk_hits"], counts["misses"]) == (4, 0, 2)
    assert counts["saved_seconds"] > 0


async def test_a_stored_response_is_dropped_when_its_name_means_another_file(engine: FakeEngine, serve: Serve) -> None:
    digests = iter(["1" * 64, "2" * 64])
    registry = ModelRegistry(fake_model(), renew=lambda model: dataclasses.replace(model, digest=next(digests)))
    pool = ModelPool(lambda _model: engine, PoolRules(budget_bytes=1))
    service = EmbeddingService(registry, pool, VectorCache(None, memory_mib=8, disk_mib=0))
    client = await serve(service)
    for _ in range(2):
        words = [(await ask(client, input="one"))[2] for _ in range(4)]
        assert words == ["miss", "hit", "hit", "hit"]
        await registry.refresh()


async def test_stored_responses_are_bounded_in_bytes(engine: FakeEngine, serve: Serve) -> None:
    cache = VectorCache(None, memory_mib=1, disk_mib=0)
    client = await serve(fake_service(engine, cache))
    for number in range(400):
        for _ in range(3):
            await ask(client, input=f"text {number}")
    assert len(cache.responses) > 100
    assert cache.stats.answer_bytes <= 2**20 // 4
    assert cache.stats.memory_bytes + cache.stats.answer_bytes <= cache.stats.memory_limit_bytes == 2**20
    assert (await ask(client, input="text 399"))[2] == "hit"


# --- hits that go past the application ----------------------------------------------------------------------------------


async def hot(client: TestClient, **headers: str) -> tuple[int, CIMultiDictProxy[str]]:
    """Request a cached text, with some headers."""
    response = await client.post("/v1/embeddings", data=b'{"input":"hot"}', headers=headers)
    await response.read()
    return response.status, response.headers


async def test_a_hit_has_the_headers_of_every_response_and_is_counted(client: TestClient) -> None:
    answers = [await hot(client, **{"X-Request-Id": "mine-1"}) for _ in range(5)]
    names = [{name for name in headers if name != "Content-Length"} for _, headers in answers]
    assert names[0] == names[-1]
    assert answers[-1][1]["X-Request-Id"] == "mine-1" and answers[-1][1]["Server"] == answers[0][1]["Server"]
    ids = {(await hot(client, **given))[1]["X-Request-Id"] for given in ({}, {}, {"X-Request-Id": "not <sane>"})}
    assert len(ids) == 3 and "not <sane>" not in ids
    counts = client.app[METRICS].http  # type: ignore[union-attr]
    assert counts.answered["/v1/embeddings", 200] == 8 == sum(counts.buckets["/v1/embeddings"])
    status = await (await client.get("/v1/status")).json()
    assert status["models"][0]["requests"] == 8 and status["cache"]["memory_hits"] == 7


async def test_a_hit_needs_the_same_authorisation_as_a_miss(engine: FakeEngine, serve: Serve) -> None:
    keys = Keys.read("secret", None)
    access = Access(keys=keys, origins=("https://friend.example",))
    client = await serve(fake_service(engine, VectorCache(None, memory_mib=8, disk_mib=0)), access)
    mine = {"Authorization": "Bearer secret"}
    for _ in range(4):
        assert (await hot(client, **mine))[0] == 200
        assert (await hot(client))[0] == 401
        assert (await hot(client, Authorization="Bearer other"))[0] == 401
        assert (await hot(client, **mine, Host="rebound.example"))[0] == 403
        assert (await hot(client, **mine, Origin="https://foe.example"))[0] == 403
        status, headers = await hot(client, **mine, Origin="https://friend.example")
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, "https://friend.example")
    assert engine.computed == ["hot"]


async def test_chunked_and_compressed_bodies_can_be_hits(client: TestClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b'{"in', b'put":"h', b'ot"}'):
            yield piece

    for _ in range(4):
        await hot(client)
    sent = await client.post("/v1/embeddings", data=pieces())
    packed = await client.post("/v1/embeddings", data=b'{"input":"hot"}', compress="gzip")
    for response in (sent, packed):
        assert response.headers["X-Edgeembed-Cache"] == "hit"
        assert response.headers["X-Edgeembed-Digest"] == fake_model().digest
    assert (await sent.json()) == (await packed.json())
    assert (await client.put("/v1/embeddings", data=b'{"input":"hot"}')).status == 405


async def test_the_cache_header_applies_to_rows_in_memory_too(client: TestClient, engine: FakeEngine) -> None:
    for _ in range(4):
        await hot(client)
    _, headers = await hot(client, **{"X-Edgeembed-Cache": "off"})
    assert headers["X-Edgeembed-Cache"] == "miss" and engine.computed == ["hot", "hot"]
    assert (await hot(client, **{"X-Edgeembed-Cache": "never"}))[0] == 400


async def test_a_hit_follows_the_clients_protocol(client: TestClient) -> None:
    """Old protocols, a last request, several requests at once: what aiohttp would do for each."""
    body = b'{"input":"hot"}'
    for _ in range(2):
        await hot(client)

    async def ask_raw(*requests: tuple[str, str]) -> list[tuple[bytes, bytes, bytes]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        for version, connection in requests:
            head = f"POST /v1/embeddings {version}\r\nHost: 127.0.0.1\r\nConnection: {connection}\r\n"
            writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        found = []
        for _ in requests:
            head = await reader.readuntil(b"\r\n\r\n")
            (length,) = re.findall(rb"(?i)content-length: (\d+)", head)
            found.append((head.split(b"\r\n", 1)[0], head, await reader.readexactly(int(length))))
        if requests[-1][1] == "close":
            assert await reader.read() == b""
        writer.close()
        return found

    keep, last, old = ("HTTP/1.1", "keep-alive"), ("HTTP/1.1", "close"), ("HTTP/1.0", "close")
    (first, *rest) = await ask_raw(keep, keep, keep, last)
    assert [answer[0] for answer in (first, *rest)] == [b"HTTP/1.1 200 OK"] * 4
    assert {answer[2] for answer in rest} == {first[2]} and all(b"hit\r\n" in answer[1] for answer in rest)
    assert b"connection: close" in rest[-1][1].lower()
    ((status, head, answer),) = await ask_raw(old)
    assert status.startswith(b"HTTP/1.0 200") and answer == first[2] and b"x-edgeembed-cache: hit" in head.lower()
