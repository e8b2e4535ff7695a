"""Scores in the dialect of text-embeddings-inference over HTTP, on fake engines: an embedder and a reranker."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient

from tests.server.dialect_requests import LOGITS, post


@pytest.mark.parametrize("path", ["/rerank", "/"])
async def test_rerank_with_texts_is_in_teis_dialect(client: TestClient, path: str) -> None:
    texts = ["bad", "best", "so-so"]
    status, ranks = await post(client, path, query="which?", texts=texts)
    assert status == 200
    assert [list(rank) for rank in ranks] == [["index", "score"]] * 3
    assert [rank["index"] for rank in ranks] == [1, 2, 0]
    expected = [1 / (1 + np.exp(-LOGITS[name])) for name in ("best", "so-so", "bad")]
    assert np.allclose([rank["score"] for rank in ranks], expected)
    _, ranks = await post(client, path, query="which?", texts=texts, raw_scores=True, return_text=True)
    assert np.allclose([rank["score"] for rank in ranks], [LOGITS[name] for name in ("best", "so-so", "bad")])
    assert [rank["text"] for rank in ranks] == ["best", "so-so", "bad"]


async def test_rerank_with_documents_stays_in_jinas_dialect(client: TestClient) -> None:
    status, answer = await post(client, "/rerank", query="q", documents=["bad", "best"])
    assert status == 200
    assert [item["index"] for item in answer["results"]] == [1, 0]
    status, answer = await post(client, "/rerank", query="q", documents=["bad", 7])
    assert (status, answer["error"]["param"]) == (400, "documents[1]")


async def test_predict_scores_a_pair_or_each_pair_of_a_list(client: TestClient) -> None:
    best, bad = (1 / (1 + np.exp(-LOGITS[name])) for name in ("best", "bad"))
    status, answer = await post(client, "/predict", inputs=["which?", "best"])
    assert status == 200
    assert answer == [{"score": pytest.approx(best), "label": "LABEL_0"}]
    pairs = [["which?", "bad"], ["who?", "best"], ["which?", "best"]]
    _, answer = await post(client, "/predict", inputs=pairs)
    assert [prediction["score"] for (prediction,) in answer] == pytest.approx([bad, best, best])
    _, answer = await post(client, "/predict", inputs=pairs[:1], raw_scores=True)
    assert answer[0][0]["score"] == pytest.approx(LOGITS["bad"])


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "words"),
    [
        ("/rerank", {"query": "q", "texts": []}, 400, "Empty", "texts cannot be empty"),
        ("/rerank", {"query": "q", "texts": ["a", None]}, 422, "Validation", "texts[1] is null"),
        ("/rerank", {"query": "q", "texts": ["a"] * 51}, 422, "Validation", "batch size 51 > maximum allowed batch size 50"),
        ("/rerank", {"texts": ["a"]}, 422, "Validation", "query"),
        ("/rerank", {"query": "q", "texts": ["a"], "model": "embedder"}, 424, "Backend", "embedder"),
        ("/predict", {"inputs": "a"}, 422, "Validation", "[query, text]"),
        ("/predict", {"inputs": ["a"]}, 422, "Validation", "[query, text]"),
        ("/predict", {"inputs": ["a", "b", "c"]}, 422, "Validation", "[query, text]"),
        ("/predict", {"inputs": [["a", "b"], ["c"]]}, 422, "Validation", "inputs[1]"),
        ("/predict", {"inputs": [["a", "b"], "c"]}, 422, "Validation", "inputs[1] is a string"),
        ("/predict", {"inputs": [["a", ""]]}, 400, "Empty", "inputs[0]"),
        ("/predict", {"inputs": []}, 400, "Empty", "inputs cannot be empty"),
        ("/predict", {"inputs": ["a", "b"], "model": "embedder"}, 424, "Backend", "embedder"),
    ],
)
async def test_errors_have_teis_format_and_statuses(
    client: TestClient, path: str, body: dict[str, Any], status: int, kind: str, words: str
) -> None:
    got, answer = await post(client, path, **body)
    assert (got, answer["error_type"]) == (status, kind)
    assert words in answer["error"]
