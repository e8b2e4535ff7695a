"""Sparse vectors and vectors of tokens beside the dense one, at POST /v1/embeddings, on a fake engine."""

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
from edgeembed.inference import limits, service
from edgeembed.server.dialects import outputs, token_rows
from tests.docs.pages import commands
from tests.fakes import DIMENSIONS, fake_packed_row
from tests.server.dialect_requests import Server, get, post, unit

AioClient = Callable[..., Awaitable[TestClient]]
Connect = Callable[..., Awaitable[TestClient]]
PATH = "/v1/embeddings"


def part(text: str, output: Output) -> np.ndarray:
    """Return an output of the fake engine for a text."""
    return unpack(fake_packed_row(text, (output,)), (output,))[output]


@pytest.fixture
def server() -> Server:
    return Server(outputs=("dense", "multi", "sparse"))


@pytest.fixture
def connect(aiohttp_client: AioClient) -> Connect:
    async def connected(*has: Output) -> TestClient:
        return await aiohttp_client(Server(outputs=has).app)

    return connected


async def test_all_outputs_come_from_one_pass(client: TestClient, server: Server) -> None:
    status, answer = await post(client, PATH, input=["ccc a a", "bb"], sparse=True, multi_vector=True)
    assert status == 200
    assert (answer["object"], answer["model"]) == ("list", "embedder")
    assert answer["usage"] == {"prompt_tokens": 8, "total_tokens": 8}
    first, second = answer["data"]
    assert list(first) == ["object", "index", "embedding", "multi_embedding", "sparse_embedding"]
    assert np.allclose(first["embedding"], unit("ccc a a"), atol=1e-6)
    assert first["sparse_embedding"] == {"indices": [11, 13], "values": [3.0, 2.0]}
    assert np.allclose(first["multi_embedding"], part("ccc a a", "multi"), atol=1e-6)
    assert (second["index"], second["sparse_embedding"]) == (1, {"indices": [12], "values": [2.0]})
    assert server.embedder.computed == ["ccc a a", "bb"]


async def test_one_output_beside_the_dense_vector_or_alone(client: TestClient) -> None:
    for fields in ({"sparse": True}, {"return_sparse": True}, {"return_dense": True, "sparse": True}):
        _, answer = await post(client, PATH, input="a", **fields)
        assert list(answer["data"][0]) == ["object", "index", "embedding", "sparse_embedding"]
    for fields in ({"multi_vector": True}, {"return_colbert_vecs": True, "return_sparse": False}):
        _, answer = await post(client, PATH, input="a", **fields)
        assert list(answer["data"][0]) == ["object", "index", "embedding", "multi_embedding"]
    _, answer = await post(client, PATH, input="a", sparse=True, return_dense=False)
    assert list(answer["data"][0]) == ["object", "index", "sparse_embedding"]
    _, answer = await post(client, PATH, input="a", sparse=False, multi_vector=False, return_dense=True)
    assert list(answer["data"][0]) == ["object", "index", "embedding"]


async def test_jinas_word_and_route_return_what_jina_does(client: TestClient) -> None:
    for path, fields in ((PATH, {"return_multivector": True}), ("/v1/multi-vector", {"input_type": "document"})):
        status, answer = await post(client, path, input=["a bb"], embedding_type="float", **fields)
        assert status == 200
        assert list(answer["data"][0]) == ["object", "index", "embeddings"]
    _, answer = await post(client, "/v1/multi-vector", input=["a bb"], dimensions=4)
    rows = np.array(answer["data"][0]["embeddings"])
    expected = part("a bb", "multi")[:, :4]
    assert np.allclose(rows, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)


async def test_sparse_vectors_can_be_shortened_and_have_words(client: TestClient) -> None:
    text = "dddd dddd dddd a a bb"
    _, answer = await post(client, PATH, input=text, sparse=True)
    assert answer["data"][0]["sparse_embedding"] == {"indices": [11, 12, 14], "values": [3.0, 2.0, 4.0]}
    _, answer = await post(client, PATH, input=text, sparse=True, sparse_top_k=2)
    assert answer["data"][0]["sparse_embedding"] == {"indices": [11, 14], "values": [3.0, 4.0]}
    _, answer = await post(client, PATH, input=text, sparse=True, sparse_threshold=3)
    assert answer["data"][0]["sparse_embedding"] == {"indices": [11, 14], "values": [3.0, 4.0]}
    _, answer = await post(client, PATH, input=[text, "bb"], sparse=True, sparse_words=True, sparse_top_k=1)
    assert answer["data"][0]["sparse_embedding"] == {"indices": [14], "values": [4.0], "words": ["14"]}
    assert answer["data"][1]["sparse_embedding"] == {"indices": [12], "values": [2.0], "words": ["12"]}
    _, answer = await post(client, PATH, input="a", sparse=True, sparse_threshold=9, sparse_words=True)
    assert answer["data"][0]["sparse_embedding"] == {"indices": [], "values": [], "words": []}


async def test_one_answer_has_so_many_words(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "MOST_WORDS", 2)
    status, answer = await post(client, PATH, input="a bb ccc", sparse=True, sparse_words=True)
    assert (status, answer["error"]["param"]) == (400, "sparse_words")
    assert (await post(client, PATH, input="a bb ccc", sparse=True, sparse_words=True, sparse_top_k=2))[0] == 200


async def test_numbers_have_the_types_of_dense_vectors(client: TestClient) -> None:
    body: dict[str, Any] = {"input": "a bb", "multi_vector": True, "sparse": True}
    _, answer = await post(client, PATH, **body, encoding_format="base64", endianness="big")
    item = answer["data"][0]
    assert np.allclose(np.frombuffer(base64.b64decode(item["embedding"]), ">f4"), unit("a bb"), atol=1e-6)
    rows = [np.frombuffer(base64.b64decode(row), ">f4") for row in item["multi_embedding"]]
    assert np.allclose(rows, part("a bb", "multi"), atol=1e-6)
    assert item["sparse_embedding"]["values"] == [2.0, 2.0], "ids and weights are numbers in any case"
    _, answer = await post(client, PATH, **body, output_dtype="int8")
    assert np.shape(answer["data"][0]["multi_embedding"]) == (2, DIMENSIONS)
    assert all(type(number) is int for number in answer["data"][0]["multi_embedding"][0])


async def test_dimensions_are_those_of_the_dense_vector_if_there_is_one(client: TestClient) -> None:
    _, answer = await post(client, PATH, input="a", multi_vector=True, dimensions=3)
    assert np.allclose(answer["data"][0]["embedding"], unit("a", 3), atol=1e-6)
    assert np.shape(answer["data"][0]["multi_embedding"]) == (1, DIMENSIONS)
    _, answer = await post(client, PATH, input="a", multi_vector=True, dimensions=3, return_dense=False)
    assert np.shape(answer["data"][0]["multi_embedding"]) == (1, 3)


async def test_models_without_dense_vectors_name_the_field(connect: Connect) -> None:
    client = await connect("sparse")
    status, answer = await post(client, PATH, input="a")
    assert (status, answer["error"]["code"]) == (400, "wrong_task")
    assert "no dense vectors; it has sparse vectors" in answer["error"]["message"]
    assert '"sparse": true' in answer["error"]["message"]
    _, answer = await post(client, PATH, input="a", sparse=True)
    assert list(answer["data"][0]) == ["object", "index", "sparse_embedding"], "the dense one is left out"
    for field in ("return_dense", "multi_vector", "return_multivector"):
        status, answer = await post(client, PATH, input="a", sparse=True, **{field: True})
        error = answer["error"]
        assert (status, error["code"], error["param"]) == (400, "wrong_task", field)
    client = await connect("multi")
    _, answer = await post(client, PATH, input="a")
    assert '"multi_vector": true' in answer["error"]["message"]
    assert (await post(client, "/v1/multi-vector", input="a"))[0] == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"return_dense": False}, "return_dense"),
        ({"sparse": True, "return_sparse": False}, "return_sparse"),
        ({"sparse_top_k": 3}, "sparse_top_k"),
        ({"sparse_words": True, "multi_vector": True}, "sparse_words"),
        ({"sparse": True, "sparse_top_k": 0}, "sparse_top_k"),
        ({"sparse": True, "sparse_threshold": -1}, "sparse_threshold"),
        ({"sparse": True, "encoding_format": "bytes"}, "encoding_format"),
        ({"sparse": True, "long_text": "mean"}, "long_text"),
        ({"sparse": True, "return_dense": False, "dimensions": 2}, "dimensions"),
        ({"sparse": True, "return_dense": False, "output_dimension": 2}, "output_dimension"),
        ({"multi_vector": True, "dimensions": 99}, "dimensions"),
        ({"multi_vector": True, "dimensions": 99, "return_dense": False}, "dimensions"),
    ],
)
async def test_wrong_fields_are_named(client: TestClient, body: dict[str, Any], param: str) -> None:
    status, answer = await post(client, PATH, input="a", **body)
    assert (status, answer["error"]["param"]) == (400, param), answer


@pytest.mark.parametrize("path", ["/api/embed", "/v2/embed", "/embed", "/v1/rerank"])
async def test_other_routes_refuse_what_they_do_not_return(client: TestClient, path: str) -> None:
    body = {"input": "a", "inputs": "a", "texts": ["a"], "query": "a", "documents": ["a"], "model": "embedder"}
    for name in ("sparse", "multi_vector", "return_sparse", "return_colbert_vecs", "return_multivector"):
        texts = {"inputs": ["a"]} if path == "/v2/embed" else {}
        response = await client.post(path, json={**body, **texts, name: True})
        assert response.status in (400, 422)
        assert name in await response.text()


@pytest.mark.parametrize("path", ["/embed_all", "/embed_sparse", "/classify", "/predict"])
async def test_a_field_that_a_route_does_not_obey_is_refused(client: TestClient, path: str) -> None:
    body = {"model": "judge", "input": "a", "inputs": "a"} if path in ("/classify", "/predict") else {"inputs": "a"}
    assert (await client.post(path, json={**body, "long_text": "none"})).status == 200
    for more in ({"long_text": "mean"}, {"sparse_top_k": 3}, {"sparse_threshold": 0.5}, {"sparse_words": True}):
        response = await client.post(path, json={**body, **more})
        assert response.status in (400, 422), more
        assert next(iter(more)) in await response.text()


async def test_answers_are_stored_for_the_same_body(client: TestClient, server: Server) -> None:
    """The responses of repeated bodies are those of the same outputs, and gone with their rows."""
    bodies: list[dict[str, Any]] = [
        {"input": "a bb"},
        {"input": "a bb", "sparse": True},
        {"input": "a bb", "sparse": True, "sparse_words": True},
        {"input": "a bb", "sparse": True, "multi_vector": True},
    ]
    first = [await post(client, PATH, **body) for body in bodies]
    for _ in range(3):
        assert [await post(client, PATH, **body) for body in bodies] == first
    assert server.embedder.computed == ["a bb"] * 3, "dense, dense and sparse, all of them"
    response = await client.post(PATH, json=bodies[1])
    assert response.headers["X-Edgeembed-Cache"] == "hit"


async def test_the_cache_is_used_as_asked(client: TestClient, server: Server) -> None:
    for _ in range(2):
        await post(client, PATH, input="a", sparse=True, cache=False)
    assert server.embedder.computed == ["a", "a"]
    await post(client, PATH, input="a", sparse=True, cache="no-store")
    await post(client, PATH, input="a", sparse=True, input_type="document")
    await post(client, PATH, input="a", sparse=True, input_type="query")
    assert server.embedder.computed == ["a", "a", "a", "D: a", "Q: a"]


async def test_cut_texts_are_listed(client: TestClient) -> None:
    response = await client.post(PATH, json={"input": "a b c d", "multi_vector": True, "max_tokens": 4, "truncate": "end"})
    assert response.headers["X-Edgeembed-Truncated"] == "1"
    answer = await response.json()
    assert len(answer["data"][0]["multi_embedding"]) == 2
    assert answer["truncated"] == [{"index": 0, "tokens": 4, "full_tokens": 6}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PATH, {"multi_vector": True}),
        ("/v1/multi-vector", {}),
        ("/pooling", {"encoding_format": "bytes_only"}),
        ("/embed_all", {}),
    ],
)
async def test_too_many_rows_are_refused_before_anything_is_computed(
    client: TestClient, server: Server, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    monkeypatch.setattr(service, "MOST_NUMBERS", 40 * DIMENSIONS)
    texts = [f"text {number}" for number in range(11)]  # of four tokens each
    field = "inputs" if path == "/embed_all" else "input"
    status, answer = await post(client, path, **body, **{field: texts})
    assert status == (422 if path == "/embed_all" else 400)
    assert "at least 44 tokens in all; a request takes at most 40" in str(answer)
    assert server.embedder.computed == []
    assert (await client.post(path, json={**body, field: texts[:10]})).status == 200
    if path == PATH:
        assert (await post(client, path, sparse=True, input=texts))[0] == 200, "a sparse vector is not larger for it"


async def test_rows_that_turn_out_too_large_end_the_request(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_NUMBERS", 200)
    text = " ".join("x" * length for length in range(1, 11))  # ten tokens with a weight
    assert (await post(client, PATH, input=[text], sparse=True, return_dense=False))[0] == 200
    texts = [f"{text} {'y' * number}" for number in range(20, 30)]
    status, answer = await post(client, PATH, input=texts, sparse=True, return_dense=False)
    assert (status, answer["error"]["param"]) == (413, "input")
    assert "more than 200 numbers" in answer["error"]["message"]


async def test_models_say_what_they_compute(client: TestClient, connect: Connect) -> None:
    _, listed = await get(client, "/v1/models")
    outputs = {model["id"]: model.get("outputs") for model in listed["data"]}
    assert outputs["embedder"] == ["dense", "multi", "sparse", "tokens"]
    assert outputs["ranker"] is None
    await post(client, PATH, input="a")
    _, status = await get(client, "/v1/status")
    assert [model["outputs"] for model in status["models"]] == [["dense", "multi", "sparse", "tokens"]]
    splade = await connect("sparse")
    assert (await get(splade, "/info"))[1]["model_type"] == {"embedding": {"pooling": "splade"}}


async def test_the_examples_of_the_docs_are_answered(client: TestClient) -> None:
    examples = [command.words for command in commands() if command.place.startswith("docs/outputs.md")]
    bodies = [(words[2], json.loads(words[words.index("-d") + 1])) for words in examples if words[0] == "curl"]
    assert len(bodies) == 5
    for url, body in bodies:
        status, answer = await post(client, url.removeprefix("http://127.0.0.1:8327"), **{**body, "model": "embedder"})
        assert status == 200, answer


async def test_large_answers_are_written_in_parts(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"input": [f"text number {number}" for number in range(40)], "multi_vector": True, "sparse": True}
    _, whole = await post(client, PATH, **body)
    monkeypatch.setattr(token_rows, "LARGE_BYTES", 1000)
    monkeypatch.setattr(token_rows, "PART_BYTES", 500)
    response = await client.post(PATH, json=body)
    assert response.headers["Transfer-Encoding"] == "chunked"
    assert await response.json() == whole
