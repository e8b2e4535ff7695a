"""GET /info for clients of text-embeddings-inference, which fill their requests by its numbers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from aiohttp.test_utils import TestClient

from edgeembed.inference import service
from tests.fakes import CONTEXT_TOKENS
from tests.server.dialect_requests import Server, get, post


async def test_info_describes_the_default_model(aiohttp_client: Callable[..., Awaitable[TestClient]]) -> None:
    status, answer = await get(await aiohttp_client(Server().app), "/info")
    assert status == 200
    assert answer["model_id"] == answer["served_model_name"] == "embedder"
    assert answer["model_type"] == {"embedding": {"pooling": "mean"}}
    assert (answer["max_input_length"], answer["max_client_batch_size"]) == (CONTEXT_TOKENS, 50)
    assert answer["max_batch_tokens"] >= CONTEXT_TOKENS
    assert answer["auto_truncate"] is True
    # TEI promises numbers here.
    assert all(isinstance(answer[name], int) for name in ("max_concurrent_requests", "tokenization_workers"))


async def test_a_request_may_have_what_info_says(
    aiohttp_client: Callable[..., Awaitable[TestClient]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MOST_LISTED_TOKENS", 3 * CONTEXT_TOKENS + 5)
    client = await aiohttp_client(Server().app)
    _, answer = await get(client, "/info")
    assert answer["max_client_batch_size"] == 3
    inputs = [" ".join(["w"] * (CONTEXT_TOKENS - 2))] * 3
    for path in ("/embed", "/tokenize"):
        assert (await post(client, path, inputs=inputs))[0] == 200
