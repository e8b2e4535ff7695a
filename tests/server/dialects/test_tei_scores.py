"""Scores in the dialect of text-embeddings-inference over HTTP, on fake engines: an embedder and a reranker."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient

from tests.fakes import fake_row
from tests.server.dialect_requests import CLASSES, LOGITS, post, probabilities


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
    status, answer = await post(client, "/predict", inputs=["which?", "best"], model="ranker")
    assert status == 200
    assert answer == [{"score": pytest.approx(best), "label": "LABEL_0"}]
    pairs = [["which?", "bad"], ["who?", "best"], ["which?", "best"]]
    _, answer = await post(client, "/predict", inputs=pairs, model="ranker")
    assert [prediction["score"] for (prediction,) in answer] == pytest.approx([bad, best, best])
    _, answer = await post(client, "/predict", inputs=pairs[:1], raw_scores=True, model="ranker")
    assert answer[0][0]["score"] == pytest.approx(LOGITS["bad"])


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "words"),
    [
        ("/rerank", {"query": "q", "texts": []}, 400, "Empty", "texts cannot be empty"),
        ("/rerank", {"query": "q", "texts": ["a", None]}, 422, "Validation", "texts[1] is null"),
        ("/rerank", {"query": "q", "texts": ["a"] * 51}, 422, "Validation", "batch size 51 > maximum allowed batch size 50"),
        ("/rerank", {"texts": ["a"]}, 422, "Validation", "query"),
        ("/rerank", {"query": "q", "texts": ["a"], "model": "embedder"}, 424, "Backend", "embedder"),
        ("/predict", {"inputs": "a", "model": "ranker"}, 422, "Validation", "[query, text]"),
        ("/predict", {"inputs": ["a"], "model": "ranker"}, 422, "Validation", "[query, text]"),
        ("/predict", {"inputs": ["a", "b", "c"]}, 422, "Validation", "[query, text]"),
        ("/predict", {"inputs": [["a", "b"], ["c"]], "model": "ranker"}, 422, "Validation", "inputs[1]"),
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


def expected(*texts: str) -> list[dict[str, Any]]:
    """Return the scores of the classifier's labels for a text or a pair, the highest first."""
    scores = probabilities("|".join(("None", *texts)) if len(texts) > 1 else texts[0])
    found = [{"score": pytest.approx(float(scores[at]), abs=1e-6), "label": CLASSES.labels[at]} for at in range(3)]
    return [found[at] for at in np.argsort(-scores)]


async def test_predict_finds_the_classes_of_a_text_or_a_pair(client: TestClient) -> None:
    for inputs, answer in [
        ("I like it", expected("I like it")),
        (["I like it"], expected("I like it")),
        (["It rains.", "It is wet."], expected("It rains.", "It is wet.")),
        (
            [["I like it"], ["It rains.", "It is wet."]],
            [expected("I like it"), expected("It rains.", "It is wet.")],
        ),
    ]:
        assert await post(client, "/predict", inputs=inputs) == (200, answer)
    _, raw = await post(client, "/predict", inputs="I like it", raw_scores=True)
    assert sorted(one["score"] for one in raw) == pytest.approx(sorted(fake_row("I like it", 3).tolist()))


async def test_the_root_classifies_if_the_model_does(client: TestClient) -> None:
    assert await post(client, "/", inputs="I like it", model="judge") == (200, expected("I like it"))
    status, rows = await post(client, "/", inputs="I like it")
    assert (status, len(rows[0])) == (200, 16)


async def test_parameters_are_those_of_the_inference_api(client: TestClient) -> None:
    whole = expected("I like it")
    for parameters, answer in [({}, [whole]), ({"top_k": 1}, [whole[:1]])]:
        assert await post(client, "/", inputs="I like it", parameters=parameters, model="judge") == (200, answer)
    _, (scores,) = await post(client, "/predict", inputs="a", parameters={"function_to_apply": "none"})
    assert sorted(one["score"] for one in scores) == pytest.approx(sorted(fake_row("a", 3).tolist()))
    _, (scores,) = await post(client, "/predict", inputs="a", parameters={"function_to_apply": "sigmoid"})
    sigmoids = 1 / (1 + np.exp(-fake_row("a", 3)))
    assert sorted(one["score"] for one in scores) == pytest.approx(sorted(sigmoids.tolist()))
    status, answer = await post(client, "/predict", inputs="a", parameters={"top_k": 0})
    assert (status, answer["error_type"]) == (422, "Validation") and "parameters.top_k" in answer["error"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/rerank", {"query": "q", "texts": ["a"], "model": "judge"}),
        ("/embed", {"inputs": "a", "model": "judge"}),
        ("/predict", {"inputs": "a", "model": "embedder"}),
    ],
)
async def test_a_model_for_another_task_is_a_failed_dependency(client: TestClient, path: str, body: dict[str, Any]) -> None:
    status, answer = await post(client, path, **body)
    assert (status, answer["error_type"]) == (424, "Backend")
    assert str(body["model"]) in answer["error"]
