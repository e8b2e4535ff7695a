"""POST /v1/embeddings and GET /v1/models, over HTTP, on the fake engine."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient

from edgeembed.errors import BadVectorError, EngineUnavailableError
from tests.fakes import CONTEXT_TOKENS, DIMENSIONS, FakeEngine, fake_row


async def embed(client: TestClient, **body: Any) -> tuple[int, dict[str, Any]]:
    response = await client.post("/v1/embeddings", json=body)
    return response.status, await response.json()


def unit(text: str) -> np.ndarray:
    row = fake_row(text).astype(np.float64)
    return row / np.linalg.norm(row)


async def test_the_response_has_openais_format(client: TestClient) -> None:
    status, answer = await embed(client, input=["two words", "one"], model="fake-model", user="me")
    assert status == 200
    assert answer["object"] == "list"
    assert answer["model"] == "fake-model"
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert [(item["object"], item["index"]) for item in answer["data"]] == [("embedding", 0), ("embedding", 1)]
    assert np.allclose([item["embedding"] for item in answer["data"]], [unit("two words"), unit("one")], atol=1e-6)


async def test_a_string_is_a_list_of_one_and_the_model_may_be_left_out(client: TestClient) -> None:
    status, answer = await embed(client, input="hello")
    assert status == 200
    assert len(answer["data"]) == 1
    assert len(answer["data"][0]["embedding"]) == DIMENSIONS


async def test_base64_holds_the_same_numbers_as_float(client: TestClient) -> None:
    texts = ["a", "b", "ünïcödé 🙂", "nul \0 inside"]
    _, floats = await embed(client, input=texts)
    _, coded = await embed(client, input=texts, encoding_format="base64")
    for one, other in zip(floats["data"], coded["data"], strict=True):
        decoded = np.frombuffer(base64.b64decode(other["embedding"]), dtype="<f4")
        assert np.array_equal(np.asarray(one["embedding"], dtype=np.float32), decoded)


async def test_2048_texts_keep_their_order_and_2049_are_refused(client: TestClient) -> None:
    texts = [f"t{number}" for number in range(2048)]
    _, answer = await embed(client, input=texts)
    assert [item["index"] for item in answer["data"]] == list(range(2048))
    assert np.allclose(answer["data"][2047]["embedding"], unit("t2047"), atol=1e-6)
    status, refusal = await embed(client, input=[*texts, "one more"])
    assert status == 400
    assert "2049" in refusal["error"]["message"]
    assert refusal["error"]["param"] == "input"


async def test_a_header_tells_whether_the_cache_answered(client: TestClient, engine: FakeEngine) -> None:
    words = []
    for texts in (["a", "b"], ["b", "a"], ["a", "c"]):
        response = await client.post("/v1/embeddings", json={"input": texts})
        words.append(response.headers["X-Edgeembed-Cache"])
    assert words == ["miss", "hit", "partial"]
    assert sorted(engine.computed) == ["a", "b", "c"]


async def test_input_type_and_instruction_put_the_prompt_around_the_text(client: TestClient, engine: FakeEngine) -> None:
    await embed(client, input="a", input_type="query")
    await embed(client, input="a", instruction="look")
    await embed(client, input="a", input_type="document")
    assert engine.computed == ["Instruct: find it\nQuery:a", "Instruct: look\nQuery:a", "a"]


@pytest.mark.parametrize(
    ("body", "status", "param", "words"),
    [
        ({}, 400, "input", "missing"),
        ({"input": ""}, 400, "input", "empty"),
        ({"input": []}, 400, "input", "empty list"),
        ({"input": ["a", ""]}, 400, "input[1]", "empty"),
        ({"input": ["a", None]}, 400, "input[1]", "null"),
        ({"input": ["a", 3]}, 400, "input[1]", "a number"),
        ({"input": ["a", ["b"]]}, 400, "input[1]", "a list"),
        ({"input": [True]}, 400, "input[0]", "boolean"),
        ({"input": 3}, 400, "input", "Expected"),
        ({"input": {"url": "a"}}, 400, "input", "an object"),
        ({"input": [1, 2, 3]}, 400, "input", "check_embedding_ctx_length"),
        ({"input": [[1, 2], [3]]}, 400, "input", "check_embedding_ctx_length"),
        ({"input": ["a", "word " * 30]}, 400, "input[1]", f"length is {CONTEXT_TOKENS} tokens"),
        ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format", "float, base64"),
        ({"input": "a", "input_type": "image"}, 400, "input_type", "query, document"),
        ({"input": "a", "dimensions": -1}, 400, "dimensions", "between 1 and"),
        ({"input": "a", "dimensions": 17}, 400, "dimensions", "between 1 and 16"),
        ({"input": "a", "dimensions": "8"}, 400, "dimensions", "Expected"),
        ({"input": "a", "model": 1}, 400, "model", "Expected"),
        ({"input": "a", "model": "gpt-5"}, 404, "model", "fake-model"),
        ({"input": "a", "input_type": "document", "instruction": "x"}, 400, "instruction", "no instruction"),
    ],
)
async def test_a_bad_request_names_the_field_and_the_reason(
    client: TestClient, body: dict[str, Any], status: int, param: str, words: str
) -> None:
    got, answer = await embed(client, **body)
    assert got == status
    error = answer["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize("raw", [b"", b"{", b"nonsense", b'{"input": "\xff"}', b"[]", b"null"])
async def test_a_body_that_is_not_json_is_a_400(client: TestClient, raw: bytes) -> None:
    response = await client.post("/v1/embeddings", data=raw, headers={"content-type": "application/json"})
    assert response.status == 400
    assert (await response.json())["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"input": ' + b"[" * 20_000, b'{"x": ' * 10_000])
async def test_a_deeply_nested_body_is_a_400(client: TestClient, raw: bytes) -> None:
    response = await client.post("/v1/embeddings", data=raw)
    assert response.status == 400


async def test_an_invalid_gzip_body_is_a_400(client: TestClient) -> None:
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    response = await client.post("/v1/embeddings", data=b"not gzip", headers=headers)
    assert response.status == 400
    assert "gzip" in (await response.json())["error"]["message"]


async def test_null_is_the_same_as_leaving_a_field_out(client: TestClient) -> None:
    fields = ("model", "encoding_format", "dimensions", "user", "input_type", "instruction")
    status, answer = await embed(client, input="a", **dict.fromkeys(fields))
    assert status == 200
    assert len(answer["data"][0]["embedding"]) == DIMENSIONS


@pytest.mark.parametrize("field", ["dimensions", "output_dimension"])
async def test_no_dimensions_are_all(client: TestClient, field: str) -> None:
    """infinity's client sends 0 unless it is told otherwise."""
    status, answer = await embed(client, input="a", modality="text", **{field: 0})
    assert status == 200
    assert len(answer["data"][0]["embedding"]) == DIMENSIONS


async def test_other_errors_have_openais_format(client: TestClient) -> None:
    for method, path, status in (("GET", "/v1/embeddings", 405), ("POST", "/v1/nothing", 404), ("GET", "/nothing", 404)):
        response = await client.request(method, path)
        assert response.status == status
        assert (await response.json())["error"]["message"]
    response = await client.post("/v1/embeddings", json={"input": "a" * 200_000})
    assert response.status == 413
    assert "larger than" in (await response.json())["error"]["message"]


async def test_errors_of_the_engine_have_their_status(client: TestClient, engine: FakeEngine) -> None:
    engine.failing = lambda text: BadVectorError("the model gave a row that is not finite")
    status, answer = await embed(client, input="nan")
    assert (status, answer["error"]["type"], answer["error"]["code"]) == (500, "server_error", "bad_vector")
    engine.failing = lambda text: EngineUnavailableError("the worker is away")
    response = await client.post("/v1/embeddings", json={"input": "x"})
    assert response.status == 503
    assert int(response.headers["Retry-After"]) > 0


async def test_an_unexpected_error_reveals_nothing_internal(client: TestClient, engine: FakeEngine) -> None:
    def broken(text: str) -> None:
        raise RuntimeError("secret detail")

    engine.submit = broken  # type: ignore[assignment]
    status, answer = await embed(client, input="x")
    assert status == 500
    assert "secret" not in answer["error"]["message"]


async def test_models_are_listed_under_every_name(client: TestClient) -> None:
    listed = await (await client.get("/v1/models")).json()
    found = {model["id"]: model for model in listed["data"]}
    assert list(found) == ["fake-model", "fake-model:query", "fake-model:document", "fake-model:F32", "alias"]
    model = found["fake-model"]
    assert (model["object"], model["created"], model["task"], model["loaded"]) == ("model", 1_700_000_000, "embed", True)
    assert (model["dimensions"], model["model_type"]) == (DIMENSIONS, "embedding")
    assert found["alias"]["root"] == "fake-model:F32"
    assert found["fake-model:query"]["input_type"] == "query"
    for name in found:
        assert (await (await client.get(f"/v1/models/{name}")).json())["id"] == name
    assert (await client.get("/v1/models/other")).status == 404


async def test_models_are_listed_for_clients_of_lm_studio(client: TestClient) -> None:
    listed = await (await client.get("/api/v0/models")).json()
    own = await (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [item["id"] for item in listed["data"]] == [item["id"] for item in own["data"]]
    assert {(item["object"], item["type"], item["state"]) for item in listed["data"]} == {("model", "embeddings", "loaded")}


async def test_a_suffix_of_the_models_name_chooses_the_prompt(client: TestClient, engine: FakeEngine) -> None:
    for model in ("fake-model:query", "alias:query", "fake-model:document", "alias"):
        status, answer = await embed(client, input="x", model=model)
        assert (status, answer["model"]) == (200, "fake-model")
    assert engine.computed == ["Instruct: find it\nQuery:x", "x"], "a document is the plain text here, which was cached"


async def test_valid_request_ids_of_clients_are_used(client: TestClient) -> None:
    async def echoed(given: str | None) -> str:
        headers = {"X-Request-Id": given} if given else {}
        return (await client.get("/health", headers=headers)).headers["X-Request-Id"]

    assert await echoed("abc-123") == "abc-123"
    assert await echoed("a b;<script>") != "a b;<script>"
    assert await echoed(None) != await echoed(None)


async def test_half_a_surrogate_pair_from_javascript_is_accepted(client: TestClient, engine: FakeEngine) -> None:
    body = b'{"input": ["cut \\ud83d", "whole \\ud83d\\ude00", "nul \\u0000"]}'
    response = await client.post("/v1/embeddings", data=body, headers={"Content-Type": "application/json"})
    assert response.status == 200
    assert engine.computed == ["cut \ufffd", "whole 😀", "nul "]
    broken = await client.post("/v1/embeddings", data=b'{"input": ["\\ud83d"', headers={"Content-Type": "application/json"})
    assert broken.status == 400
