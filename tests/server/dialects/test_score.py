"""POST /score and /v1/score over HTTP, on fake engines: an embedder and a reranker."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient

from tests.server.dialect_requests import LOGITS, Server, post, unit


def relevance(document: str) -> float:
    return float(1 / (1 + np.exp(-LOGITS[document])))


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize(
    "names", [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")]
)
@pytest.mark.parametrize(
    ("one", "other", "pairs"),
    [
        ("q", "good", ["q|good"]),
        ("q", ["good", "bad"], ["q|good", "q|bad"]),
        (["q"], ["good", "bad"], ["q|good", "q|bad"]),
        (["q", "r"], ["good", "bad"], ["q|good", "r|bad"]),
        ({"content": [{"type": "text", "text": "q"}]}, [{"text": "good"}], ["q|good"]),
    ],
)
async def test_pairs_are_scored_in_the_shape_of_vllm(
    client: TestClient, server: Server, path: str, names: tuple[str, str], one: Any, other: Any, pairs: list[str]
) -> None:
    status, answer = await post(client, path, model="ranker", **dict(zip(names, (one, other), strict=True)))
    assert (status, answer["object"], answer["model"]) == (200, "list", "ranker")
    assert [(item["index"], item["object"]) for item in answer["data"]] == [(i, "score") for i in range(len(pairs))]
    expected = [relevance(pair.rpartition("|")[2]) for pair in pairs]
    assert [item["score"] for item in answer["data"]] == pytest.approx(expected)
    assert server.ranker.computed == [f"None|{pair}" for pair in pairs]
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 0


async def test_scores_share_the_cache_with_reranking(client: TestClient) -> None:
    await post(client, "/v1/rerank", query="q", documents=["good", "bad"])
    for texts in ({"text_1": "q", "text_2": ["good", "bad"]}, {"text_1": ["q", "q"], "text_2": ["good", "bad"]}):
        response = await client.post("/score", json={"model": "ranker", **texts})
        assert response.headers["X-Edgeembed-Cache"] == "hit"


async def test_an_embedder_scores_by_the_cosine_of_the_texts_as_they_are(client: TestClient) -> None:
    status, answer = await post(client, "/score", model="embedder", text_1=["a", "b"], text_2=["b", "b"])
    assert status == 200
    found = [item["score"] for item in answer["data"]]
    assert found == pytest.approx([float(unit("a") @ unit("b")), 1.0], abs=1e-6)
    _, answer = await post(client, "/score", model="embedder:cosine", text_1="a", text_2=["b", "b"])
    assert [item["score"] for item in answer["data"]] == pytest.approx([found[0]] * 2)
    response = await client.post("/score", json={"model": "embedder", "text_1": "a", "text_2": "b"})
    assert response.headers["X-Edgeembed-Cache"] == "hit"


async def test_without_a_name_a_reranker_scores(client: TestClient) -> None:
    assert (await post(client, "/score", text_1="q", text_2="good"))[1]["model"] == "ranker"


async def test_logits_and_limits_of_vllm_are_obeyed(client: TestClient, server: Server) -> None:
    _, answer = await post(client, "/score", model="ranker", text_1="q", text_2="good", use_activation=False)
    assert answer["data"][0]["score"] == LOGITS["good"]
    text = " ".join(str(number) for number in range(40))
    status, answer = await post(client, "/score", model="ranker", text_1=["q", "r"], text_2=["good", text])
    assert (status, answer["error"]["param"]) == (400, "text_2[1]")
    assert "see truncate_prompt_tokens" in answer["error"]["message"]
    alone = {"model": "ranker", "text_1": ["q", "r"], "text_2": ["good", text], "truncation_side": "left"}
    assert (await client.post("/score", json=alone)).status == 400, "the side matters only with a limit"
    response = await client.post(
        "/score", json={"model": "ranker", "text_1": ["q", "r"], "text_2": ["good", text], "truncate_prompt_tokens": 5}
    )
    assert (response.status, response.headers["X-Edgeembed-Truncated"]) == (200, "1")
    assert [cut["index"] for cut in (await response.json())["truncated"]] == [1]
    assert server.ranker.computed[-1] == "None|r|0 1 2"


async def test_sglangs_clients_get_a_list_of_scores_for_each_item(client: TestClient) -> None:
    status, answer = await post(client, "/v1/score", model="ranker", query="q", items=["good", "bad"])
    assert (status, answer["object"]) == (200, "scoring")
    assert answer["scores"] == [[pytest.approx(relevance("good"))], [pytest.approx(relevance("bad"))]]


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "text_1", "got none of them"),
        ({"text_1": "q"}, "text_2", "got text_1"),
        ({"queries": "q"}, "documents", "got queries"),
        ({"text_1": "q", "documents": ["a"]}, "queries", "got documents, text_1"),
        ({"text_1": ["q", "r"], "text_2": ["a", "b", "c"]}, "text_1", "one for all, or as many"),
        ({"text_1": "q", "text_2": []}, "text_2", "empty list"),
        ({"text_1": ["q", ""], "text_2": ["a", "b"]}, "text_1[1]", "is empty"),
        ({"text_1": "", "text_2": ["a"]}, "text_1", "is empty"),
        ({"text_1": "q", "text_2": ["a", 7]}, "text_2[1]", "is a number"),
        ({"query": "q", "items": ["a"], "label_token_ids": [1, 2]}, "label_token_ids", "text generators"),
        ({"query": "q", "items": ["a"], "apply_softmax": True}, "apply_softmax", "text generators"),
    ],
)
async def test_bad_input_is_named(client: TestClient, body: dict[str, Any], param: str, words: str) -> None:
    status, answer = await post(client, "/score", model="ranker", **body)
    assert (status, answer["error"]["param"]) == (400, param)
    assert words in answer["error"]["message"]
