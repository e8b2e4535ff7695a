"""The routes of text-embeddings-inference over HTTP, on fake engines: an embedder and a reranker."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from aiohttp.test_utils import TestClient

from edgeembed.errors import BadVectorError, EngineUnavailableError
from edgeembed.inference.requests import EmbedRequest, EmbedResult
from edgeembed.inference.service import EmbeddingService
from tests.fakes import CONTEXT_TOKENS, DIMENSIONS, fake_row
from tests.server.dialect_requests import LOGITS, Server, get, post, unit


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def client(server: Server, aiohttp_client: Callable[..., Awaitable[TestClient]]) -> TestClient:
    return await aiohttp_client(server.app)


@pytest.mark.parametrize("path", ["/embed", "/"])
async def test_embed_returns_a_bare_list_of_unit_rows(client: TestClient, path: str) -> None:
    status, rows = await post(client, path, inputs=["two words", "one"])
    assert status == 200
    assert np.allclose(rows, [unit("two words"), unit("one")], atol=1e-6)
    _, rows = await post(client, path, inputs="one", normalize=True, truncate=False, truncation_direction="Right")
    assert np.allclose(rows, [unit("one")], atol=1e-6)


async def test_rows_can_be_raw_and_short(client: TestClient) -> None:
    _, rows = await post(client, "/embed", inputs=["a"], normalize=False)
    assert np.allclose(rows, [fake_row("a")], atol=1e-5)
    _, rows = await post(client, "/embed", inputs=["a"], normalize=False, dimensions=3)
    assert np.allclose(rows, [fake_row("a")[:3]], atol=1e-5)
    _, rows = await post(client, "/embed", inputs=["a"], dimensions=3)
    assert np.allclose(rows, [unit("a", 3)], atol=1e-6)


async def test_prompt_names_are_the_models_prompts(client: TestClient, server: Server) -> None:
    for name in ("query", "document", "passage"):
        await post(client, "/embed", inputs="a", prompt_name=name)
    assert server.embedder.computed == ["Q: a", "D: a"], "a passage is a document, and cached as one"


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


@pytest.mark.parametrize("path", ["/similarity", "/"])
async def test_similarity_returns_the_cosine_of_each_sentence(client: TestClient, server: Server, path: str) -> None:
    inputs = {"source_sentence": "a", "sentences": ["a", "b", "c"]}
    status, cosines = await post(client, path, inputs=inputs)
    assert status == 200
    assert np.allclose(cosines, [1.0, unit("a") @ unit("b"), unit("a") @ unit("c")], atol=1e-6)
    assert sorted(server.embedder.computed) == ["a", "b", "c"], "equal texts are computed once"
    _, cosines = await post(client, path, inputs=inputs, parameters={"prompt_name": "query"})
    assert np.allclose(cosines, [1.0, unit("Q: a") @ unit("Q: b"), unit("Q: a") @ unit("Q: c")], atol=1e-6)
    assert all(-1 <= cosine <= 1 for cosine in cosines)


async def test_vectors_of_two_model_files_are_not_compared(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    embed, digests = EmbeddingService.embed, iter(("one", "two"))

    async def replaced(service: EmbeddingService, request: EmbedRequest) -> EmbedResult:
        result = await embed(service, request)
        return msgspec.structs.replace(result, model=dataclasses.replace(result.model, digest=next(digests)))

    monkeypatch.setattr(EmbeddingService, "embed", replaced)
    status, answer = await post(client, "/similarity", inputs={"source_sentence": "a", "sentences": ["a"]})
    assert status == 503 and "was replaced meanwhile" in answer["error"]


async def test_info_describes_the_default_model(client: TestClient) -> None:
    status, answer = await get(client, "/info")
    assert status == 200
    assert answer["model_id"] == "embedder"
    assert answer["model_type"] == {"embedding": {"pooling": "mean"}}
    assert (answer["max_input_length"], answer["max_client_batch_size"]) == (CONTEXT_TOKENS, 50)
    assert answer["auto_truncate"] is False


async def test_tokenize_returns_the_models_tokens(client: TestClient) -> None:
    status, answer = await post(client, "/tokenize", inputs=["two words", ""])
    assert status == 200
    assert [[(token["id"], token["text"], token["special"]) for token in text] for text in answer] == [
        [(0, "[CLS]", True), (13, "two", False), (15, "words", False), (1, "[SEP]", True)],
        [(0, "[CLS]", True), (1, "[SEP]", True)],
    ]
    _, answer = await post(client, "/tokenize", inputs="two", add_special_tokens=False, prompt_name="query")
    assert [token["text"] for token in answer[0]] == ["Q:", "two"]


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "words"),
    [
        ("/embed", {}, 422, "Validation", "inputs"),
        ("/embed", {"inputs": []}, 422, "Validation", "empty list"),
        ("/embed", {"inputs": ""}, 400, "Empty", "inputs is empty"),
        ("/embed", {"inputs": ["a", ""]}, 400, "Empty", "inputs[1]"),
        ("/embed", {"inputs": [1, 2]}, 422, "Validation", "token ids"),
        ("/embed", {"inputs": [[1, 2]]}, 422, "Validation", "token ids"),
        ("/embed", {"inputs": ["a"] * 51}, 422, "Validation", "at most 50"),
        ("/embed", {"inputs": "w " * 30}, 422, "Validation", "length is 20 tokens"),
        ("/embed", {"inputs": "a", "prompt_name": "x"}, 422, "Validation", "one of query, document, passage"),
        ("/embed", {"inputs": "a", "truncation_direction": "up"}, 422, "Validation", "Left, Right"),
        ("/embed", {"inputs": "a", "dimensions": 99}, 422, "Validation", "between 1 and 16"),
        ("/embed", {"inputs": "a", "model": "other"}, 404, "Validation", "no model 'other'"),
        ("/embed", {"inputs": "a", "model": "ranker"}, 424, "Backend", "/v1/rerank"),
        ("/rerank", {"query": "q", "texts": []}, 422, "Validation", "empty list"),
        ("/rerank", {"query": "q", "texts": ["a", None]}, 422, "Validation", "texts[1] is null"),
        ("/rerank", {"texts": ["a"]}, 422, "Validation", "query"),
        ("/similarity", {"inputs": {"source_sentence": "a"}}, 422, "Validation", "sentences"),
        ("/similarity", {"inputs": {"source_sentence": "", "sentences": ["a"]}}, 400, "Empty", "inputs.source_sentence"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["a", ""]}}, 400, "Empty", "inputs.sentences[1]"),
        (
            "/similarity",
            {"inputs": {"source_sentence": "a", "sentences": ["a"]}, "parameters": {"prompt_name": "x"}},
            422,
            "Validation",
            "parameters.prompt_name",
        ),
        ("/", {}, 422, "Validation", "inputs"),
        ("/tokenize", {"inputs": 3}, 422, "Validation", "inputs"),
    ],
)
async def test_errors_have_teis_format_and_statuses(
    client: TestClient, path: str, body: dict[str, Any], status: int, kind: str, words: str
) -> None:
    got, answer = await post(client, path, **body)
    assert (got, answer["error_type"]) == (status, kind)
    assert set(answer) == {"error", "error_type"}
    assert words in answer["error"]


@pytest.mark.parametrize(("direction", "kept"), [(None, slice(18)), ("Right", slice(18)), ("left", slice(12, None))])
async def test_texts_are_cut_on_the_requested_side(
    client: TestClient, server: Server, direction: str | None, kept: slice
) -> None:
    words = [str(number) for number in range(30)]
    how = {"truncate": True, "truncation_direction": direction}
    response = await client.post("/embed", json={"inputs": ["a", " ".join(words)], **how})
    assert (response.status, response.headers["X-Edgeembed-Truncated"]) == (200, "1")
    assert np.allclose(await response.json(), [unit("a"), unit(" ".join(words[kept]))], atol=1e-6)
    sentences = {"source_sentence": " ".join(words), "sentences": [" ".join(words), "a"]}
    response = await client.post("/similarity", json={"inputs": sentences, "parameters": how})
    assert response.headers["X-Edgeembed-Truncated"] == "2"
    assert (await response.json())[0] == pytest.approx(1.0)
    response = await client.post("/rerank", json={"query": "q", "texts": [" ".join(words)], **how})
    assert (response.status, response.headers["X-Edgeembed-Truncated"]) == (200, "1")
    (pair,) = server.ranker.computed
    assert pair.startswith("None|q|") and len(pair.split()) == CONTEXT_TOKENS - 2


async def test_engine_errors_have_teis_error_types(client: TestClient, server: Server) -> None:
    server.embedder.failing = lambda text: EngineUnavailableError("the worker is away")
    assert (await post(client, "/embed", inputs="a"))[1]["error_type"] == "Unhealthy"
    server.embedder.failing = lambda text: BadVectorError("the model gave a row that is not finite")
    status, answer = await post(client, "/embed", inputs="a")
    assert (status, answer["error_type"]) == (500, "Backend")


async def test_the_similarity_to_a_row_of_zeros_is_zero(client: TestClient, server: Server) -> None:
    server.embedder.row_of = lambda text: np.zeros(DIMENSIONS, dtype=np.float32) if text == "z" else fake_row(text)
    status, cosines = await post(client, "/similarity", inputs={"source_sentence": "z", "sentences": ["a"]})
    assert (status, cosines) == (200, [0.0])
