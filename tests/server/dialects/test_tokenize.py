"""POST /v1/tokenize over HTTP, on a fake engine whose tokens are words."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from tests.fakes import CONTEXT_TOKENS
from tests.server.dialect_requests import Server, post


async def test_tokens_are_counted_without_embedding(client: TestClient, server: Server) -> None:
    status, answer = await post(client, "/v1/tokenize", input=["two words", "one", ""])
    assert status == 200
    assert answer["data"] == [{"index": 0, "tokens": 4}, {"index": 1, "tokens": 3}, {"index": 2, "tokens": 2}]
    assert (answer["total_tokens"], answer["context_tokens"], answer["model"]) == (9, CONTEXT_TOKENS, "embedder")
    assert server.embedder.computed == []


async def test_the_count_is_the_same_as_when_embedding(client: TestClient) -> None:
    for more in ({}, {"input_type": "query"}, {"model": "embedder:document"}):
        _, counted = await post(client, "/v1/tokenize", input="a few words here", **more)
        _, embedded = await post(client, "/v1/embeddings", input="a few words here", **more)
        assert counted["total_tokens"] == embedded["usage"]["total_tokens"]


async def test_a_text_that_is_too_long_to_embed_can_be_counted(client: TestClient) -> None:
    _, answer = await post(client, "/v1/tokenize", input="w " * 1000)
    assert answer["data"][0]["tokens"] == 1002 > answer["context_tokens"]


async def test_ids_are_returned_on_request(client: TestClient) -> None:
    _, answer = await post(client, "/v1/tokenize", input="two words", ids=True)
    assert answer["data"] == [{"index": 0, "tokens": 4, "ids": [0, 13, 15, 1]}]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"input": ["a", 3]}, 400, "input[1]"),
        ({"input": "a", "ids": "yes"}, 400, "ids"),
        ({"input": "a", "input_type": "passage"}, 400, "input_type"),
        ({"input": "a", "model": "other"}, 404, "model"),
        ({"input": "a", "model": "ranker"}, 400, "model"),
    ],
)
async def test_bad_input_is_named(client: TestClient, body: dict[str, Any], status: int, param: str) -> None:
    got, answer = await post(client, "/v1/tokenize", **body)
    assert (got, answer["error"]["param"]) == (status, param)
