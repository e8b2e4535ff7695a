"""Texts that are too long, token ids, and requests with too many tokens: POST /v1/embeddings on the fake engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient

from edgeembed.cache import VectorCache
from edgeembed.engine.interface import BULK, Pair, Prompted, Text
from edgeembed.engine.ipc.messages import LENGTH_BYTES, Embed, EmbedItem, frame, to_worker_decoder
from edgeembed.inference.truncation import Lengths
from edgeembed.server.app import make_app
from tests.fakes import CONTEXT_TOKENS, FakeEngine, fake_service
from tests.server.dialect_requests import unit
from tests.server.helpers import PROMPTS

WORDS = [str(number) for number in range(30)]
LONG = " ".join(WORDS)
FITS = " ".join(WORDS[: CONTEXT_TOKENS - 2])


async def embed(client: TestClient, **body: Any) -> tuple[int, dict[str, Any], dict[str, str]]:
    response = await client.post("/v1/embeddings", json=body)
    return response.status, await response.json(), dict(response.headers)


async def vectors(client: TestClient, **body: Any) -> np.ndarray:
    status, answer, _ = await embed(client, **body)
    assert status == 200, answer
    return np.array([item["embedding"] for item in answer["data"]])


async def test_the_response_lists_what_was_cut(client: TestClient) -> None:
    status, answer, headers = await embed(client, input=["a", LONG, "b c", LONG + " more"], truncate="end")
    assert status == 200
    assert answer["truncated"] == [
        {"index": 1, "tokens": CONTEXT_TOKENS, "full_tokens": 32},
        {"index": 3, "tokens": CONTEXT_TOKENS, "full_tokens": 33},
    ]
    assert headers["X-Edgeembed-Truncated"] == "2"
    assert answer["usage"]["total_tokens"] == 3 + CONTEXT_TOKENS + 4 + CONTEXT_TOKENS
    assert np.allclose([item["embedding"] for item in answer["data"]][:2], [unit("a"), unit(FITS)], atol=1e-6)


async def test_the_response_has_no_list_if_nothing_was_cut(client: TestClient) -> None:
    _, answer, headers = await embed(client, input=["a", FITS], truncate="end")
    assert "truncated" not in answer
    assert "X-Edgeembed-Truncated" not in headers


async def test_either_side_can_be_cut_off_but_never_the_prompt(client: TestClient, engine: FakeEngine) -> None:
    await vectors(client, input="1 2 3 4 5", truncate="end", max_tokens=4)
    await vectors(client, input="1 2 3 4 5", truncate="start", max_tokens=4)
    await vectors(client, input="1 2 3 4 5", truncate="start", max_tokens=7, input_type="query")
    assert engine.computed == ["1 2", "4 5", "Instruct: find it\nQuery:4 5"]


async def test_without_truncate_max_tokens_is_a_limit(client: TestClient, engine: FakeEngine) -> None:
    for _ in range(2):  # the second time, the row is in the cache
        status, answer, _ = await embed(client, input=["1 2", "1 2 3 4"], max_tokens=4)
        assert status == 400
        assert answer["error"]["code"] == "context_length_exceeded"
        assert answer["error"]["param"] == "input[1]"
        assert "input[1] has 6 tokens, and max_tokens allows 4" in answer["error"]["message"]
        await vectors(client, input="1 2 3 4")
    assert "1 2 3 4" in engine.computed


async def test_the_row_of_a_cut_text_is_not_used_for_another_text(client: TestClient, engine: FakeEngine) -> None:
    """Rows are cached per limit and side; texts that were not cut share theirs with other requests."""
    for _ in range(2):
        assert np.allclose(await vectors(client, input="1 2 3 4", truncate="end", max_tokens=4), [unit("1 2")], atol=1e-6)
        assert np.allclose(await vectors(client, input="1 2 3 4", truncate="start", max_tokens=4), [unit("3 4")], atol=1e-6)
        assert np.allclose(await vectors(client, input="1 2 3 4", truncate="end", max_tokens=5), [unit("1 2 3")], atol=1e-6)
        assert np.allclose(await vectors(client, input="1 2 3 4"), [unit("1 2 3 4")], atol=1e-6)
        assert np.allclose(await vectors(client, input="1 2 3 4", truncate="end"), [unit("1 2 3 4")], atol=1e-6)
    assert engine.computed == ["1 2", "3 4", "1 2 3", "1 2 3 4"]


async def test_cached_rows_are_still_listed_as_cut(client: TestClient) -> None:
    answers = [await embed(client, input=["a", LONG], truncate="end") for _ in range(3)]
    assert [headers["X-Edgeembed-Cache"] for _, _, headers in answers] == ["miss", "hit", "hit"]
    assert [headers["X-Edgeembed-Truncated"] for _, _, headers in answers] == ["1", "1", "1"]
    assert answers[0][1] == answers[1][1] == answers[2][1]
    assert (await embed(client, input=["a", LONG]))[0] == 400


async def test_the_same_text_twice_in_a_request_is_cut_twice(client: TestClient) -> None:
    _, answer, _ = await embed(client, input=[LONG, "a", LONG], truncate="end")
    assert [item["index"] for item in answer["truncated"]] == [0, 2]


async def test_ids_of_this_model_are_accepted_with_token_ids(client: TestClient, engine: FakeEngine) -> None:
    assert len(await vectors(client, input=[5, 6, 7], token_ids="model")) == 1
    assert len(await vectors(client, input=[[5, 6, 7], [8]], token_ids="model")) == 2
    await vectors(client, input=[5, 6], token_ids="model", input_type="query")
    assert engine.computed == ["5 6 7", "8", "Instruct: find it\nQuery:5 6"], "the row of the first ids was cached"
    await vectors(client, input="5,6,7")
    assert engine.computed[-1] == "5,6,7", "ids and text are cached under different keys"


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ("text", "input", "input is one text"),
        ([], "input", "empty list"),
        ([[]], "input[0]", "no token ids"),
        ([[1], []], "input[1]", "no token ids"),
        ([[1], "a"], "input[1]", "a string; expected a list of token ids"),
        ([[1], [True]], "input[1]", "a list of token ids"),
        ([1, "a"], "input[0]", "a number; expected a list of token ids"),
        ([-1], "input", "-1 is not a token id"),
        ([[1], [2**31]], "input[1]", "2147483648 is not a token id"),
        ([[1]] * 2049, "input", "2049 items"),
    ],
)
async def test_an_item_that_is_not_a_list_of_ids_is_named(client: TestClient, given: Any, param: str, words: str) -> None:
    status, answer, _ = await embed(client, input=given, token_ids="model")
    assert (status, answer["error"]["param"]) == (400, param)
    assert words in answer["error"]["message"]


@pytest.mark.parametrize("text", ["a", Prompted("q", "a"), Pair("q", "a")])
def test_a_huge_limit_fits_into_a_message_to_the_worker(text: Text) -> None:
    item = EmbedItem(1, Lengths("end", 10**30, own=True).around(text), BULK, False)
    sent = to_worker_decoder.decode(frame(Embed([item]))[LENGTH_BYTES:])
    assert isinstance(sent, Embed) and sent == Embed([item])


@pytest.mark.parametrize(
    ("body", "param"),
    [({"truncate": "middle"}, "truncate"), ({"max_tokens": 0}, "max_tokens"), ({"token_ids": "openai"}, "token_ids")],
)
async def test_invalid_values_of_these_fields_are_errors(client: TestClient, body: dict[str, Any], param: str) -> None:
    status, answer, _ = await embed(client, input="a", **body)
    assert (status, answer["error"]["param"]) == (400, param)


async def test_the_error_says_the_limit_in_openais_words_and_what_helps(client: TestClient, engine: FakeEngine) -> None:
    """litellm recognises these words, and clients of OpenAI's API read the number."""
    engine.attainable_tokens = 100
    words = f"input[1] has 32 tokens. This model's maximum context length is {CONTEXT_TOKENS} tokens"
    message = (await embed(client, input=["a", LONG]))[1]["error"]["message"]
    assert message.startswith(words)
    assert message.endswith("raise the server's setting context_tokens (up to 100 for this model)")
    message = (await embed(client, input=["a", "word " * 200]))[1]["error"]["message"]
    assert "context_tokens" not in message, "no setting makes room for that"
    engine.attainable_tokens = 0
    message = (await embed(client, input=["a", LONG]))[1]["error"]["message"]
    assert message == f"{words}. Split the text, or have it cut or divided (see truncate and long_text)"


@pytest.mark.parametrize(("setting", "left"), [("end", " ".join(WORDS[:18])), ("start", " ".join(WORDS[-18:]))])
async def test_the_setting_truncate_holds_unless_a_request_says_something_else(
    engine: FakeEngine, aiohttp_client: Callable[..., Awaitable[TestClient]], setting: str, left: str
) -> None:
    service = fake_service(engine, VectorCache(None, memory_mib=8, disk_mib=0), truncate=setting)
    client = await aiohttp_client(make_app(service))
    for _ in range(3):  # the second time, the row is in the cache; a stored response would come the third time
        status, answer, headers = await embed(client, input=LONG)
        assert (status, headers["X-Edgeembed-Truncated"]) == (200, "1")
        assert answer["truncated"] == [{"index": 0, "tokens": CONTEXT_TOKENS, "full_tokens": 32}]
        assert (await embed(client, input=LONG, truncate="none"))[0] == 400
        assert (await embed(client, input=LONG, truncation=False))[0] == 400
    assert engine.computed == [left]
    assert (await embed(client, input=LONG, truncate="end"))[0] == 200
    assert engine.computed[1:] == ([] if setting == "end" else [FITS])


@pytest.fixture
async def strict(engine: FakeEngine, aiohttp_client: Callable[..., Awaitable[TestClient]]) -> TestClient:
    """A server with a limit of 30 tokens per request."""
    service = fake_service(engine, VectorCache(None, memory_mib=8, disk_mib=0), prompts=PROMPTS, max_request_tokens=30)
    return await aiohttp_client(make_app(service))


async def test_a_request_with_too_many_tokens_is_refused_before_anything_is_computed(
    strict: TestClient, engine: FakeEngine
) -> None:
    texts = [f"{number} two three" for number in range(6)]
    assert len(await vectors(strict, input=texts)) == 6
    computed = list(engine.computed)
    for given in ([*texts, "one more"], [f"{number} new words" for number in range(7)], ["the same words"] * 7):
        status, answer, _ = await embed(strict, input=given)
        assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "max_tokens_per_request", "input")
        assert "at most 30" in answer["error"]["message"]
    assert engine.computed == computed
    assert engine.status.texts_waiting == 0


async def test_only_the_rest_of_a_cut_text_counts(strict: TestClient) -> None:
    given = [" ".join([str(number), *WORDS[:15]]) for number in range(3)]
    assert (await embed(strict, input=given))[0] == 400
    assert len(await vectors(strict, input=given, truncate="end", max_tokens=10)) == 3


async def test_a_single_text_that_is_too_long_is_reported_first(strict: TestClient) -> None:
    status, answer, _ = await embed(strict, input=["a", LONG])
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "context_length_exceeded", "input[1]")


async def test_counting_tokens_has_no_limit_but_listing_ids_has(strict: TestClient) -> None:
    many = ["two words"] * 10
    assert (await (await strict.post("/v1/tokenize", json={"input": many})).json())["total_tokens"] == 40
    for path, body, status in (("/v1/tokenize", {"input": many, "ids": True}, 400), ("/tokenize", {"inputs": many}, 422)):
        refused = await strict.post(path, json=body)
        assert refused.status == status
        assert "40 tokens in all; a request takes at most 30" in await refused.text()


# --- windows ----------------------------------------------------------------------------------------------------------

PROSE = "The sea is calm. A ship sails by. " * 20


async def test_a_long_text_has_the_mean_of_its_windows(client: TestClient, engine: FakeEngine) -> None:
    status, answer, headers = await embed(client, input=["a", PROSE], long_text="mean")
    assert status == 200
    windows = [text for text in engine.computed if text != "a"]
    assert len(windows) > 1
    assert "truncated" not in answer and "X-Edgeembed-Truncated" not in headers
    assert all("chunks" not in item for item in answer["data"])
    _, chunks, headers = await embed(client, input=["a", PROSE], long_text="chunks")
    assert headers["X-Edgeembed-Cache"] == "hit"
    assert [item["embedding"] for item in chunks["data"]] == [item["embedding"] for item in answer["data"]]
    assert answer["usage"] == chunks["usage"]
    (whole,), parts = (item["chunks"] for item in chunks["data"])
    assert (whole["start"], whole["end"], whole["embedding"]) == (0, 1, chunks["data"][0]["embedding"])
    assert sum(part["tokens"] for part in parts) + 3 == answer["usage"]["total_tokens"]
    for part in parts:
        assert np.allclose(part["embedding"], unit(PROSE[part["start"] : part["end"]]), atol=1e-6)


async def test_the_windows_vectors_have_the_form_of_the_others(client: TestClient) -> None:
    _, answer, _ = await embed(client, input=PROSE, long_text="chunks", dimensions=4, output_dtype="int8")
    (item,) = answer["data"]
    assert all(len(part["embedding"]) == 4 and max(map(abs, part["embedding"])) <= 127 for part in [item, *item["chunks"]])
    _, answer, _ = await embed(client, input=PROSE, long_text="chunks", encoding_format="base64")
    assert all(isinstance(part["embedding"], str) for part in answer["data"][0]["chunks"])
    status, answer, _ = await embed(client, input=PROSE, long_text="chunks", encoding_format="bytes")
    assert (status, answer["error"]["param"]) == (400, "encoding_format")


async def test_a_field_that_cuts_or_refuses_contradicts_windows(client: TestClient) -> None:
    for field in ({"truncate": "end"}, {"truncation": False}, {"truncate_prompt_tokens": 5}):
        status, answer, _ = await embed(client, input=PROSE, long_text="mean", **field)
        assert (status, answer["error"]["param"]) == (400, "long_text")
        assert "contradict" in answer["error"]["message"]
    status, answer, _ = await embed(client, input=[5, 6], token_ids="model", long_text="mean")
    assert (status, answer["error"]["param"]) == (400, "long_text")
    status, answer, _ = await embed(client, input="a", long_text="median")
    assert status == 400


async def test_the_setting_holds_where_a_request_does_not_say(
    engine: FakeEngine, aiohttp_client: Callable[..., Awaitable[TestClient]]
) -> None:
    service = fake_service(engine, long_text="mean")
    client = await aiohttp_client(make_app(service, max_body_bytes=100_000, max_request_texts=2048))
    _, answer, headers = await embed(client, input=PROSE)
    assert len(engine.computed) > 1 and "truncated" not in answer
    _, answer, headers = await embed(client, input=PROSE, truncate="end")
    assert headers["X-Edgeembed-Truncated"] == "1"
    assert (await embed(client, input=PROSE, truncate="none"))[0] == 400
    assert (await embed(client, input=PROSE, long_text="none"))[0] == 400
    assert (await embed(client, input=[5] * 10, token_ids="model"))[0] == 200
