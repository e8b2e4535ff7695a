"""POST /classify and /v1/classify over HTTP, on fake engines: the forms of vLLM, SGLang and infinity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient

from tests.fakes import fake_row
from tests.server.dialect_requests import CLASSES, Server, get, post, probabilities

TEXTS = ["I like it", "It broke on the first day"]


@pytest.mark.parametrize("path", ["/classify", "/v1/classify"])
async def test_the_answer_has_the_most_probable_label_and_all_probabilities(client: TestClient, path: str) -> None:
    status, answer = await post(client, path, input=TEXTS, model="judge")
    assert status == 200
    assert (answer["object"], answer["model"]) == ("list", "judge")
    assert answer["id"].startswith("classify-") and answer["created"] > 0
    for index, (item, text) in enumerate(zip(answer["data"], TEXTS, strict=True)):
        expected = probabilities(text)
        assert item["probs"] == pytest.approx(expected.tolist(), abs=1e-6)
        assert (item["index"], item["num_classes"]) == (index, 3)
        assert item["label"] == CLASSES.labels[int(expected.argmax())]
    tokens = sum(len(text.split()) + 2 for text in TEXTS)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}


@pytest.mark.parametrize("field", ["use_activation", "activation", "softmax"])
async def test_logits_on_request(client: TestClient, field: str) -> None:
    _, answer = await post(client, "/classify", input="I like it", **{field: False})
    assert answer["data"][0]["probs"] == pytest.approx(fake_row("I like it", 3).tolist())
    _, answer = await post(client, "/classify", input="I like it", **{field: True})
    assert sum(answer["data"][0]["probs"]) == pytest.approx(1)


@pytest.mark.parametrize("raw", [True, False])
async def test_raw_scores_asks_for_the_answer_of_infinity(client: TestClient, raw: bool) -> None:
    status, answer = await post(client, "/classify", input=TEXTS, model="judge", raw_scores=raw)
    assert (status, answer["object"]) == (200, "classify")
    for scores, text in zip(answer["data"], TEXTS, strict=True):
        expected = fake_row(text, 3) if raw else probabilities(text)
        order = np.argsort(-expected)
        assert [one["label"] for one in scores] == [CLASSES.labels[at] for at in order]
        assert [one["score"] for one in scores] == pytest.approx([float(expected[at]) for at in order], abs=1e-6)


async def test_pairs_and_texts_may_be_mixed(client: TestClient) -> None:
    _, answer = await post(client, "/classify", input=["alone", ["It rains.", "It is wet."]])
    alone, pair = answer["data"]
    assert alone["probs"] == pytest.approx(probabilities("alone").tolist(), abs=1e-6)
    assert pair["probs"] == pytest.approx(probabilities("None|It rains.|It is wet.").tolist(), abs=1e-6)


async def test_token_ids_are_those_of_the_model(client: TestClient, server: Server) -> None:
    _, one = await post(client, "/classify", input=[7, 8])
    _, two = await post(client, "/classify", input=[[7, 8], [9]])
    assert server.judge.computed == ["7 8", "9"]
    assert one["data"][0]["probs"] == two["data"][0]["probs"] == pytest.approx(probabilities("7 8").tolist(), abs=1e-6)


async def test_rows_in_the_cache_are_logits(client: TestClient, server: Server) -> None:
    await post(client, "/classify", input="I like it")
    response = await client.post("/classify", json={"input": "I like it", "use_activation": False})
    assert response.headers["X-Edgeembed-Cache"] == "hit"
    assert (await response.json())["data"][0]["probs"] == pytest.approx(fake_row("I like it", 3).tolist())
    response = await client.post("/classify", json={"input": [["I like it", "I like it"]]})
    assert response.headers["X-Edgeembed-Cache"] == "miss"
    assert server.judge.computed == ["I like it", "None|I like it|I like it"]


async def test_long_texts_are_refused_or_cut(client: TestClient) -> None:
    long = " ".join(["word"] * 30)
    status, answer = await post(client, "/classify", input=["short", long])
    assert (status, answer["error"]["param"]) == (400, "input[1]")
    for fields, kept in [({"truncate": "end"}, 18), ({"truncate_prompt_tokens": 5}, 3)]:
        status, answer = await post(client, "/classify", input=["short", long], **fields)
        assert status == 200
        assert answer["truncated"] == [{"index": 1, "tokens": kept + 2, "full_tokens": 32}]


@pytest.mark.parametrize(
    ("body", "status", "param", "words"),
    [
        ({}, 400, "input", "input is missing"),
        ({"messages": [{"role": "user", "content": "a"}]}, 400, "messages", "messages"),
        ({"input": []}, 400, "input", "empty list"),
        ({"input": ["a", ""]}, 400, "input[1]", "empty"),
        ({"input": ["a", ["b", ""]]}, 400, "input[1]", "empty"),
        ({"input": ["a", 7]}, 400, "input[1]", "is a number"),
        ({"input": ["a", ["b", "c", "d"]]}, 400, "input[1]", "two texts"),
        ({"input": "a", "model": "embedder"}, 400, "model", "makes vectors"),
        ({"input": "a", "model": "ranker"}, 400, "model", "scores documents"),
        ({"input": "a", "model": "unknown"}, 404, "model", "unknown"),
        ({"input": "a", "dimensions": 3}, 400, "dimensions", "dimensions"),
    ],
)
async def test_errors_name_the_field(client: TestClient, body: dict[str, Any], status: int, param: str, words: str) -> None:
    got, answer = await post(client, "/classify", **body)
    assert (got, answer["error"]["param"]) == (status, param)
    assert words in answer["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "a"}),
        ("/v1/rerank", {"query": "q", "documents": ["a"]}),
        ("/score", {"text_1": "q", "text_2": ["a"]}),
        ("/v1/score", {"queries": "q", "documents": ["a"]}),
    ],
)
async def test_a_classifier_is_refused_where_vectors_or_scores_are_asked_for(
    client: TestClient, path: str, body: dict[str, Any]
) -> None:
    status, answer = await post(client, path, model="judge", **body)
    assert (status, answer["error"]["param"]) == (400, "model")
    assert "POST /classify" in answer["error"]["message"]


async def test_lists_of_models_name_the_labels(client: TestClient) -> None:
    listed = {item["id"]: item for item in (await get(client, "/v1/models"))[1]["data"]}
    assert (listed["judge"]["task"], listed["judge"]["labels"]) == ("classify", [*CLASSES.labels])
    assert "labels" not in listed["embedder"]
    kinds = {item["id"]: item["type"] for item in (await get(client, "/api/v0/models"))[1]["data"]}
    assert (kinds["judge"], kinds["ranker"]) == ("classifier", "reranker")
