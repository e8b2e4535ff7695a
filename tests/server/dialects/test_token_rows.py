"""Rows of tokens and sparse vectors over HTTP, on fake engines: TEI's /embed_all and /embed_sparse, vLLM's /pooling."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient

from edgeembed.engine.interface import Output
from edgeembed.engine.outputs import unpack
from edgeembed.hub.catalogue import Matryoshka
from edgeembed.server.dialects import pooling, token_rows
from tests.fakes import CONTEXT_TOKENS, DIMENSIONS, fake_packed_row, fake_row
from tests.server.dialect_requests import Server, post, probabilities, unit

AioClient = Callable[..., Awaitable[TestClient]]


def part(text: str, output: Output) -> np.ndarray:
    """Return an output of the fake engine for a text."""
    return unpack(fake_packed_row(text, (output,)), (output,))[output]


def units(rows: np.ndarray, dimensions: int | None = None) -> np.ndarray:
    """Return rows cut and scaled to length 1."""
    cut = rows[:, :dimensions]
    return cut / np.linalg.norm(cut, axis=1, keepdims=True)


@pytest.fixture
def whole() -> Server:
    """A server whose embedder has all outputs."""
    return Server(outputs=("dense", "multi", "sparse"))


# --- text-embeddings-inference ----------------------------------------------------------------------------------------


async def test_embed_all_returns_the_hidden_state_of_each_token(client: TestClient) -> None:
    status, rows = await post(client, "/embed_all", inputs=["two words", "one"])
    assert status == 200
    assert [np.shape(one) for one in rows] == [(4, DIMENSIONS), (3, DIMENSIONS)], "special tokens have rows, too"
    for found, text in zip(rows, ["two words", "one"], strict=True):
        assert np.allclose(found, part(text, "tokens"), atol=1e-5), "not scaled, as in TEI"
    for inputs in ("one", [[7, 8]], [7, 8]):
        _, rows = await post(client, "/embed_all", inputs=inputs)
        assert len(rows) == 1, "a text, or its token ids, are a batch of one"


async def test_embed_all_says_what_it_read(client: TestClient) -> None:
    response = await client.post("/embed_all", json={"inputs": ["w " * 30]})
    assert response.headers["X-Edgeembed-Truncated"] == "1"
    assert response.headers["x-compute-tokens"] == str(CONTEXT_TOKENS)
    assert response.headers["X-Edgeembed-Cache"] == "miss"
    assert len((await response.json())[0]) == CONTEXT_TOKENS
    response = await client.post("/embed_all", json={"inputs": ["w " * 30], "truncate": False})
    assert (response.status, (await response.json())["error_type"]) == (422, "Validation")


async def test_embed_all_refuses_to_scale(client: TestClient) -> None:
    status, answer = await post(client, "/embed_all", inputs="a", normalize=True)
    assert (status, "not scaled" in answer["error"]) == (422, True)
    assert (await post(client, "/embed_all", inputs="a", normalize=False))[0] == 200


async def test_embed_sparse_returns_ids_and_weights(aiohttp_client: AioClient, whole: Server) -> None:
    client = await aiohttp_client(whole.app)
    status, answer = await post(client, "/embed_sparse", inputs=["ccc a a", "bb"])
    assert status == 200
    assert answer == [[{"index": 11, "value": 3.0}, {"index": 13, "value": 2.0}], [{"index": 12, "value": 2.0}]]
    response = await client.post("/embed_sparse", json={"inputs": "bb"})
    assert response.headers["X-Edgeembed-Cache"] == "hit"


async def test_models_without_an_output_are_424(client: TestClient, aiohttp_client: AioClient) -> None:
    status, answer = await post(client, "/embed_sparse", inputs="a")
    assert (status, answer["error_type"]) == (424, "Backend")
    assert "no sparse vectors; it has dense vectors" in answer["error"]
    status, answer = await post(client, "/embed_all", inputs="a", model="ranker")
    assert (status, answer["error_type"]) == (424, "Backend")
    sparse = await aiohttp_client(Server(outputs=("sparse",)).app)
    status, answer = await post(sparse, "/embed", inputs="a")
    assert (status, answer["error_type"]) == (424, "Backend")
    assert (await post(sparse, "/embed_sparse", inputs="a"))[0] == 200


# --- vLLM -------------------------------------------------------------------------------------------------------------


async def test_pooling_returns_a_unit_vector_for_each_token(client: TestClient) -> None:
    for fields in ({}, {"task": "token_embed"}, {"encoding_format": "float"}):
        status, answer = await post(client, "/pooling", input=["two words", "one"], **fields)
        assert status == 200
        assert (answer["object"], answer["model"]) == ("list", "embedder")
        assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7, "completion_tokens": 0}
        assert [(item["index"], item["object"]) for item in answer["data"]] == [(0, "pooling"), (1, "pooling")]
        assert np.allclose(answer["data"][0]["data"], units(part("two words", "tokens")), atol=1e-6)
    _, answer = await post(client, "/pooling", input="one", use_activation=False)
    assert np.allclose(answer["data"][0]["data"], part("one", "tokens"), atol=1e-5)
    _, answer = await post(client, "/pooling", input="one", dimensions=3)
    assert np.allclose(answer["data"][0]["data"], units(part("one", "tokens"), 3), atol=1e-6)


async def test_pooling_takes_the_vectors_of_a_late_interaction_head(aiohttp_client: AioClient, whole: Server) -> None:
    client = await aiohttp_client(whole.app)
    for fields in ({}, {"multi_vector": True}):
        _, answer = await post(client, "/pooling", input="two words", **fields)
        assert np.allclose(answer["data"][0]["data"], part("two words", "multi"), atol=1e-6)
    _, answer = await post(client, "/pooling", input="two words", multi_vector=False, normalize=False)
    assert np.allclose(answer["data"][0]["data"], part("two words", "tokens"), atol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"task": "embed"}, {"task": "classify", "model": "judge"}])
async def test_pooling_refuses_multi_vectors_that_there_are_not(client: TestClient, fields: dict[str, str]) -> None:
    status, answer = await post(client, "/pooling", input="a", multi_vector=True, **fields)
    assert (status, answer["error"]["param"]) == (400, "multi_vector")
    assert (await post(client, "/pooling", input="a", multi_vector=False, **fields))[0] == 200


async def test_pooling_embed_returns_one_vector(client: TestClient) -> None:
    _, answer = await post(client, "/pooling", input="one", task="embed")
    assert np.allclose(answer["data"][0]["data"], unit("one"), atol=1e-6)


async def test_pooling_embed_cuts_as_the_models_makers_do(aiohttp_client: AioClient) -> None:
    whole = Matryoshka(min=2, max=DIMENSIONS, layer_norm=True)
    client = await aiohttp_client(Server(matryoshka=whole).app)
    body = {"input": "a b", "dimensions": 3}
    _, expected = await post(client, "/v1/embeddings", **body)
    _, answer = await post(client, "/pooling", **body, task="embed")
    assert np.allclose(answer["data"][0]["data"], expected["data"][0]["embedding"], atol=1e-6)


async def test_an_alias_may_mean_another_model_for_an_input_type(aiohttp_client: AioClient) -> None:
    server = Server(outputs=("dense", "multi", "sparse"), aliases={"tasks": "ranker", "tasks:query": "embedder"})
    client = await aiohttp_client(server.app)
    body = {"model": "tasks", "input": "a b", "input_type": "query"}
    assert (await post(client, "/pooling", **body))[0] == 200
    status, answer = await post(client, "/v1/embeddings", **body, sparse=True, sparse_words=True)
    assert (status, answer["model"]) == (200, "embedder")


async def test_pooling_takes_token_ids_of_the_model(client: TestClient, server: Server) -> None:
    for ids in ([7, 8], [[7, 8]]):
        status, answer = await post(client, "/pooling", input=ids)
        assert (status, np.shape(answer["data"][0]["data"])) == (200, (4, DIMENSIONS))
    assert server.embedder.computed == ["7 8", "7 8"], "hidden states are not cached"


async def test_pooling_sends_bytes(client: TestClient) -> None:
    texts = ["two words", "one"]
    expected = [units(part(text, "tokens")) for text in texts]
    _, answer = await post(client, "/pooling", input=texts, encoding_format="base64", endianness="big")
    for item, rows in zip(answer["data"], expected, strict=True):
        assert item["shape"] == list(rows.shape)
        assert np.allclose(np.frombuffer(base64.b64decode(item["data"]), ">f4"), rows.ravel(), atol=1e-6)
    _, answer = await post(client, "/pooling", input=texts, encoding_format="base64", task="embed")
    assert "shape" not in answer["data"][0]
    response = await client.post("/pooling", json={"input": texts, "encoding_format": "bytes", "embed_dtype": "float16"})
    metadata: dict[str, Any] = json.loads(response.headers["metadata"])
    assert metadata["usage"]["prompt_tokens"] == 7
    body = await response.read()
    for item, rows in zip(metadata["data"], expected, strict=True):
        assert item["shape"] == list(rows.shape)
        found = np.frombuffer(body[item["start"] : item["end"]], "<f2").reshape(item["shape"])
        assert np.allclose(found, rows, atol=1e-3)
    response = await client.post("/pooling", json={"input": texts, "encoding_format": "bytes_only"})
    assert "metadata" not in response.headers
    assert np.allclose(np.frombuffer(await response.read(), "<f4"), np.concatenate(expected).ravel(), atol=1e-6)


async def test_pooling_classifies_with_a_classifier(client: TestClient) -> None:
    for fields in ({"task": "classify"}, {}):
        status, answer = await post(client, "/pooling", input=["good", "bad"], model="judge", **fields)
        assert status == 200, answer
        assert np.allclose(
            [item["data"] for item in answer["data"]], [probabilities("good"), probabilities("bad")], atol=1e-6
        )
    _, answer = await post(client, "/pooling", input="good", model="judge", use_activation=False)
    assert np.allclose(answer["data"][0]["data"], fake_row("good", 3), atol=1e-5)
    response = await client.post("/pooling", json={"input": "good", "model": "judge", "encoding_format": "bytes"})
    assert json.loads(response.headers["metadata"])["data"][0]["shape"] == [3]
    assert np.allclose(np.frombuffer(await response.read(), "<f4"), probabilities("good"), atol=1e-6)
    for fields in ({"dimensions": 2}, {"embed_dtype": "int8"}, {"embd_normalize": 0}, {"repeatable": True}):
        status, answer = await post(client, "/pooling", input="good", model="judge", **fields)
        assert (status, answer["error"]["param"]) == (400, next(iter(fields)))
    status, answer = await post(client, "/pooling", input="good", task="classify", model="embedder")
    assert (status, answer["error"]["code"]) == (400, "wrong_task")


@pytest.mark.parametrize("task", ["token_classify", "plugin"])
async def test_other_tasks_of_pooling_are_refused(client: TestClient, task: str) -> None:
    status, answer = await post(client, "/pooling", input="a", task=task)
    assert (status, answer["error"]["param"]) == (400, "task")
    assert answer["error"]["message"].startswith(f"Unsupported task: {task!r}. Supported tasks: embed")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "a", "dimensions": 99}, "dimensions"),
        ({"input": []}, "input"),
        ({"input": ["a", [1]]}, "input[1]"),
        ({"input": "w " * 30}, "input"),
        ({"input": "a", "model": "ranker"}, "model"),
        ({"input": "a", "encoding_format": "bad"}, "encoding_format"),
        ({"input": "a", "long_text": "mean"}, "long_text"),
        ({"input": "a", "task": "embed", "long_text": "chunks"}, "long_text"),
    ],
)
async def test_wrong_fields_of_pooling_are_named(client: TestClient, body: dict[str, Any], param: str) -> None:
    status, answer = await post(client, "/pooling", **body)
    assert (status, answer["error"]["param"]) == (400, param), answer


async def test_pooling_cuts_if_asked(client: TestClient) -> None:
    _, answer = await post(client, "/pooling", input="a b c d", truncate_prompt_tokens=4)
    assert len(answer["data"][0]["data"]) == 4
    assert answer["truncated"] == [{"index": 0, "tokens": 4, "full_tokens": 6}]


# --- large answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "field"), [("/embed_all", "inputs"), ("/pooling", "input")])
async def test_large_answers_are_written_in_parts(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, path: str, field: str
) -> None:
    texts = [f"text number {number}" for number in range(40)]
    _, whole = await post(client, path, **{field: texts})
    monkeypatch.setattr(token_rows, "LARGE_BYTES", 1000)
    monkeypatch.setattr(token_rows, "PART_BYTES", 500)
    response = await client.post(path, json={field: texts})
    assert response.headers["Transfer-Encoding"] == "chunked"
    parted = await response.json()
    assert parted == whole if path == "/embed_all" else parted["data"] == whole["data"]


@pytest.mark.parametrize("more", [{}, {"embed_dtype": "ubinary"}, {"dimensions": 3}, {"task": "embed"}])
async def test_large_answers_in_bytes_are_written_in_parts(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    body = {"input": [f"text number {number}" for number in range(40)], "encoding_format": "bytes", **more}
    whole = await client.post("/pooling", json=body)
    monkeypatch.setattr(token_rows, "LARGE_BYTES", 1000)
    monkeypatch.setattr(token_rows, "PART_BYTES", 500)
    parted = await client.post("/pooling", json=body)
    assert await parted.read() == await whole.read()
    assert parted.headers["Content-Length"] == whole.headers["Content-Length"]
    ends = [json.loads(response.headers["metadata"])["data"][-1]["end"] for response in (whole, parted)]
    assert ends == [int(whole.headers["Content-Length"])] * 2


async def test_base64_in_parts_is_one_text(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"input": "a b c d e f g h", "encoding_format": "base64", "embed_dtype": "ubinary"}
    _, whole = await post(client, "/pooling", **body)
    monkeypatch.setattr(pooling, "_BASE64_ROWS", 3)
    _, parted = await post(client, "/pooling", **body)
    assert parted["data"] == whole["data"]
