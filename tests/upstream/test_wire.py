"""Responses and errors of today's servers, as they document them."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from edgeembed.upstream.wire import (
    UnreadableAnswerError,
    context_tokens,
    error_message,
    model_names,
    most_bytes,
    own_names,
    read_answer,
    spread,
    write_body,
)

ROWS = np.array([[1.5, -2.0], [0.25, 3.0]], dtype=np.float32)


def answer(*items: object, **more: object) -> bytes:
    return json.dumps({"object": "list", "data": items, "model": "m", **more}).encode()


def written(row: np.ndarray) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


def test_base64_and_floats_are_read_alike() -> None:
    encoded = answer(*({"index": i, "embedding": written(row)} for i, row in enumerate(ROWS)), usage={"prompt_tokens": 7})
    floats = answer(*({"index": i, "embedding": row.tolist()} for i, row in enumerate(ROWS)), usage={"total_tokens": 7})
    for body in (encoded, floats):
        found = read_answer(body, 2)
        np.testing.assert_array_equal(np.stack(found.rows), ROWS)
        assert found.tokens == 7
        assert all(row.dtype == np.float32 for row in found.rows)


def test_rows_go_where_their_index_says() -> None:
    shuffled = answer({"index": 1, "embedding": ROWS[1].tolist()}, {"index": 0, "embedding": ROWS[0].tolist()})
    np.testing.assert_array_equal(np.stack(read_answer(shuffled, 2).rows), ROWS)
    without = answer(*({"embedding": row.tolist()} for row in ROWS))
    np.testing.assert_array_equal(np.stack(read_answer(without, 2).rows), ROWS)
    assert read_answer(without, 2).tokens is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (answer({"index": 0, "embedding": [1.0]}), "2 texts were sent, but 1 rows came back"),
        (answer({"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [2.0]}), "occurs twice"),
        (answer({"index": 0, "embedding": [1.0]}, {"index": 2, "embedding": [2.0]}), "out of range"),
        (answer({"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [2.0, 3.0]}), "differ in length"),
        (answer({"index": 0, "embedding": "AAAA"}, {"index": 1, "embedding": "AAAA"}), "not base64 of float32"),
        (answer({"index": 0, "embedding": "***"}, {"index": 1, "embedding": "***"}), "not base64"),
        (answer({"index": 0, "embedding": []}, {"index": 1, "embedding": []}), "is empty"),
        (answer({"index": 0, "embedding": [[1.0]]}, {"index": 1, "embedding": [[1.0]]}), "neither base64 nor"),
        (answer({"index": 0, "embedding": [1.0]}, {"embedding": [1.0]}), "others have none"),
        (answer({"index": -1, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}), "out of range"),
        (answer({"index": True, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}), "not a list of embeddings"),
        (answer({"index": 10**30, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}), "out of range"),
        (answer({"index": 0, "embedding": [1.0] * 20_000}, {"index": 1, "embedding": [1.0]}), "more than 16384 numbers"),
        (answer(*({"index": n, "embedding": [1.0]} for n in range(1000))), "more rows came back"),
        (b'{"data":[' + b"{}," * 100_000 + b"{}]}", "not a list of embeddings"),
        (b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b',"data":[]}', "not a list of embeddings"),
        (b'{"data":[{"embedding":' + b"[" * 200_000 + b"]" * 200_000 + b"}]}", "not a list of embeddings"),
        (b'{"data":[],"usage":"\xff"}', "not a list of embeddings"),
        (b"<html>welcome to the proxy</html>", "not a list of embeddings"),
    ],
)
def test_a_response_that_does_not_fit_the_request_gives_no_rows(body: bytes, reason: str) -> None:
    with pytest.raises(UnreadableAnswerError, match=reason):
        read_answer(body, 2)


@pytest.mark.parametrize(
    "body",
    [
        {"object": "error", "message": "too long", "type": "BadRequestError", "param": None, "code": 400},
        {"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}},
        {"message": "too long", "code": 413, "type": "Validation"},
        {"error": "too long", "error_type": "Validation"},
        {"detail": "too long"},
        {"detail": [{"loc": ["body", "input"], "msg": "too long", "type": "value_error"}]},
    ],
    ids=["sglang", "vllm", "tei", "tei-native", "fastapi", "pydantic"],
)
def test_error_messages_are_found_in_every_shape(body: object) -> None:
    assert error_message(json.dumps(body).encode(), 400) == "too long"


def test_an_error_without_a_message_shows_its_status() -> None:
    assert error_message(b"<html><body>502</body></html>", 502) == "status 502"
    assert error_message(b"", 500) == "status 500"
    assert error_message(b"\xff\xfe plain", 500).endswith("plain")
    assert len(error_message(b"x" * 5000, 500)) < 400


def test_models_and_their_context_lengths() -> None:
    vllm = {"id": "m", "max_model_len": 8192}
    assert model_names(json.dumps({"object": "list", "data": [vllm]}).encode()) == [vllm]
    assert context_tokens(vllm) == 8192
    assert context_tokens({"id": "m", "context_tokens": 512}) == 512
    assert context_tokens({"id": "m", "max_model_len": None}) == 0
    assert context_tokens({"id": "model.gguf", "meta": {"n_ctx": 512, "n_ctx_train": 8192}}) == 512, "llama-server"
    assert model_names(b'{"object":"list","data":null}') == [], "Ollama without models"
    deep = b'{"data":[{"id":"a","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}]}"
    many = json.dumps({"data": [{"id": "a"}] * 5000}).encode()
    for body in (
        b"[]",
        b"<html>",
        b'{"data":[[],[]]}',
        b'{"data":[{}]}',
        b'{"data":[{"id":7}]}',
        b'{"data":[{"id":"\xff"}]}',
        deep,
        many,
    ):
        with pytest.raises(UnreadableAnswerError):
            model_names(body)
    long = {"id": "x" * 1000}, {"id": "y", "description": "z" * 100_000}
    assert model_names(json.dumps({"data": [*long, vllm]}).encode()) == [vllm]
    for nonsense in (0, -5, True, 10**30, "512", 1.5):
        assert context_tokens({"id": "m", "max_model_len": nonsense}) == 0


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": -3}, {"prompt_tokens": 0, "total_tokens": 0}, {"prompt_tokens": 10**30}, {}]
)
def test_a_count_of_tokens_that_cannot_be_is_none(usage: dict[str, int]) -> None:
    items = ({"index": i, "embedding": row.tolist()} for i, row in enumerate(ROWS))
    assert read_answer(answer(*items, usage=usage), 2).tokens is None


def test_an_answer_of_the_largest_model_fits_what_is_expected() -> None:
    row = [-0.012345678901234567] * 4096
    data = [{"object": "embedding", "index": i, "embedding": row} for i in range(32)]
    body = json.dumps({"object": "list", "data": data, "model": "m"}).encode()
    assert len(body) <= most_bytes(32, 4096) < most_bytes(32, None)


def test_a_model_listed_under_several_names_counts_once() -> None:
    ours = {"owned_by": "edgeembed", "type": "F32"}
    listed = [{"id": "tiny", **ours}, {"id": "tiny:query", "input_type": "query", **ours}, {"id": "tiny:F32", **ours}]
    assert own_names([*listed, {"id": "alias", "root": "tiny:F32", **ours}]) == ["tiny"]
    assert own_names([{"id": "tiny:F32", **ours}, {"id": "other", **ours}]) == ["tiny:F32", "other"]
    assert own_names([{"id": "bge-m3", "type": "x"}, {"id": "bge-m3:x", "type": "x"}]) == ["bge-m3", "bge-m3:x"]


def test_tokens_are_divided_by_length_and_add_up() -> None:
    texts = ["a", "b" * 99, "", "c" * 899]
    shares = spread(250, texts)
    assert sum(shares) == 250
    assert shares[3] > shares[1] > shares[0] >= 1
    assert spread(1, ["one"]) == [1]
    assert spread(9, ["only this one"]) == [9]
    assert min(spread(2, ["a"] * 10)) == 1
    assert spread(None, ["x" * 40]) == [11]


def test_the_request_is_openais() -> None:
    assert json.loads(write_body("m", ["a", "b"], "base64")) == {
        "model": "m",
        "input": ["a", "b"],
        "encoding_format": "base64",
    }
