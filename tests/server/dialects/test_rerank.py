"""POST /v1/rerank over HTTP: an embedder and a reranker served side by side, on fake engines."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient

from edgeembed.cache import VectorCache
from edgeembed.errors import InputTooLongError
from edgeembed.hub.catalogue import Prompts
from edgeembed.inference.service import EmbeddingService, ServiceOptions
from edgeembed.models.pool import ModelPool, PoolRules
from edgeembed.models.registry import ModelRegistry
from edgeembed.server.app import make_app
from tests.fakes import FakeEngine, fake_model

LOGITS = {"best": 3.0, "good": 1.0, "so-so": -1.0, "bad": -4.0}


def score(text: str) -> np.ndarray:
    return np.array([LOGITS[text.rpartition("|")[2]]], dtype=np.float32)


@pytest.fixture
def ranker() -> FakeEngine:
    engine = FakeEngine()
    engine.row_of, engine.dimensions = score, 1
    return engine


@pytest.fixture
async def client(ranker: FakeEngine, aiohttp_client: Callable[..., Awaitable[TestClient]]) -> TestClient:
    engines = {"embedder": FakeEngine(), "ranker": ranker}
    ranker_model = fake_model("ranker", "rerank", prompts=Prompts(instruction="Find answers"))
    registry = ModelRegistry(fake_model("embedder"), [ranker_model], aliases={"rank": "ranker"})
    pool = ModelPool(lambda model: engines[model.name], PoolRules(budget_bytes=1))
    cache = VectorCache(None, memory_mib=8, disk_mib=0)
    return await aiohttp_client(
        make_app(EmbeddingService(registry, pool, cache, ServiceOptions(timeout=5)), max_request_texts=50)
    )


async def rerank(client: TestClient, **body: Any) -> tuple[int, dict[str, Any]]:
    response = await client.post("/v1/rerank", json=body)
    return response.status, await response.json()


async def test_results_are_sorted_with_scores_from_0_to_1(client: TestClient) -> None:
    documents = ["bad", "best", "so-so", "good"]
    status, answer = await rerank(client, model="ranker", query="which?", documents=documents)
    assert status == 200
    assert answer["model"] == "ranker"
    assert [item["index"] for item in answer["results"]] == [1, 3, 2, 0]
    expected = [1 / (1 + np.exp(-LOGITS[name])) for name in ("best", "good", "so-so", "bad")]
    assert np.allclose([item["relevance_score"] for item in answer["results"]], expected, atol=1e-6)
    assert answer["usage"]["total_tokens"] > 0


async def test_probabilities_are_not_passed_through_a_sigmoid_again(client: TestClient, ranker: FakeEngine) -> None:
    ranker.row_of, ranker.dimensions = (lambda text: np.array([0.9, 0.1], dtype=np.float32)), 2
    _, answer = await rerank(client, query="q", documents=["a"])
    assert np.isclose(answer["results"][0]["relevance_score"], 0.9)


async def test_top_n_and_the_documents_come_back_when_asked_for(client: TestClient) -> None:
    documents = ["bad", {"text": "best"}, {"text": "good", "id": 7}]
    _, answer = await rerank(client, query="q", documents=documents, top_n=2, return_documents=True)
    assert [(item["index"], item["document"]) for item in answer["results"]] == [
        (1, {"text": "best"}),
        (2, {"text": "good"}),
    ]
    _, answer = await rerank(client, query="q", documents=["bad"], top_n=99, model="rank")
    assert len(answer["results"]) == 1


async def test_documents_come_back_by_default_as_objects_and_as_strings(client: TestClient) -> None:
    body = {"model": "ranker", "query": "which?", "documents": ["bad", "best"]}
    _, answer = await rerank(client, **body)
    assert [item["document"] for item in answer["results"]] == [{"text": "best"}, {"text": "bad"}]
    assert [item["document"] for item in answer["data"]] == ["best", "bad"]
    _, answer = await rerank(client, **body, return_documents=False)
    assert not any("document" in item for item in answer["results"] + answer["data"])


async def test_a_reranker_is_described_as_one(client: TestClient) -> None:
    assert (await (await client.get("/v1/models/ranker")).json())["model_type"] == "rerank"
    listed = await (await client.get("/api/v0/models")).json()
    assert {item["id"]: item["type"] for item in listed["data"]}["ranker"] == "reranker"


async def test_scores_are_cached_by_query_document_and_instruction(client: TestClient, ranker: FakeEngine) -> None:
    words = []
    for query, instruction in [("q", None), ("q", None), ("other", None), ("q", "find code")]:
        body = {"query": query, "documents": ["good", "bad"], "instruction": instruction}
        response = await client.post("/v1/rerank", json=body)
        words.append(response.headers["X-Edgeembed-Cache"])
    assert words == ["miss", "hit", "miss", "miss"]
    assert ranker.computed[-2:] == ["find code|q|good", "find code|q|bad"]


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"query": "q"}, "documents", "missing required field"),
        ({"documents": ["a"]}, "query", "missing required field"),
        ({"query": "q", "documents": []}, "documents", "empty list"),
        ({"query": "q", "documents": ["good", 7]}, "documents[1]", "documents[1] is a number"),
        ({"query": "q", "documents": [{"title": "x"}]}, "documents[0]", "under 'text'"),
        ({"query": "q", "documents": ["good", ""]}, "documents[1]", "is empty"),
        ({"query": "", "documents": ["good"]}, "query", "is empty"),
        ({"query": "q", "documents": ["good"], "top_n": -1}, "top_n", "0 (all) or more"),
        ({"query": "q", "documents": ["good"], "max_tokens_per_doc": -1}, "max_tokens_per_doc", "at least 1"),
        ({"query": "q", "documents": ["good"], "truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "at least 1"),
        ({"query": "q", "documents": ["good"], "max_tokens_per_query": 5}, "max_tokens_per_query", "not supported"),
        ({"query": "q", "documents": ["good"], "truncate": "middle"}, "truncate", "unknown"),
        ({"query": "q", "documents": ["good"], "truncate": "end", "truncation": False}, "truncation", "contradict"),
        (
            {"query": "q", "documents": ["good"], "truncate": "end", "truncation_side": "left"},
            "truncation_side",
            "contradict",
        ),
        ({"query": "q", "documents": ["good"], "instruction": "a", "instruct": "b"}, "instruct", "contradict"),
        ({"query": "q", "documents": ["good"], "rank_fields": ["title"]}, "rank_fields", "only the field 'text'"),
        (
            {"query": "q", "documents": [{"content": [{"type": "image_url", "image_url": "x"}]}]},
            "documents[0].content[0]",
            "image",
        ),
        ({"query": "q", "documents": ["good"] * 51}, "documents", "at most 50"),
        ({"query": 5, "documents": ["good"]}, "query", "query is a number; expected a string"),
        ({"query": "q", "documents": ["good"], "model": "embedder"}, "model", "'embedder:cosine' ranks them"),
    ],
)
async def test_bad_input_is_named(client: TestClient, body: dict[str, Any], param: str, says: str) -> None:
    status, answer = await rerank(client, **body)
    assert status == 400
    assert answer["error"]["param"] == param
    assert says in answer["error"]["message"]


async def test_a_reranker_cannot_embed(client: TestClient) -> None:
    response = await client.post("/v1/embeddings", json={"input": "x", "model": "ranker"})
    error = (await response.json())["error"]
    assert (response.status, error["code"]) == (400, "wrong_task")
    assert "/v1/rerank" in error["message"]


async def test_a_document_that_is_too_long_is_named(client: TestClient, ranker: FakeEngine) -> None:
    ranker.failing = lambda text: InputTooLongError("", tokens=99, limit=20) if "good" in text else None
    status, answer = await rerank(client, query="q", documents=["bad", "good"], truncate=False)
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, "documents[1]", "context_length_exceeded")


async def test_the_status_has_each_loaded_model(client: TestClient) -> None:
    await rerank(client, query="q", documents=["good", "bad"])
    status = await (await client.get("/v1/status")).json()
    models = {model["name"]: model for model in status["models"]}
    assert set(models) == {"embedder", "ranker"}
    assert (models["embedder"]["default"], models["embedder"]["requests"]) == (True, 0)
    ranked = models["ranker"]
    assert (ranked["state"], ranked["task"], ranked["requests"], ranked["texts"]) == ("ready", "rerank", 1, 2)
    assert ranked["active"] == 0 and ranked["idle_seconds"] >= 0
