"""The fields of POST /v1/embeddings: each is obeyed, or refused, or changes no number."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from aiohttp.test_utils import TestClient, make_mocked_request

from edgeembed.inference.number_formats import quantised
from edgeembed.server.app import make_app
from edgeembed.server.dialects import embeddings_answer
from edgeembed.server.dialects.embeddings_body import EmbeddingsBody, embed_request, is_plain, number_format, plain_request
from edgeembed.server.dialects.outputs import output_form
from tests.fakes import CONTEXT_TOKENS, DIMENSIONS, FakeEngine, fake_row, fake_service
from tests.server.dialect_requests import Server, unit

TEXTS = ["two words", "one"]
UNITS = np.array([unit(text) for text in TEXTS], dtype=np.float32)
LONG = " ".join(f"w{number}" for number in range(CONTEXT_TOKENS + 10))


async def embed(client: TestClient, **body: Any) -> tuple[int, Any]:
    response = await client.post("/v1/embeddings", json={"input": TEXTS, **body})
    return response.status, await response.json()


async def rows(client: TestClient, **body: Any) -> list[Any]:
    status, answer = await embed(client, **body)
    assert status == 200, answer
    return [item["embedding"] for item in answer["data"]]


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({"dimensions": 5}, [unit(text, 5) for text in TEXTS]),
        ({"output_dimension": 5}, [unit(text, 5) for text in TEXTS]),
        ({"dimensions": 5, "output_dimension": 5}, [unit(text, 5) for text in TEXTS]),
        ({"output_dtype": "float"}, UNITS),
        ({"output_dtype": "int8"}, quantised(UNITS, "int8")),
        ({"output_dtype": "uint8"}, quantised(UNITS, "uint8")),
        ({"output_dtype": "binary"}, quantised(UNITS, "binary")),
        ({"output_dtype": "ubinary"}, quantised(UNITS, "ubinary")),
        ({"embed_dtype": "float16"}, quantised(UNITS, "float16")),
        ({"embed_dtype": "bfloat16"}, quantised(UNITS, "bfloat16")),
        ({"encoding_format": "FLOAT", "output_dtype": "Int8"}, quantised(UNITS, "int8")),
        ({"encoding_format": "ubinary"}, quantised(UNITS, "ubinary")),
        ({"embedding_type": "binary"}, quantised(UNITS, "binary")),
        ({"embedding_type": ["int8"]}, quantised(UNITS, "int8")),
        ({"normalize": False}, [fake_row(text) for text in TEXTS]),
        ({"normalized": False}, [fake_row(text) for text in TEXTS]),
        ({"use_activation": False}, [fake_row(text) for text in TEXTS]),
        ({"embd_normalize": -1, "dimensions": 3}, [fake_row(text)[:3] for text in TEXTS]),
        ({"embd_normalize": 2}, UNITS),
        ({"embd_normalize": 1}, [fake_row(text) / np.abs(fake_row(text)).sum() for text in TEXTS]),
        ({"embd_normalize": 0}, [fake_row(text) / np.abs(fake_row(text)).max() * 32760 for text in TEXTS]),
    ],
)
async def test_a_field_says_how_the_numbers_are_wanted(client: TestClient, fields: dict[str, Any], numbers: Any) -> None:
    assert np.allclose(await rows(client, **fields), np.array(numbers, dtype=np.float64), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "dtype"),
    [
        ({}, "<f4"),
        ({"endianness": "native"}, "<f4"),
        ({"endianness": "big"}, ">f4"),
        ({"embed_dtype": "float16"}, "<f2"),
        ({"embed_dtype": "float16", "endianness": "big"}, ">f2"),
        ({"output_dtype": "int8"}, "i1"),
        ({"output_dtype": "ubinary"}, "u1"),
    ],
)
async def test_base64_and_bytes_hold_the_numbers_of_the_type(client: TestClient, fields: Any, dtype: str) -> None:
    numbers = await rows(client, **fields)
    coded = await rows(client, encoding_format="base64", **fields)
    decoded = [np.frombuffer(base64.b64decode(row), dtype=dtype) for row in coded]
    assert np.array_equal(np.array(numbers, dtype=decoded[0].dtype), decoded)
    for encoding in ("bytes", "bytes_only"):
        answer = await client.post("/v1/embeddings", json={"input": TEXTS, "encoding_format": encoding, **fields})
        raw = await answer.read()
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert np.array_equal(np.frombuffer(raw, dtype=dtype).reshape(2, -1), decoded)
        assert ("metadata" in answer.headers) == (encoding == "bytes")


async def test_the_header_of_bytes_says_where_each_row_is(client: TestClient) -> None:
    body = {"input": TEXTS, "encoding_format": "bytes", "embed_dtype": "bfloat16"}
    answer = await client.post("/v1/embeddings", json=body)
    metadata, raw = json.loads(answer.headers["metadata"]), await answer.read()
    assert metadata["usage"] == {"prompt_tokens": 7, "total_tokens": 7} and metadata["model"] == "embedder"
    for index, item in enumerate(metadata["data"]):
        upper = np.frombuffer(raw[item["start"] : item["end"]], dtype="<u2")
        row = (upper.astype(np.uint32) << 16).view(np.float32)
        assert (item["index"], item["embed_dtype"], item["shape"]) == (index, "bfloat16", [DIMENSIONS])
        assert np.allclose(row, UNITS[index], atol=0.01)


async def test_too_many_rows_for_a_header_are_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings_answer, "_LONGEST_HEADER", 500)
    for encoding, texts, status in (("bytes", 1, 200), ("bytes", 50, 400), ("bytes_only", 50, 200)):
        body = {"input": [f"t{number}" for number in range(texts)], "encoding_format": encoding}
        answer = await client.post("/v1/embeddings", json=body)
        assert answer.status == status


@pytest.mark.parametrize(
    ("fields", "computed"),
    [
        ({"input_type": "search_query"}, "Q: a"),
        ({"input_type": "passage"}, "D: a"),
        ({"input_type": "clustering"}, "D: a"),
        ({"task": "retrieval.query"}, "Q: a"),
        ({"task": "embed"}, "a"),
        ({"task": "embed", "input_type": "query"}, "Q: a"),
        ({"prompt_name": "query"}, "Q: a"),
        ({"prompt_name": "query", "input_type": "search_query"}, "Q: a"),
        ({"prompt": "find {this}: "}, "find {this}: a"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "input": None}, "a"),
        ({"input": [{"text": "a"}]}, "a"),
    ],
)
async def test_a_field_says_what_the_model_reads(client: TestClient, server: Server, fields: Any, computed: str) -> None:
    body = {"input": "a", **fields}
    body = {name: value for name, value in body.items() if value is not None}
    answer = await client.post("/v1/embeddings", json=body)
    assert answer.status == 200, await answer.text()
    assert server.embedder.computed == [computed]


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"truncate": "END"}, slice(None, CONTEXT_TOKENS - 2)),
        ({"truncate": True}, slice(None, CONTEXT_TOKENS - 2)),
        ({"truncate": "start"}, slice(2 - CONTEXT_TOKENS, None)),
        ({"truncation": True}, slice(None, CONTEXT_TOKENS - 2)),
        ({"truncation": True, "truncation_side": "left"}, slice(2 - CONTEXT_TOKENS, None)),
        ({"truncate": True, "truncation_side": "left"}, slice(2 - CONTEXT_TOKENS, None)),
        ({"truncate_prompt_tokens": -1}, slice(None, CONTEXT_TOKENS - 2)),
        ({"truncate_prompt_tokens": 7}, slice(None, 5)),
        ({"truncate_prompt_tokens": 7, "truncation_side": "left"}, slice(-5, None)),
    ],
)
async def test_a_field_says_what_is_cut_off(client: TestClient, server: Server, fields: Any, kept: slice) -> None:
    status, answer = await embed(client, input=LONG, **fields)
    assert status == 200 and [cut["index"] for cut in answer["truncated"]] == [0]
    assert server.embedder.computed == [" ".join(LONG.split()[kept])]


@pytest.mark.parametrize(
    "fields", [{}, {"truncate": "NONE"}, {"truncate": False}, {"truncation": False}, {"truncation_side": "left"}]
)
async def test_without_them_a_long_text_is_refused(client: TestClient, fields: Any) -> None:
    status, answer = await embed(client, input=LONG, **fields)
    assert status == 400 and answer["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"dimensions": 5, "output_dimension": 6}, "output_dimension"),
        ({"output_dtype": "int8", "embed_dtype": "float16"}, "embed_dtype"),
        ({"encoding_format": "base64", "embedding_type": "float"}, "embedding_type"),
        ({"embedding_type": ["float", "int8"]}, "embedding_type"),
        ({"embed_dtype": "fp8_e4m3"}, "embed_dtype"),
        ({"endianness": "middle"}, "endianness"),
        ({"normalize": True, "normalized": False}, "normalized"),
        ({"normalize": False, "embd_normalize": 2}, "embd_normalize"),
        ({"embd_normalize": 101}, "embd_normalize"),
        ({"normalize": False, "output_dtype": "int8"}, "normalize"),
        ({"input_type": "query", "task": "retrieval.passage"}, "task"),
        ({"task": "nl2code.query"}, "task"),
        ({"prompt_name": "web_search"}, "prompt_name"),
        ({"prompt": "p", "input_type": "query"}, "prompt"),
        ({"prompt": "p", "instruction": "i"}, "prompt"),
        ({"instruction": "i"}, "instruction"),
        ({"truncate": "none", "truncation": True}, "truncation"),
        ({"truncate": "end", "truncation_side": "left"}, "truncation_side"),
        ({"truncate": "start", "truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 5, "max_tokens": 6}, "truncate_prompt_tokens"),
        ({"messages": [{"content": "a"}]}, "messages"),
        ({"late_chunking": True}, "late_chunking"),
        ({"return_multivector": True}, "return_multivector"),
        ({"modality": "image"}, "modality"),
        ({"add_special_tokens": False}, "add_special_tokens"),
        ({"top_k": 3}, "top_k"),
        ({"padding": "max_length"}, "padding"),
        ({"lora_path": "x"}, "lora_path"),
    ],
)
async def test_what_cannot_be_obeyed_is_refused(client: TestClient, server: Server, fields: Any, param: str) -> None:
    status, answer = await embed(client, **fields)
    assert (status, answer["error"]["param"]) == (400, param), answer
    assert server.embedder.computed == []


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "me", "priority": -3, "request_id": "r", "rid": "r", "cache_salt": "s", "metadata": {}},
        {"late_chunking": False, "modality": "text", "add_special_tokens": True, "padding": "do_not_pad"},
        {"encoding_format": "float", "embed_dtype": "float32", "endianness": "big", "normalize": True},
        {"nobody": ["knows", "it"]},
    ],
)
async def test_what_changes_no_number_is_taken(client: TestClient, fields: dict[str, Any]) -> None:
    assert np.allclose(await rows(client, **fields), UNITS, atol=1e-6)


# --- bodies with nothing but input, model and a usual encoding --------------------------------------------------------


@pytest.mark.parametrize("given", [{"input": "one"}, {"input": TEXTS, "model": "fake", "encoding_format": "base64"}])
@pytest.mark.parametrize("truncate", ["none", "start", "end"])
@pytest.mark.parametrize("long_text", ["none", "mean"])
async def test_a_plain_body_is_read_as_any_other_is(given: dict[str, Any], truncate: Any, long_text: Any) -> None:
    service = fake_service(FakeEngine(), truncate=truncate, long_text=long_text)
    request = make_mocked_request("POST", "/v1/embeddings", app=make_app(service))
    body = msgspec.convert(given, EmbeddingsBody)
    assert is_plain(body)
    asked = embed_request(request, body)
    assert plain_request(request, body, "") == (asked, number_format(body))
    assert await output_form(body, service, asked.input_type) is None


@pytest.mark.parametrize("name", EmbeddingsBody.__struct_fields__)
def test_a_body_with_any_other_field_is_not_plain(name: str) -> None:
    body = EmbeddingsBody(input="one")
    for value in (0, False, "", "int8"):
        setattr(body, name, value)
        assert is_plain(body) == (name in ("input", "model"))
