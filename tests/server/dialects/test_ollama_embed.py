"""Ollama's routes that compute vectors, over HTTP, on fake engines: an embedder with aliases and a reranker."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient

from edgeembed.errors import RequestError
from edgeembed.server.dialects import ollama_embed
from edgeembed.server.dialects.keep_alive import keep_alive_seconds
from tests.fakes import CONTEXT_TOKENS, DIMENSIONS
from tests.server.dialect_requests import Server, get, post, unit


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
    assert (status, answer["model"]) == (200, name or "embedder")
    assert server.embedder.computed == [computed]


async def test_the_older_route_returns_one_row(client: TestClient) -> None:
    status, answer = await post(client, "/api/embeddings", model="embedder", prompt="hello")
    assert (status, list(answer)) == (200, ["embedding"])
    assert np.allclose(answer["embedding"], unit("hello"), atol=1e-6)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/embed", {"prompt": "a"}),
        ("/api/embed", {"prompt": ["a"], "input": None}),
        ("/api/embed", {"input": "a", "prompt": "ignored"}),
        ("/api/embeddings", {"input": "a"}),
        ("/api/embeddings", {"input": ["a"], "prompt": None}),
        ("/api/embeddings", {"prompt": ["a"]}),
        ("/api/embeddings", {"prompt": "a", "input": "ignored"}),
    ],
)
async def test_each_route_takes_the_field_of_the_other(
    client: TestClient, server: Server, path: str, body: dict[str, Any]
) -> None:
    status, answer = await post(client, path, model="embedder", **body)
    assert status == 200
    row = answer["embedding"] if path == "/api/embeddings" else answer["embeddings"][0]
    assert np.allclose(row, unit("a"), atol=1e-6)


async def test_every_optional_field_may_be_null(client: TestClient) -> None:
    nulls = dict.fromkeys(("truncate", "dimensions", "keep_alive", "options", "prompt", "model"))
    status, answer = await post(client, "/api/embed", input="a", **nulls)
    assert (status, np.shape(answer["embeddings"])) == (200, (1, DIMENSIONS))
    nulls = dict.fromkeys(("keep_alive", "options", "input", "model"))
    assert (await post(client, "/api/embeddings", prompt="a", **nulls))[0] == 200
    options = dict.fromkeys(("num_ctx", "num_gpu", "seed", "stop"))
    assert (await post(client, "/api/embed", input="a", options=options))[0] == 200


async def test_integers_may_be_written_with_a_point(client: TestClient) -> None:
    status, answer = await post(client, "/api/embed", input="a b c d", dimensions=4.0, options={"num_ctx": 5.0})
    assert status == 200
    assert np.allclose(answer["embeddings"], [unit("a b c", 4)], atol=1e-6)


async def test_an_empty_text_in_a_list_is_embedded(client: TestClient, server: Server) -> None:
    """Ollama lets the model read the special tokens; langchain-ollama sends a list for a single text, too."""
    for texts in (["a", "", "b"], [""]):
        status, answer = await post(client, "/api/embed", model="embedder", input=texts)
        assert status == 200
        assert np.allclose(answer["embeddings"], [unit(text) for text in texts], atol=1e-6)
    assert (await post(client, "/api/embed", model="embedder:query", input=[""]))[0] == 200
    assert "Q: " in server.embedder.computed
    status, answer = await post(client, "/v1/embeddings", input=["a", ""])
    assert (status, answer["error"]["code"]) == (400, "empty_input"), "OpenAI refuses it"


async def test_a_missing_body_is_named(client: TestClient) -> None:
    for path in ("/api/embed", "/api/embeddings", "/api/show"):
        response = await client.post(path)
        assert response.status == 400
        assert (await response.json())["error"] == "missing request body"


@pytest.mark.parametrize(
    ("path", "body", "rows"),
    [
        ("/api/embed", {}, {"embeddings": []}),
        ("/api/embed", {"input": ""}, {"embeddings": []}),
        ("/api/embed", {"input": []}, {"embeddings": []}),
        ("/api/embed", {"input": None}, {"embeddings": []}),
        ("/api/embeddings", {"prompt": ""}, {"embedding": []}),
        ("/api/embeddings", {}, {"embedding": []}),
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
        ("/api/embed", {"model": "other", "input": "a"}, 404, "model 'other' not found, try pulling it first: "),
        ("/api/embed", {"model": "other:latest", "input": "a"}, 404, "model 'other:latest' not found"),
        ("/api/embeddings", {"model": "other", "prompt": "a"}, 404, "model 'other' not found, try pulling it first: "),
        ("/api/embed", {"model": "other"}, 404, "model 'other' not found"),
        ("/api/embed", {"model": "ranker", "input": "a"}, 400, "this model does not support embeddings: "),
        ("/api/embed", {"model": "embedder", "input": ["a", 3]}, 400, "invalid input type: input[1] is a number"),
        ("/api/embed", {"model": "embedder", "input": [1, 3]}, 400, "invalid input type: input[0] is a number"),
        ("/api/embed", {"model": "embedder", "input": ["a", None]}, 400, "invalid input type: input[1] is null"),
        ("/api/embed", {"model": "embedder", "input": {"a": 1}}, 400, "invalid input type: input is an object"),
        ("/api/embed", {"model": "embedder", "input": 1}, 400, "invalid input type: input is a number"),
        ("/api/embed", {"model": "embedder", "prompt": True}, 400, "invalid input type: prompt is a boolean"),
        ("/api/embeddings", {"model": "embedder", "prompt": 1}, 400, "invalid input type: prompt is a number"),
        ("/api/embeddings", {"model": "embedder", "prompt": ["a", "b"]}, 400, "this route takes one"),
        ("/api/embeddings", {"model": "embedder", "input": ["a", "b"]}, 400, "POST /api/embed any number"),
        ("/api/embed", {"model": "embedder", "input": "a", "dimensions": 17}, 400, "between 1 and 16"),
        ("/api/embed", {"model": "embedder", "input": "", "dimensions": -1}, 400, "dimensions is -1"),
        ("/api/embed", {"model": "embedder", "input": "a", "keep_alive": "soon"}, 400, "keep_alive"),
        ("/api/embed", {"model": "embedder", "input": "a", "options": {"num_ctx": "8"}}, 400, 'option "num_ctx"'),
        ("/api/embed", {"model": "embedder", "input": "a", "options": {"num_ctx": 8.5}}, 400, 'option "num_ctx"'),
        (
            "/api/embed",
            {"model": "embedder", "input": "a", "options": {"num_ctx": -1}},
            400,
            "exceeds maximum context length",
        ),
        (
            "/api/embed",
            {"model": "embedder", "input": "a", "options": {"num_ctx": 0}},
            400,
            "exceeds maximum context length",
        ),
        ("/api/embed", {"model": "embedder", "input": "a", "truncate": "yes"}, 400, "truncate"),
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
    assert answer["error"].startswith("the input length exceeds the context length: ")
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


async def test_the_clients_keep_alive_is_used_unless_the_settings_pin_the_model(client: TestClient, server: Server) -> None:
    async def expiry() -> datetime.timedelta:
        _, answer = await get(client, "/api/ps")
        (model,) = answer["models"]
        assert model["name"] == "embedder:latest"
        assert (model["context_length"], model["size_vram"]) == (CONTEXT_TOKENS, 0 if model["size"] == 0 else model["size"])
        return datetime.datetime.fromisoformat(model["expires_at"]) - datetime.datetime.now(datetime.UTC)

    await post(client, "/api/embed", model="embedder", input="a", keep_alive="10m")
    assert (await expiry()).days > 10_000, "the settings never unload it"
    server.keep_alive = 1800.0
    await post(client, "/api/embed", model="embedder", input="a", keep_alive="10m")
    assert (await expiry()).total_seconds() == pytest.approx(600, abs=5)
    await post(client, "/api/embed", model="embedder", input="a", keep_alive=-1)
    assert (await expiry()).days > 10_000


@pytest.mark.parametrize("zero", [0, 0.0, "0", "0s", "-0s"])
@pytest.mark.parametrize("settings", [None, 1800.0])
async def test_keep_alive_0_unloads_at_once(
    client: TestClient, server: Server, zero: float | str, settings: float | None
) -> None:
    server.keep_alive = settings
    assert (await post(client, "/api/embed", model="embedder", input="a", keep_alive=zero))[0] == 200
    await server.embedder.until(lambda: server.embedder.closed)
    assert (await get(client, "/api/ps"))[1]["models"] == []
    loads = server.pool.loads["embedder:F32"]
    assert (await post(client, "/api/embed", model="embedder", keep_alive=zero))[0] == 200
    assert server.pool.loads["embedder:F32"] == loads, "a model is not loaded in order to be unloaded"
    assert (await post(client, "/api/embed", model="embedder", input="b"))[0] == 200


async def test_keep_alive_0_leaves_a_pinned_model_loaded(client: TestClient, server: Server) -> None:
    (slot,) = [slot for slot in server.pool.slots if slot.model.name == "embedder"]
    slot.pinned = True
    assert (await post(client, "/api/embed", model="embedder", input="a", keep_alive=0))[0] == 200
    assert [model["name"] for model in (await get(client, "/api/ps"))[1]["models"]] == ["embedder:latest"]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (None, None),
        (0, 0.0),
        (0.0, 0.0),
        ("-0s", 0.0),
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


async def test_a_request_may_have_any_number_of_texts(client: TestClient) -> None:
    """The server's limit is 50; Ollama has none, and langchain-ollama sends all texts in one request."""
    texts = [f"text {number}" for number in range(120)]
    status, answer = await post(client, "/api/embed", model="embedder", input=texts)
    assert status == 200
    assert np.allclose(answer["embeddings"], [unit(text) for text in texts], atol=1e-6)


async def test_a_large_answer_is_made_in_parts(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_embed, "MOST_NUMBERS_AT_ONCE", 3 * DIMENSIONS)
    texts = [f"text {number}" for number in range(7)]
    body = {"model": "embedder", "input": [*texts, "word " * (2 * CONTEXT_TOKENS)]}
    response = await client.post("/api/embed", json=body)
    answer = await response.json()
    assert (response.status, response.headers["Transfer-Encoding"]) == (200, "chunked")
    assert response.headers["X-Edgeembed-Truncated"] == "1"
    assert np.allclose(answer["embeddings"][:7], [unit(text) for text in texts], atol=1e-6)
    assert (len(answer["embeddings"]), answer["prompt_eval_count"]) == (8, 7 * 4 + CONTEXT_TOKENS)
    monkeypatch.undo()
    whole = await post(client, "/api/embed", **body)
    assert whole[1]["embeddings"] == answer["embeddings"] and set(whole[1]) == set(answer)
