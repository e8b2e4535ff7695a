"""Reranking as the clients of each dialect meet it, on fake engines: fields, shapes, lengths, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient

from tests.fakes import CONTEXT_TOKENS
from tests.server.dialect_requests import LOGITS, Server, post, unit

DOCUMENTS = ["bad", "best", "so-so", "good"]
BEST_FIRST = [1, 3, 2, 0]
JINA, COHERE, TEI = "/v1/rerank", "/v2/rerank", "/rerank"


def relevance(document: str) -> float:
    return float(1 / (1 + np.exp(-LOGITS[document])))


@pytest.mark.parametrize("path", [JINA, COHERE, TEI])
async def test_every_path_gives_the_same_scores(client: TestClient, path: str) -> None:
    _, answer = await post(client, path, query="q", documents=DOCUMENTS)
    _, ranks = await post(client, path, query="q", texts=DOCUMENTS)
    found = {item["index"]: item["relevance_score"] for item in answer["results"]}
    assert [item["index"] for item in answer["results"]] == BEST_FIRST == [rank["index"] for rank in ranks]
    assert found == {rank["index"]: rank["score"] for rank in ranks}
    assert [found[index] for index in range(4)] == pytest.approx([relevance(document) for document in DOCUMENTS])


@pytest.mark.parametrize(
    ("how", "returned"),
    [
        ({}, 4),
        ({"top_n": None}, 4),
        ({"top_n": 0}, 4),
        ({"top_n": 2}, 2),
        ({"top_n": 99}, 4),
        ({"top_k": 0}, 4),
        ({"top_k": 3}, 3),
        ({"top_k": None, "truncation": True}, 4),
        ({"top_n": 2, "top_k": 3}, 2),
    ],
)
async def test_top_n_0_and_null_mean_all(client: TestClient, how: dict[str, Any], returned: int) -> None:
    for path in (JINA, COHERE, TEI):
        status, answer = await post(client, path, query="q", documents=DOCUMENTS, **how)
        assert (status, [item["index"] for item in answer["results"]]) == (200, BEST_FIRST[:returned])
    if "top_k" not in how:
        assert len((await post(client, TEI, query="q", texts=DOCUMENTS, **how))[1]) == returned


@pytest.mark.parametrize("how", [{"top_n": -1}, {"top_k": -1}, {"top_n": 2, "top_k": -1}])
async def test_a_negative_number_of_results_is_refused(client: TestClient, how: dict[str, Any]) -> None:
    assert (await post(client, JINA, query="q", documents=DOCUMENTS, **how))[0] == 400


async def test_voyages_clients_find_data_and_detail(client: TestClient) -> None:
    status, answer = await post(client, JINA, model="ranker", query="q", documents=DOCUMENTS, top_k=2, truncation=True)
    assert (status, answer["object"]) == (200, "list")
    assert [(item["index"], item["relevance_score"]) for item in answer["data"]] == [
        (index, pytest.approx(relevance(DOCUMENTS[index]))) for index in BEST_FIRST[:2]
    ]
    assert answer["usage"]["total_tokens"] > 0
    # LiteLLM's provider for Voyage sends no field of Voyage's own.
    _, answer = await post(client, JINA, query="q", documents=["good"], return_documents=True)
    assert answer["data"][0]["document"] == "good"
    status, answer = await post(client, JINA, model="none", query="q", documents=DOCUMENTS, top_k=2)
    assert (status, answer["detail"]) == (404, answer["error"]["message"])


@pytest.mark.parametrize(
    ("path", "more", "document"),
    [
        (JINA, {}, {"text": "good"}),  # Jina and vLLM return them by default
        (JINA, {"return_documents": True}, {"text": "good"}),
        (JINA, {"return_documents": "true"}, {"text": "good"}),  # RAGFlow's client for Xinference
        (JINA, {"return_documents": False}, None),
        (TEI, {}, {"text": "good"}),
        (TEI, {"return_documents": False}, None),
        (TEI, {"return_documents": True}, "good"),  # the only other server with this path and this field is infinity
        (COHERE, {}, None),
        (COHERE, {"return_documents": True}, {"text": "good"}),
        (TEI, {"raw_scores": False, "return_documents": True}, "good"),  # infinity's client
        (TEI, {"raw_scores": False}, None),
    ],
)
async def test_documents_are_returned_as_the_dialect_does(
    client: TestClient, path: str, more: dict[str, Any], document: Any
) -> None:
    _, answer = await post(client, path, query="q", documents=["good"], **more)
    assert answer["results"][0].get("document") == document
    assert answer["object"] == ("rerank" if path == "/rerank" else "list")


async def test_litellm_gets_no_document_where_its_providers_want_different_ones(client: TestClient) -> None:
    body = {"model": "ranker", "query": "q", "documents": ["good"], "return_documents": True}
    for path, found in (("/rerank", None), ("/v1/rerank", {"text": "good"})):
        response = await client.post(path, json=body, headers={"User-Agent": "litellm/1.110.2"})
        (item,) = (await response.json())["results"]
        assert item.get("document") == found


@pytest.mark.parametrize("field", [{"raw_scores": True}, {"use_activation": False}, {"activation": False}])
async def test_logits_are_returned_if_asked_for(client: TestClient, server: Server, field: dict[str, Any]) -> None:
    server.ranker.row_of = lambda text: np.array([{"a": 40.0, "b": 50.0, "c": -60.0}[text[-1]]], dtype=np.float32)
    _, answer = await post(client, JINA, query="q", documents=["a", "b", "c"], **field)
    assert [(item["index"], item["relevance_score"]) for item in answer["results"]] == [(1, 50.0), (0, 40.0), (2, -60.0)]
    _, answer = await post(client, JINA, query="q", documents=["a", "b", "c"])
    assert [item["index"] for item in answer["results"]] == [1, 0, 2], "sorted by logits, where scores are equal"


async def test_logits_of_two_labels_are_their_difference(client: TestClient, server: Server) -> None:
    server.ranker.row_of, server.ranker.dimensions = (lambda text: np.array([0.75, 0.25], dtype=np.float32)), 2
    _, answer = await post(client, TEI, query="q", texts=["a"], raw_scores=True)
    assert answer[0]["score"] == pytest.approx(np.log(3))


FORMS = [
    "good",
    {"text": "good", "id": 7},
    {"content": "good"},
    {"content": [{"type": "text", "text": "good"}]},
    {"role": "user", "content": [{"type": "text", "text": "good"}]},
    [{"type": "text", "text": "good"}],
]


@pytest.mark.parametrize("form", FORMS)
async def test_a_document_has_many_forms(client: TestClient, server: Server, form: Any) -> None:
    assert (await post(client, JINA, query="q", documents=[form, "bad"]))[0] == 200
    assert server.ranker.computed == ["None|q|good", "None|q|bad"]
    assert (await post(client, JINA, query=form, documents="best"))[0] == 200
    assert server.ranker.computed[2:] == ["None|good|best"]


WORDS = [str(number) for number in range(40)]
LONG = " ".join(WORDS)
PAIR = CONTEXT_TOKENS - 2
"""Words of a pair that is cut to what the model takes."""


@pytest.mark.parametrize(
    ("path", "field", "more"),
    [(path, "documents", {}) for path in (JINA, COHERE, TEI)]
    + [(path, "texts", {}) for path in (JINA, COHERE, TEI, "/")]
    + [
        (JINA, "documents", {"truncation": True}),
        (JINA, "documents", {"truncate": "END"}),
        (TEI, "texts", {"truncate": True}),
    ],
)
async def test_a_long_document_is_cut_and_the_others_are_not(
    client: TestClient, server: Server, path: str, field: str, more: dict[str, Any]
) -> None:
    response = await client.post(path, json={"query": "q", field: ["good", LONG, "bad"], **more})
    assert (response.status, response.headers["X-Edgeembed-Truncated"]) == (200, "1")
    assert server.ranker.computed == ["None|q|good", f"None|q|{' '.join(WORDS[:PAIR])}", "None|q|bad"]
    answer = await response.json()
    if field == "documents":
        assert answer["truncated"] == [{"index": 1, "tokens": CONTEXT_TOKENS, "full_tokens": len(WORDS) + 2}]
        assert answer["meta"]["warnings"] == [f"document 1 with its query was cut to {CONTEXT_TOKENS} of their 42 tokens"]


async def test_a_long_query_is_cut_to_half(client: TestClient, server: Server) -> None:
    assert (await post(client, JINA, query=LONG, documents=["good", LONG]))[0] == 200
    half = " ".join(WORDS[: PAIR // 2])
    assert [pair.rpartition("|")[0] for pair in server.ranker.computed] == [
        f"None|{' '.join(WORDS[: PAIR - 1])}",
        f"None|{half}",
    ]


@pytest.mark.parametrize(
    ("path", "field", "more", "status"),
    [
        (JINA, "documents", {"truncation": False}, 400),
        (JINA, "documents", {"truncation": False, "truncation_side": "left"}, 400),
        (JINA, "documents", {"truncate": "NONE"}, 400),
        (TEI, "texts", {"truncate": False}, 422),
    ],
)
async def test_what_is_too_long_is_refused_if_cutting_is_not_wanted(
    client: TestClient, path: str, field: str, more: dict[str, Any], status: int
) -> None:
    found, answer = await post(client, path, query="q", **{field: ["good", LONG]}, **more)
    assert found == status
    assert f"{field}[1]" in str(answer)
    assert (await post(client, path, query="q", **{field: ["good"]}, **more))[0] == 200


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ({"truncate_prompt_tokens": 7}, "0 1 2 3 4"),
        ({"truncate_prompt_tokens": 7, "truncation_side": "right"}, "0 1 2 3 4"),
        ({"truncate_prompt_tokens": 7, "truncation_side": "left"}, "35 36 37 38 39"),
        ({"truncate_prompt_tokens": -1}, " ".join(WORDS[:PAIR])),
        ({"max_tokens_per_doc": 3}, "0 1 2"),
        ({"max_tokens_per_doc": 0}, " ".join(WORDS[:PAIR])),
        ({"truncate": "START"}, " ".join(WORDS[-PAIR:])),
    ],
)
async def test_limits_of_vllm_and_cohere_are_obeyed(
    client: TestClient, server: Server, more: dict[str, Any], kept: str
) -> None:
    assert (await post(client, JINA, query="q", documents=[LONG], **more))[0] == 200
    assert server.ranker.computed == [f"None|q|{kept}"]


async def test_the_cache_knows_how_long_a_cut_document_was(client: TestClient) -> None:
    cuts = []
    for found in ("miss", "hit"):
        response = await client.post(JINA, json={"query": "q", "documents": ["good and more"], "max_tokens_per_doc": 1})
        assert response.headers["X-Edgeembed-Cache"] == found
        answer = await response.json()
        cuts.append(answer["truncated"])
        assert answer["usage"]["total_tokens"] == cuts[0][0]["tokens"] == 3
    assert cuts[0] == cuts[1] == [{"index": 0, "tokens": 3, "full_tokens": 5}]


async def test_an_instruction_is_refused_for_a_model_that_takes_none(client: TestClient, server: Server) -> None:
    for field in ("instruction", "instruct"):
        assert (await post(client, JINA, query="q", documents=["good"], **{field: f"by {field}"}))[0] == 200
    assert (await post(client, JINA, query="q", documents=["good"], instruction=""))[0] == 200
    assert server.ranker.computed == ["by instruction|q|good", "by instruct|q|good", "|q|good"]
    model = server.registry.models[1]
    object.__setattr__(model, "prompts", None)
    status, answer = await post(client, JINA, query="q", documents=["good"], instruction="find code")
    assert (status, answer["error"]["param"]) == (400, "instruction")
    assert (await post(client, JINA, query="q", documents=["good"], instruction=""))[0] == 200


# --- embedders --------------------------------------------------------------------------------------------------------


async def test_an_embedder_ranks_by_cosine_if_its_name_says_so(client: TestClient) -> None:
    status, answer = await post(client, JINA, model="embedder:cosine", query="a", documents=["b", "a", "c"])
    expected = [float(unit("Q: a") @ unit(f"D: {text}")) for text in ("b", "a", "c")]
    assert status == 200
    found = {item["index"]: item["relevance_score"] for item in answer["results"]}
    assert [found[index] for index in range(3)] == pytest.approx(expected, abs=1e-6)
    assert [item["index"] for item in answer["results"]] == sorted(range(3), key=lambda index: -expected[index])
    _, ranks = await post(client, TEI, model="embedder:cosine", query="a", texts=["b", "a", "c"])
    assert {rank["index"]: rank["score"] for rank in ranks} == found
    status, answer = await post(client, JINA, model="embedder", query="a", documents=["b"])
    assert (status, answer["error"]["code"]) == (400, "wrong_task")
    assert "'embedder:cosine'" in answer["error"]["message"]
    assert (await post(client, JINA, model="ranker:cosine", query="a", documents=["b"]))[0] == 404


async def test_long_texts_are_cut_for_an_embedder_too(client: TestClient, server: Server) -> None:
    how = {"model": "embedder:cosine", "query": "a", "documents": ["b", LONG]}
    response = await client.post(JINA, json=how)
    assert (response.status, response.headers["X-Edgeembed-Truncated"]) == (200, "1")
    assert (await response.json())["truncated"][0]["index"] == 1
    assert (await client.post(JINA, json={**how, "truncate": False})).status == 400
    assert (await client.post(JINA, json={**how, "instruction": "find"})).status == 400
    assert (await client.post(JINA, json={**how, "query": LONG})).headers["X-Edgeembed-Truncated"] == "2"
