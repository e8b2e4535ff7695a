"""What text-embeddings-inference computes of texts, over HTTP, on fake engines: an embedder and a reranker."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient

from edgeembed.errors import BadVectorError, EngineUnavailableError
from tests.fakes import CONTEXT_TOKENS, DIMENSIONS, fake_row
from tests.server.dialect_requests import Server, post, unit


@pytest.mark.parametrize("path", ["/embed", "/", "/invocations"])
async def test_embed_returns_a_bare_list_of_unit_rows(client: TestClient, path: str) -> None:
    status, rows = await post(client, path, inputs=["two words", "one"])
    assert status == 200
    assert np.allclose(rows, [unit("two words"), unit("one")], atol=1e-6)
    _, rows = await post(client, path, inputs="one", normalize=True, truncate=False, truncation_direction="Right")
    assert np.allclose(rows, [unit("one")], atol=1e-6)


async def test_invocations_do_what_their_body_is_of(client: TestClient) -> None:
    """The one route of a container in Amazon SageMaker: vLLM's bodies, too."""
    for body in ({"input": "one"}, {"messages": [{"role": "user", "content": "one"}]}):
        status, answer = await post(client, "/invocations", **body)
        assert status == 200
        assert np.allclose(answer["data"][0]["embedding"], unit("one"), atol=1e-6)
    status, answer = await post(client, "/invocations", input=[])
    assert (status, answer["error"]["param"]) == (400, "input"), "errors have the shape of the body's dialect"
    status, answer = await post(client, "/invocations", documents=["a"])
    assert (status, answer["error"]["param"]) == (400, "query")
    status, answer = await post(client, "/invocations", inputs=[])
    assert (status, answer["error_type"]) == (400, "Empty")


async def test_rows_can_be_raw_and_short(client: TestClient) -> None:
    _, rows = await post(client, "/embed", inputs=["a"], normalize=False)
    assert np.allclose(rows, [fake_row("a")], atol=1e-5)
    _, rows = await post(client, "/embed", inputs=["a"], normalize=False, dimensions=3)
    assert np.allclose(rows, [fake_row("a")[:3]], atol=1e-5)
    _, rows = await post(client, "/embed", inputs=["a"], dimensions=3)
    assert np.allclose(rows, [unit("a", 3)], atol=1e-6)


async def test_token_ids_are_embedded_in_place_of_texts(client: TestClient, server: Server) -> None:
    _, rows = await post(client, "/embed", inputs=[[7, 8, 9], [3]])
    assert np.allclose(rows, [unit("7 8 9"), unit("3")], atol=1e-6)
    _, rows = await post(client, "/embed", inputs=[7, 8, 9])
    assert np.allclose(rows, [unit("7 8 9")], atol=1e-6), "a list of ids is one text"
    assert server.embedder.computed == ["7 8 9", "3"]


async def test_the_headers_tell_what_was_read(client: TestClient) -> None:
    for path, fields in {
        "/embed": {"inputs": ["two words", "one"]},
        "/similarity": {"inputs": {"source_sentence": "two words", "sentences": ["one"]}},
    }.items():
        headers = (await client.post(path, json=fields)).headers
        assert (headers["x-compute-characters"], headers["x-compute-tokens"]) == ("12", "7")
        assert int(headers["x-compute-time"]) <= int(headers["x-total-time"])
    headers = (await client.post("/rerank", json={"query": "why", "texts": ["best", "bad"]})).headers
    assert headers["x-compute-characters"] == str(2 * 3 + 4 + 3)


async def test_prompt_names_are_the_models_prompts(client: TestClient, server: Server) -> None:
    for name in ("query", "document", "passage"):
        await post(client, "/embed", inputs="a", prompt_name=name)
    assert server.embedder.computed == ["Q: a", "D: a"], "a passage is a document, and cached as one"


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


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "words"),
    [
        ("/embed", {}, 422, "Validation", "inputs"),
        ("/embed", {"inputs": []}, 400, "Empty", "inputs cannot be empty"),
        ("/embed", {"inputs": [[]]}, 400, "Empty", "inputs[0]"),
        ("/embed", {"inputs": ""}, 400, "Empty", "inputs is empty"),
        ("/embed", {"inputs": ["a", ""]}, 400, "Empty", "inputs[1]"),
        ("/embed", {"inputs": ["a", [1]]}, 422, "Validation", "both texts and token ids"),
        ("/embed", {"inputs": [-1]}, 422, "Validation", "-1 is not a token id"),
        ("/embed", {"inputs": ["a", 7]}, 422, "Validation", "inputs[1] is a number"),
        ("/embed", {"inputs": ["a"] * 51}, 422, "Validation", "batch size 51 > maximum allowed batch size 50"),
        ("/embed", {"inputs": "w " * 30, "truncate": False}, 422, "Validation", "length is 20 tokens"),
        ("/embed_all", {"inputs": "a", "model": "ranker"}, 424, "Backend", "/v1/rerank"),
        ("/embed_all", {"inputs": []}, 400, "Empty", "inputs"),
        ("/embed_sparse", {"inputs": ["a"]}, 424, "Backend", "no sparse vectors"),
        ("/embed", {"inputs": "a", "prompt_name": "x"}, 422, "Validation", "one of query, document, passage"),
        ("/embed", {"inputs": "a", "truncation_direction": "up"}, 422, "Validation", "Left, Right"),
        ("/embed", {"inputs": "a", "dimensions": 99}, 422, "Validation", "between 1 and 16"),
        ("/embed", {"inputs": "a", "model": "other"}, 404, "Validation", "no model 'other'"),
        ("/embed", {"inputs": "a", "model": "ranker"}, 424, "Backend", "/v1/rerank"),
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
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 400, "Empty", "inputs.sentences"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["a", None]}}, 422, "Validation", "sentences[1]"),
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
@pytest.mark.parametrize("truncate", [{}, {"truncate": None}, {"truncate": True}])
async def test_texts_are_cut_on_the_requested_side(
    client: TestClient, server: Server, truncate: dict[str, Any], direction: str | None, kept: slice
) -> None:
    words = [str(number) for number in range(30)]
    how = {**truncate, "truncation_direction": direction}
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
