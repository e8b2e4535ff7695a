"""long_text in every dialect: the field, the setting, and the fields of other servers that go before it; on fake engines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient

from edgeembed.server.app_keys import SERVICE
from tests.fakes import fake_row
from tests.server.dialect_requests import Server, post, unit

LONG = " ".join(f"The sea was calm on day {day}. Then {day} ships sailed by." for day in range(8))
WORST = "so-so"

# How each dialect asks for a vector, by its path: the body for a text, and how to read the answer.
EMBEDDERS: dict[str, tuple[str, Any]] = {
    "/v1/embeddings": ("input", lambda answer: answer["data"][0]["embedding"]),
    "/api/embed": ("input", lambda answer: answer["embeddings"][0]),
    "/api/embeddings": ("prompt", lambda answer: answer["embedding"]),
    "/embed": ("inputs", lambda answer: answer[0]),
    "/v1/embed": ("texts", lambda answer: answer["embeddings"][0]),
    "/v2/embed": ("texts", lambda answer: answer["embeddings"]["float"][0]),
}


async def vector(client: TestClient, path: str, **more: Any) -> np.ndarray:
    field, read = EMBEDDERS[path]
    status, answer = await post(client, path, **{field: [LONG] if field == "texts" else LONG}, **more)
    assert status == 200, answer
    return np.array(read(answer))


def mean(texts: list[str]) -> np.ndarray:
    """Return the unit mean of rows, weighted by tokens, of texts that were computed."""
    row = np.average([fake_row(text) for text in texts], axis=0, weights=[len(text.split()) + 2 for text in texts])
    return row / np.linalg.norm(row)


@pytest.mark.parametrize("path", EMBEDDERS)
async def test_the_field_and_the_setting_divide_long_texts(client: TestClient, server: Server, path: str) -> None:
    divided = await vector(client, path, long_text="mean")
    windows = list(server.embedder.computed)
    assert len(windows) > 3
    assert np.allclose(divided, mean(windows), atol=1e-6)
    server.app[SERVICE].long_text = "mean"
    assert np.allclose(await vector(client, path), divided, atol=1e-6)
    assert server.embedder.computed == windows, "all of it was in the cache"


@pytest.mark.parametrize(
    ("path", "how"),
    [
        ("/v1/embeddings", {"truncate": "end"}),
        ("/api/embed", {"truncate": True}),
        ("/embed", {"truncate": True}),
        ("/v1/embed", {"truncate": "END"}),
        ("/v2/embed", {"truncate": "END"}),
    ],
)
async def test_a_request_that_says_how_to_cut_is_obeyed(
    client: TestClient, server: Server, path: str, how: dict[str, Any]
) -> None:
    server.app[SERVICE].long_text = "mean"
    await vector(client, path, **how)
    assert len(server.embedder.computed) == 1
    field, _ = EMBEDDERS[path]
    status, answer = await post(client, path, **{field: [LONG]}, **how, long_text="mean")
    assert 400 <= status < 500
    assert "contradict" in str(answer)


async def test_similarity_compares_the_means(client: TestClient, server: Server) -> None:
    inputs = {"source_sentence": "a ship", "sentences": [LONG, "a ship"]}
    _, cosines = await post(client, "/similarity", inputs=inputs, parameters={"long_text": "mean"})
    windows = [text for text in server.embedder.computed if text != "a ship"]
    assert len(windows) > 3
    assert cosines == pytest.approx([float(unit("a ship") @ mean(windows)), 1.0], abs=1e-6)


async def test_token_ids_are_not_divided(client: TestClient, server: Server) -> None:
    status, answer = await post(client, "/embed", inputs=[5, 6, 7], long_text="mean")
    assert (status, "token ids" in str(answer)) == (422, True)
    server.app[SERVICE].long_text = "mean"
    assert (await post(client, "/embed", inputs=[5, 6, 7]))[0] == 200


# --- reranking --------------------------------------------------------------------------------------------------------


def by_word(text: str) -> np.ndarray:
    """Return the row of a pair: its logit is high if its document has the word lighthouse."""
    document = text.rpartition("|")[2]
    return np.array([3.0 if "lighthouse" in document else 1.0 if document == WORST else -2.0], dtype=np.float32)


@pytest.mark.parametrize(
    ("path", "field", "more"),
    [
        ("/v1/rerank", "documents", {"long_text": "max"}),
        ("/v2/rerank", "documents", {"long_text": "max"}),
        ("/v1/rerank", "documents", {"max_chunks_per_doc": 10}),
        ("/v1/rerank", "documents", {"overlap": 80}),
        ("/rerank", "texts", {"long_text": "max"}),
        ("/score", "text_2", {"long_text": "max"}),
    ],
)
async def test_a_document_counts_with_its_best_window(
    client: TestClient, server: Server, path: str, field: str, more: dict[str, Any]
) -> None:
    server.ranker.row_of = by_word
    documents = [LONG, LONG.replace("day", "night") + " There is a lighthouse.", WORST]
    query = {"text_1": "q", "model": "ranker"} if path == "/score" else {"query": "q"}
    status, answer = await post(client, path, **query, **{field: documents}, **more)
    assert status == 200, answer
    key = "relevance_score" if field == "documents" else "score"
    items = answer if field == "texts" else answer["data"] if path == "/score" else answer["results"]
    scores = {item["index"]: item[key] for item in items}
    sigmoid = {logit: 1 / (1 + np.exp(-logit)) for logit in (3.0, 1.0, -2.0)}
    assert scores == {0: pytest.approx(sigmoid[-2.0]), 1: pytest.approx(sigmoid[3.0]), 2: pytest.approx(sigmoid[1.0])}
    assert all(len(pair.rpartition("|")[2].split()) <= 17 for pair in server.ranker.computed)
    if path != "/rerank":
        assert answer["usage"]["total_tokens"] == sum(len(pair.split()) + 2 for pair in server.ranker.computed)
        assert "truncated" not in answer
    server.app[SERVICE].long_text = "mean"
    computed = len(server.ranker.computed)
    assert (await post(client, path, **query, **{field: documents}))[0] == 200
    assert len(server.ranker.computed) == computed, "the setting means the same windows"


@pytest.mark.parametrize("field", ["max_chunks_per_doc", "overlap"])
async def test_a_negative_number_of_chunks_is_refused(client: TestClient, server: Server, field: str) -> None:
    status, answer = await post(client, "/v1/rerank", query="q", documents=[LONG], **{field: -1})
    assert (status, f"{field} is -1" in str(answer)) == (400, True)
    assert not server.ranker.computed


async def test_an_embedder_ranks_by_the_closest_window(client: TestClient, server: Server) -> None:
    _, answer = await post(
        client, "/v1/rerank", model="embedder:cosine", query="a ship", documents=[LONG, "a gull", LONG[:30]], long_text="max"
    )
    others = ("Q: a ship", "D: a gull", f"D: {LONG[:30]}")
    windows = [text for text in server.embedder.computed if text not in others]
    assert len(windows) > 3
    query = unit("Q: a ship")
    scores = {item["index"]: item["relevance_score"] for item in answer["results"]}
    assert scores[0] == pytest.approx(max(float(query @ unit(window)) for window in windows), abs=1e-6)
    assert scores[1] == pytest.approx(float(query @ unit("D: a gull")), abs=1e-6)
    _, pairs = await post(client, "/score", model="embedder", text_1=["a", "b"], text_2=[LONG, "c"], long_text="max")
    assert pairs["data"][1]["score"] == pytest.approx(float(unit("b") @ unit("c")), abs=1e-6)


async def test_fields_that_cut_documents_contradict_windows(client: TestClient) -> None:
    for more in ({"truncate": "end"}, {"truncate_prompt_tokens": 9}, {"max_tokens_per_doc": 9}, {"truncation": True}):
        status, answer = await post(client, "/v1/rerank", query="q", documents=[LONG], long_text="max", **more)
        assert (status, "contradict" in str(answer)) == (400, True)
    assert (await post(client, "/v1/rerank", query="q", documents=[LONG], long_text="max", max_tokens_per_doc=0))[0] == 200


async def test_a_query_that_leaves_no_room_is_cut_with_its_documents(client: TestClient, server: Server) -> None:
    status, answer = await post(client, "/v1/rerank", query=LONG, documents=[LONG], long_text="max")
    assert status == 200
    assert len(answer["truncated"]) == len(server.ranker.computed) == 1
