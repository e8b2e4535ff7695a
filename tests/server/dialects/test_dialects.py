"""What all dialects have in common: the service, the cache, access checks, and errors in their own format."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient

from edgeembed.errors import OverloadedError
from edgeembed.server.api_keys import Keys
from edgeembed.server.auth import Access
from tests.fakes import fake_model
from tests.server.dialect_requests import Server

Connect = Callable[[Server], Awaitable[TestClient]]

EMBEDS: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    "/v1/embeddings": ({"input": "hello"}, lambda answer: answer["data"][0]["embedding"]),
    "/api/embed": ({"input": "hello"}, lambda answer: answer["embeddings"][0]),
    "/api/embeddings": ({"prompt": "hello"}, lambda answer: answer["embedding"]),
    "/embed": ({"inputs": "hello"}, lambda answer: answer[0]),
    "/": ({"inputs": "hello"}, lambda answer: answer[0]),
    "/v2/embed": ({"texts": ["hello"]}, lambda answer: answer["embeddings"]["float"][0]),
    "/v1/embed": ({"texts": ["hello"]}, lambda answer: answer["embeddings"][0]),
}
"""A body for each route that embeds, and where the vector is in the response."""

RERANKS: dict[str, dict[str, Any]] = {
    "/v1/rerank": {"query": "q", "documents": ["good"]},
    "/v2/rerank": {"query": "q", "documents": ["good"]},
    "/rerank": {"query": "q", "texts": ["good"]},
}

KEYS: dict[str, set[str]] = {
    "/v1/embeddings": {"error", "detail"},
    "/v1/rerank": {"error", "detail"},
    "/v1/tokenize": {"error", "detail"},
    "/score": {"error", "detail"},
    "/v1/score": {"error", "detail"},
    "/detokenize": {"error", "detail"},
    "/api/embed": {"error"},
    "/api/embeddings": {"error"},
    "/api/show": {"error"},
    "/embed": {"error", "error_type"},
    "/similarity": {"error", "error_type"},
    "/tokenize": {"error", "error_type"},
    "/decode": {"error", "error_type"},
    "/predict": {"error", "error_type"},
    "/embed_all": {"error", "error_type"},
    "/embed_sparse": {"error", "error_type"},
    "/invocations": {"error", "error_type"},
    "/": {"error", "error_type"},
    "/v2/embed": {"message"},
    "/v1/embed": {"message"},
    "/v2/rerank": {"message"},
}
"""The keys of an error in each dialect."""


@pytest.fixture
def connect(aiohttp_client: Callable[..., Awaitable[TestClient]]) -> Connect:
    return lambda server: aiohttp_client(server.app)


async def test_every_dialect_returns_the_same_vector_and_shares_the_cache(connect: Connect) -> None:
    server = Server()
    client = await connect(server)
    vectors, words = [], []
    for path, (body, vector) in EMBEDS.items():
        response = await client.post(path, json=body)
        vectors.append(vector(await response.json()))
        assert response.headers["X-Edgeembed-Digest"] == fake_model("embedder").digest, path
        words.append(response.headers["X-Edgeembed-Cache"])
    assert np.allclose(vectors, vectors[0], atol=1e-7)
    assert words == ["miss", *["hit"] * (len(EMBEDS) - 1)]
    assert server.embedder.computed == ["hello"]
    for body in RERANKS.values():
        await client.post("/rerank", json=body)
    assert len(server.ranker.computed) == 1


@pytest.mark.parametrize("path", [*EMBEDS, *RERANKS])
async def test_requests_can_bypass_the_cache(connect: Connect, path: str) -> None:
    server = Server()
    client = await connect(server)
    body = EMBEDS[path][0] if path in EMBEDS else RERANKS[path]
    for _ in range(2):
        response = await client.post(path, json=body, headers={"X-Edgeembed-Cache": "off"})
        assert response.status == 200
    assert len(server.embedder.computed + server.ranker.computed) == 2
    response = await client.post(path, json=body, headers={"X-Edgeembed-Cache": "maybe"})
    assert 400 <= response.status < 500


@pytest.mark.parametrize("path", KEYS)
async def test_errors_outside_of_handlers_have_the_dialects_format(connect: Connect, path: str) -> None:
    def shape(answer: dict[str, Any]) -> set[str]:
        if path.startswith("/v1/") and "error" in answer:
            assert set(answer["error"]) == {"message", "type", "param", "code"}
        return set(answer)

    client = await connect(Server(access=Access(keys=Keys.read("sesame", None), check_host=True)))
    key = {"Authorization": "Bearer sesame"}
    for headers, body, status in (
        ({}, "{}", 401),
        ({**key, "Host": "evil.example"}, "{}", 403),
        ({**key, "Origin": "https://evil.example"}, "{}", 403),
        (key, " " * 200_000, 413),
        ({**key, "Content-Encoding": "gzip"}, "not gzip", 422 if "error_type" in KEYS[path] else 400),
    ):
        response = await client.post(path, data=body, headers=headers)
        assert response.status == status, headers
        assert shape(await response.json()) == KEYS[path]
    for body in ("", "{", "[]", "null", '{"input": ' + "[" * 5000, "\xff"):
        response = await client.post(path, data=body, headers=key)
        assert response.status in (400, 422), body
        assert shape(await response.json()) == KEYS[path]
    if path != "/":
        response = await client.get(path, headers=key)
        assert response.status == 405
        # On a path that two dialects share, a request with the wrong method is of neither.
        assert set(await response.json()) == KEYS[path]


@pytest.mark.parametrize("path", [*EMBEDS, *RERANKS])
async def test_overload_has_retry_after(connect: Connect, path: str) -> None:
    server = Server()
    client = await connect(server)

    def full(_text: str) -> OverloadedError:
        return OverloadedError("the queue is full", retry_after=3.0)

    server.embedder.failing = server.ranker.failing = full
    response = await client.post(path, json=EMBEDS[path][0] if path in EMBEDS else RERANKS[path])
    assert (response.status, response.headers["Retry-After"]) == (429, "3")
    assert "queue is full" in await response.text()


async def test_an_unexpected_error_reveals_nothing_internal(connect: Connect) -> None:
    server = Server()
    client = await connect(server)

    def broken(*_: Any) -> None:
        raise RuntimeError("secret detail")

    server.embedder.submit = broken  # type: ignore[assignment, method-assign]
    for path, (body, _) in EMBEDS.items():
        response = await client.post(path, json=body)
        assert response.status == 500
        assert "secret" not in await response.text()
