"""Ollama's routes over HTTP, on fake engines: an embedder with aliases and a reranker."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient

from edgeembed import __version__
from edgeembed.errors import RequestError
from edgeembed.server.dialects.keep_alive import keep_alive_seconds
from tests.fakes import CONTEXT_TOKENS, DIMENSIONS
from tests.server.dialect_requests import Server, get, post, unit


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def client(server: Server, aiohttp_client: Callable[..., Awaitable[TestClient]]) -> TestClient:
    return await aiohttp_client(server.app)


async def test_embed_takes_a_text_or_a_list_and_returns_unit_rows_in_order(client: TestClient) -> None:
    status, answer = await post(client, "/api/embed", model="embedder", input=["two words", "one"])
    assert status == 200
    assert np.allclose(answer["embeddings"], [unit("two words"), unit("one")], atol=1e-6)
    assert answer["model"] == "embedder"
    assert answer["prompt_eval_count"] == 7
    assert answer["total_duration"] > 0 and answer["load_duration"] >= 0
    _, answer = await post(client, "/api/embed", model="embedder", input="one", dimensions=4)
    assert np.allclose(answer["embeddings"], [unit("one", 4)], atol=1e-6)
    _, answer = await post(client, "/api/embed", model="embedder", input="one", dimensions=0, truncate=True, options={})
    assert np.shape(answer["embeddings"]) == (1, DIMENSIONS)


@pytest.mark.parametrize(
    ("name", "computed"),
    [
        ("embedder", "a"),
        ("embedder:latest", "a"),
        ("Embedder:LATEST", "a"),
        ("embedder:F32", "a"),
        ("embedder:query", "Q: a"),
        ("embedder:document", "D: a"),
        ("nomic-embed-text", "a"),
        ("nomic-embed-text:latest", "a"),
        ("", "a"),
    ],
)
async def test_names_as_ollamas_clients_write_them(client: TestClient, server: Server, name: str, computed: str) -> None:
    status, answer = await post(client, "/api/embed", model=name, input="a")
    assert (status, answer["model"]) == (200, name)
    assert server.embedder.computed == [computed]


async def test_the_older_route_returns_one_row(client: TestClient) -> None:
    status, answer = await post(client, "/api/embeddings", model="embedder", prompt="hello")
    assert (status, list(answer)) == (200, ["embedding"])
    assert np.allclose(answer["embedding"], unit("hello"), atol=1e-6)


@pytest.mark.parametrize(
    ("path", "body", "rows"),
    [
        ("/api/embed", {}, {"embeddings": []}),
        ("/api/embed", {"input": ""}, {"embeddings": []}),
        ("/api/embed", {"input": []}, {"embeddings": []}),
        ("/api/embeddings", {"prompt": ""}, {"embedding": []}),
    ],
)
async def test_nothing_to_embed_loads_the_model(
    client: TestClient, server: Server, path: str, body: dict[str, Any], rows: dict[str, Any]
) -> None:
    server.embedder.loaded.clear()
    asking = asyncio.create_task(post(client, path, model="embedder", **body))
    (slot,) = [slot for slot in server.pool.slots if slot.model.name == "embedder"]
    assert slot.state == "loading"
    async with asyncio.timeout(20):
        while not slot.leases:
            await get(client, "/livez")  # a few turns of the loop, until the request has its lease
    assert not asking.done(), "it waits for the model"
    server.embedder.loaded.set()
    status, answer = await asking
    assert status == 200
    assert rows.items() <= answer.items()
    assert server.embedder.computed == []


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/api/embed", {"model": "other:latest", "input": "a"}, 404, "no model 'other'"),
        ("/api/embed", {"model": "ranker", "input": "a"}, 400, "/v1/rerank"),
        ("/api/embed", {"model": "embedder", "input": ["a", 3]}, 400, "input[1] is a number"),
        ("/api/embed", {"model": "embedder", "input": [1, 3]}, 400, "input holds token ids"),
        ("/api/embed", {"model": "embedder", "input": ["a", None]}, 400, "input[1] is null"),
        ("/api/embed", {"model": "embedder", "input": ["a", ""]}, 400, "input[1] is empty"),
        ("/api/embed", {"model": "embedder", "input": {"a": 1}}, 400, "input: Expected"),
        ("/api/embed", {"model": "embedder", "input": "a", "dimensions": 17}, 400, "between 1 and 16"),
        ("/api/embed", {"model": "embedder", "input": "", "dimensions": -1}, 400, "dimensions is -1"),
        ("/api/embed", {"model": "embedder", "input": "a", "keep_alive": "soon"}, 400, "keep_alive"),
        ("/api/embed", {"model": "embedder", "input": "a", "options": {"num_ctx": "8"}}, 400, "options.num_ctx"),
        ("/api/embed", {"model": "embedder", "input": "a", "truncate": "yes"}, 400, "truncate"),
        ("/api/embeddings", {"model": "embedder", "prompt": ["a"]}, 400, "prompt"),
        ("/api/show", {}, 400, "model is missing"),
        ("/api/show", {"model": "other"}, 404, "'other' not found"),
        ("/api/generate", {"model": "embedder", "prompt": "a"}, 404, "nothing at POST /api/generate"),
    ],
)
async def test_errors_have_ollamas_format(
    client: TestClient, path: str, body: dict[str, Any], status: int, words: str
) -> None:
    got, answer = await post(client, path, **body)
    assert got == status
    assert list(answer) == ["error"]
    assert words in answer["error"]


async def test_texts_are_cut_at_the_end_unless_truncate_is_false(client: TestClient, server: Server) -> None:
    words = [str(number) for number in range(30)]
    fits, longer = " ".join(words[: CONTEXT_TOKENS - 2]), " ".join(words)
    for more in ({}, {"truncate": True}):
        response = await client.post("/api/embed", json={"model": "embedder", "input": ["a", longer], **more})
        assert (response.status, response.headers["X-Edgeembed-Truncated"]) == (200, "1")
        answer = await response.json()
        assert np.allclose(answer["embeddings"], [unit("a"), unit(fits)], atol=1e-6)
        assert answer["prompt_eval_count"] == 3 + CONTEXT_TOKENS
    status, answer = await post(client, "/api/embed", model="embedder", input=["a", longer], truncate=False)
    assert status == 400
    assert "input[1] has 32 tokens" in answer["error"]


async def test_num_ctx_is_the_longest_text(client: TestClient) -> None:
    options = {"num_ctx": 5}
    for path, field, row in (
        ("/api/embed", "input", lambda answer: answer["embeddings"][0]),
        ("/api/embeddings", "prompt", lambda answer: answer["embedding"]),
    ):
        status, answer = await post(client, path, model="embedder", options=options, **{field: "a b c d"})
        assert status == 200
        assert np.allclose(row(answer), unit("a b c"), atol=1e-6)
    status, answer = await post(client, "/api/embed", model="embedder", input="a b c d", options=options, truncate=False)
    assert status == 400
    assert "options.num_ctx allows 5" in answer["error"]


async def test_tags_list_every_name_of_embedders(client: TestClient) -> None:
    status, answer = await get(client, "/api/tags")
    assert status == 200
    names = [model["name"] for model in answer["models"]]
    assert names == [
        "embedder:latest",
        "embedder:query",
        "embedder:document",
        "embedder:F32",
        "nomic-embed-text:latest",
    ]
    assert names == [model["model"] for model in answer["models"]]
    first = answer["models"][0]
    assert first["details"]["quantization_level"] == "F32"
    assert first["capabilities"] == ["embedding"]
    assert datetime.datetime.fromisoformat(first["modified_at"]).year == 2023
    for name in names:
        assert (await post(client, "/api/embed", model=name, input="a"))[0] == 200


async def test_show_describes_a_model_under_any_name(client: TestClient) -> None:
    for body in ({"model": "nomic-embed-text:latest"}, {"name": "embedder"}):
        status, answer = await post(client, "/api/show", **body)
        assert status == 200
        assert answer["modelfile"] == "FROM embedder:F32\n"
        assert answer["capabilities"] == ["embedding"]
        assert isinstance(answer["model_info"], dict)
    assert (await post(client, "/api/show", model="ranker"))[1]["capabilities"] == []


async def test_the_clients_keep_alive_is_used_unless_the_settings_pin_the_model(client: TestClient, server: Server) -> None:
    async def expiry() -> datetime.timedelta:
        _, answer = await get(client, "/api/ps")
        (model,) = answer["models"]
        assert model["name"] == "embedder:F32"
        assert (model["context_length"], model["size_vram"]) == (CONTEXT_TOKENS, 0 if model["size"] == 0 else model["size"])
        return datetime.datetime.fromisoformat(model["expires_at"]) - datetime.datetime.now(datetime.UTC)

    await post(client, "/api/embed", model="embedder", input="a", keep_alive="10m")
    assert (await expiry()).days > 10_000, "the settings never unload it"
    server.keep_alive = 1800.0
    await post(client, "/api/embed", model="embedder", input="a", keep_alive="10m")
    assert (await expiry()).total_seconds() == pytest.approx(600, abs=5)
    await post(client, "/api/embed", model="embedder", input="a", keep_alive=-1)
    assert (await expiry()).days > 10_000
    await post(client, "/api/embed", model="embedder", keep_alive=0)
    await server.embedder.until(lambda: server.embedder.closed)
    assert (await get(client, "/api/ps"))[1]["models"] == []


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (None, None),
        (0, 0.0),
        ("0", 0.0),
        (1.5, 1.5),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("300ms", 0.3),
        (-1, None),
        ("-1s", None),
        ("-1m", None),
        (1e300, None),
    ],
)
def test_durations_have_gos_syntax(given: str | float | None, seconds: float | None) -> None:
    assert keep_alive_seconds(given) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("given", ["", "5", "5 m", "m", "five", "1d", "5m!", "٣s"])
def test_invalid_durations_are_refused(given: str) -> None:
    with pytest.raises(RequestError, match="keep_alive"):
        keep_alive_seconds(given)


async def test_head_shows_that_the_server_runs(client: TestClient) -> None:
    """Ollama's clients send HEAD / to check for a server."""
    for method in ("HEAD", "GET"):
        for path in ("/", "/api/version", "/api/tags"):
            assert (await client.request(method, path)).status == 200


async def test_the_version_is_one_that_ollamas_clients_accept(client: TestClient) -> None:
    _, answer = await get(client, "/api/version")
    assert tuple(map(int, answer["version"].split("."))) >= (0, 6, 4), "what VS Code asks for"
    assert answer["edgeembed"] == __version__


async def test_a_request_may_have_any_number_of_texts(client: TestClient) -> None:
    """The server's limit is 50; Ollama has none, and langchain-ollama sends all texts in one request."""
    texts = [f"text {number}" for number in range(120)]
    status, answer = await post(client, "/api/embed", model="embedder", input=texts)
    assert status == 200
    assert np.allclose(answer["embeddings"], [unit(text) for text in texts], atol=1e-6)
