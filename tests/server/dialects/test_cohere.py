"""Cohere's routes over HTTP, on fake engines."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient

from tests.fakes import CONTEXT_TOKENS, DIMENSIONS, fake_row
from tests.server.dialect_requests import Server, post, unit


async def test_v2_returns_floats_by_default(client: TestClient) -> None:
    status, answer = await post(client, "/v2/embed", model="embedder", texts=["two words", "one"])
    assert status == 200
    assert list(answer["embeddings"]) == ["float"]
    assert np.allclose(answer["embeddings"]["float"], [unit("two words"), unit("one")], atol=1e-6)
    assert answer["texts"] == ["two words", "one"]
    assert answer["meta"] == {
        "api_version": {"version": "2"},
        "billed_units": {"input_tokens": 7},
        "tokens": {"input_tokens": 7},
    }
    assert answer["response_type"] == "embeddings_by_type"
    assert answer["id"]


async def test_the_input_type_chooses_the_prompt(client: TestClient, server: Server) -> None:
    for text, purpose in enumerate(("search_query", "search_document", "classification", "clustering", None)):
        await post(client, "/v2/embed", texts=[f"{text}"], input_type=purpose)
    assert server.embedder.computed == ["Q: 0", "D: 1", "D: 2", "D: 3", "4"]


async def test_every_type_has_the_same_row(client: TestClient) -> None:
    kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    texts = [f"text {number}" for number in range(20)]
    _, answer = await post(client, "/v2/embed", texts=texts, embedding_types=kinds)
    rows = answer["embeddings"]
    assert sorted(rows) == sorted(kinds)
    floats = np.array([unit(text) for text in texts])
    assert np.allclose(rows["float"], floats, atol=1e-6)
    decoded = [np.frombuffer(base64.b64decode(row), dtype="<f4") for row in rows["base64"]]
    assert np.allclose(decoded, rows["float"], atol=1e-7)
    int8 = np.array(rows["int8"])
    cosines = (int8 * floats).sum(1) / np.linalg.norm(int8, axis=1)
    assert cosines.min() > 0.999
    assert np.array_equal(np.array(rows["uint8"]), int8 + 128)
    bits = np.unpackbits(np.array(rows["ubinary"], dtype=np.uint8), axis=1)[:, :DIMENSIONS]
    assert np.array_equal(bits, floats > 0)
    assert np.array_equal(np.array(rows["binary"]), np.array(rows["ubinary"]) - 128)


async def test_dimensions_and_inputs(client: TestClient) -> None:
    inputs = [{"content": [{"type": "text", "text": "a"}]}, {"content": [{"type": "text", "text": "b"}]}]
    _, answer = await post(client, "/v2/embed", inputs=inputs, output_dimension=5, embedding_types=["float", "ubinary"])
    assert np.allclose(answer["embeddings"]["float"], [unit("a", 5), unit("b", 5)], atol=1e-6)
    assert np.shape(answer["embeddings"]["ubinary"]) == (2, 1), "bits are padded to a whole byte"
    assert answer["texts"] == ["a", "b"]


async def test_v1_returns_a_plain_list_without_embedding_types(client: TestClient) -> None:
    _, answer = await post(client, "/v1/embed", texts=["a"])
    assert answer["response_type"] == "embeddings_floats"
    assert np.allclose(answer["embeddings"], [unit("a")], atol=1e-6)
    _, answer = await post(client, "/v1/embed", texts=["a"], embedding_types=["int8"])
    assert answer["response_type"] == "embeddings_by_type"
    assert list(answer["embeddings"]) == ["int8"]


@pytest.mark.parametrize(("truncate", "kept"), [(None, "1 2 3"), ("END", "1 2 3"), ("START", "3 4 5")])
async def test_texts_are_cut_as_cohere_cuts_them(
    client: TestClient, server: Server, truncate: str | None, kept: str
) -> None:
    status, answer = await post(client, "/v2/embed", texts=["1 2", "1 2 3 4 5"], max_tokens=5, truncate=truncate)
    assert status == 200
    assert np.allclose(answer["embeddings"]["float"], [unit("1 2"), unit(kept)], atol=1e-6)
    assert server.embedder.computed == ["1 2", kept]
    assert answer["meta"]["billed_units"] == {"input_tokens": 9}
    assert answer["meta"]["warnings"] == ["text 1 was cut to 5 of its 7 tokens"]
    words = " ".join(map(str, range(30)))
    _, answer = await post(client, "/v1/embed", texts=[words], truncate=truncate)
    assert answer["meta"]["warnings"] == [f"text 0 was cut to {CONTEXT_TOKENS} of its 32 tokens"]
    assert "warnings" not in (await post(client, "/v2/embed", texts=["1 2"], truncate=truncate))[1]["meta"]


async def test_texts_that_are_too_long_are_errors_with_truncate_none(client: TestClient) -> None:
    for more, words in (
        ({}, "length is 20 tokens"),
        ({"max_tokens": 4}, "texts[1] has 32 tokens, and max_tokens allows 4"),
    ):
        status, answer = await post(client, "/v2/embed", texts=["a", "w " * 30], truncate="NONE", **more)
        assert status == 400
        assert words in answer["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v2/embed", {}, 400, "texts is missing"),
        ("/v2/embed", {"texts": []}, 400, "empty list"),
        ("/v2/embed", {"texts": ["a", 3]}, 400, "texts[1]"),
        ("/v2/embed", {"texts": ["a"], "inputs": []}, 400, "send one of them"),
        ("/v2/embed", {"images": ["data:image/png;base64,"]}, 400, "images is not supported here; only texts are"),
        ("/v2/embed", {"texts": ["a"], "input_type": "image"}, 400, "search_query, search_document"),
        ("/v2/embed", {"texts": ["a"], "embedding_types": ["float", "hex"]}, 400, "embedding_types[1]"),
        ("/v2/embed", {"texts": ["a"], "truncate": "MIDDLE"}, 400, "NONE, START, END"),
        ("/v2/embed", {"texts": ["a"], "output_dimension": 17}, 400, "between 1 and 16"),
        ("/v2/embed", {"texts": ["a"], "model": "embed-v4.0"}, 404, "embed-v4.0"),
        ("/v2/embed", {"inputs": [{"content": [{"type": "image_url", "image_url": {}}]}]}, 400, "inputs[0].content"),
        ("/v2/embed", {"inputs": [{"url": "a"}]}, 400, "inputs[0] is an object"),
        ("/v1/embed", {"texts": [""]}, 400, "texts[0] is empty"),
        ("/v2/rerank", {"query": "q", "documents": [3]}, 400, "documents holds token ids"),
        ("/v2/rerank", {"query": "q", "documents": ["a"], "rank_fields": ["title"]}, 400, "rank_fields"),
    ],
)
async def test_errors_have_coheres_format(
    client: TestClient, path: str, body: dict[str, Any], status: int, words: str
) -> None:
    got, answer = await post(client, path, **body)
    assert got == status
    assert list(answer) == ["message"]
    assert words in answer["message"]


async def test_v2_rerank_has_coheres_format(client: TestClient) -> None:
    status, answer = await post(client, "/v2/rerank", model="ranker", query="q", documents=["bad", "best", "good"], top_n=2)
    assert status == 200
    assert [item["index"] for item in answer["results"]] == [1, 2]
    assert all(set(item) == {"index", "relevance_score"} for item in answer["results"])
    assert "data" not in answer
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    assert answer["meta"] == {**meta, "tokens": {"input_tokens": 9, "output_tokens": 0}}


async def test_a_row_of_zeros_can_be_quantised(client: TestClient, server: Server) -> None:
    server.embedder.row_of = lambda text: np.where(text == "z", 0, fake_row(text)).astype(np.float32)
    _, answer = await post(client, "/v2/embed", texts=["z"], embedding_types=["int8", "uint8", "ubinary"])
    rows = answer["embeddings"]
    assert (rows["int8"], rows["uint8"], rows["ubinary"]) == ([[0] * 16], [[128] * 16], [[0, 0]])
