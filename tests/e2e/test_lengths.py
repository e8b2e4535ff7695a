"""Truncated texts and token ids as input, on the real daemon with the real MiniLM."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.daemon import Daemon, cosines, running

WORDS = ["rain", "falls", "on", "green", "hills", "while", "seven", "old", "birds", "sleep"] * 100
WORDS += ["the", "cold", "sea"] * 20
"""Each word is one token of MiniLM."""
LONG = " ".join(WORDS)
CONTEXT = 256


@pytest.fixture(scope="module")
def daemon(minilm: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    home = tmp_path_factory.mktemp("lengths") / "home"
    with running("--model", str(minilm("Q8_0")), home=home) as started:
        yield started


def post(daemon: Daemon, path: str, **body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(daemon.url + path, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_truncation_equals_truncating_the_text_by_hand(daemon: Daemon) -> None:
    room = CONTEXT - 2
    by_hand = daemon.embed([" ".join(WORDS[:room]), " ".join(WORDS[-room:]), " ".join(WORDS[:30]), " ".join(WORDS[-30:])])
    cut = [
        daemon.embed(LONG, truncate=side, cache=False, **more)[0]
        for more in ({}, {"max_tokens": 32})
        for side in ("end", "start")
    ]
    assert cosines(np.stack(cut), by_hand).min() >= 0.9999
    assert abs(cosines(by_hand[:1], by_hand[1:2])[0]) < 0.9999, "the rows of the two sides differ"
    assert post(daemon, "/v1/embeddings", input=LONG)[0] == 400


def test_truncation_is_reported_for_computed_and_cached_rows(daemon: Daemon) -> None:
    output = [post(daemon, "/v1/embeddings", input=["rain", LONG], truncate="end")[1] for _ in range(2)]
    assert output[0]["truncated"] == [{"index": 1, "tokens": CONTEXT, "full_tokens": len(WORDS) + 2}]
    assert output[1] == output[0]
    assert output[0]["usage"]["total_tokens"] == 3 + CONTEXT


def test_cached_rows_equal_computed_ones(daemon: Daemon) -> None:
    text = "one two three four five six seven eight nine ten"
    bodies: list[dict[str, Any]] = [{"truncate": side, "max_tokens": most} for side in ("end", "start") for most in (5, 6)]
    bodies += [{}, {"truncate": "end"}]
    first = np.stack([daemon.embed(text, **body)[0] for body in bodies])
    again = np.stack([daemon.embed(text, **body)[0] for body in bodies])
    fresh = np.stack([daemon.embed(text, cache=False, **body)[0] for body in bodies])
    assert cosines(first, fresh).min() >= 0.9999
    assert np.array_equal(first, again)
    assert len({row.tobytes() for row in first}) == 5, "only the untruncated texts share a row"


def test_token_ids_have_the_row_of_their_text(daemon: Daemon) -> None:
    texts = ["The rain falls.", "déjà vu", "word " * 100]
    _, read = post(daemon, "/v1/tokenize", input=texts, ids=True)
    ids = [text["ids"] for text in read["data"]]
    for given in (ids, [each[1:-1] for each in ids]):  # with special tokens, and without
        assert cosines(daemon.embed(given, token_ids="model"), daemon.embed(texts)).min() >= 0.9999
    status, answer = post(daemon, "/v1/embeddings", input=[[101, 30_522]], token_ids="model")
    assert (status, answer["error"]["param"]) == (400, "input[0]")
    assert "no token 30522" in answer["error"]["message"]
    assert post(daemon, "/v1/embeddings", input=ids)[0] == 400


def test_a_text_that_is_too_long_refuses_a_large_request_before_anything_is_computed(daemon: Daemon) -> None:
    text = "word " * 240
    computed = post_status(daemon)
    status, answer = post(daemon, "/v1/embeddings", input=[*(f"{number} {text}" for number in range(600)), text * 2])
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "context_length_exceeded", "input[600]")
    assert post_status(daemon) == computed


def post_status(daemon: Daemon) -> int:
    """Return the number of texts computed so far."""
    computed: int = daemon.get("/v1/status")[1]["engine"]["texts_computed"]
    return computed


# --- windows ----------------------------------------------------------------------------------------------------------

SENTENCES = [f"On day {day} {WORDS[day % 9]} was seen near the cold sea." for day in range(540)]
DOCUMENT = "\n\n".join(" ".join([f"Chapter {at}.", *SENTENCES[9 * at : 9 * at + 9]]) for at in range(60))


def texts_computed(daemon: Daemon) -> int:
    return int(daemon.get("/v1/status")[1]["engine"]["texts_computed"])


def test_a_long_text_is_divided_and_an_edit_costs_a_few_windows(daemon: Daemon) -> None:
    status, answer = post(daemon, "/v1/embeddings", input=DOCUMENT, long_text="chunks")
    assert status == 200
    (item,) = answer["data"]
    chunks = item["chunks"]
    assert len(chunks) > 20
    assert all(CONTEXT // 4 < chunk["tokens"] <= CONTEXT for chunk in chunks)
    by_hand = daemon.embed([DOCUMENT[chunk["start"] : chunk["end"]] for chunk in chunks], cache=False)
    assert cosines(np.array([chunk["embedding"] for chunk in chunks]), by_hand).min() >= 0.9999
    mean = np.average(by_hand, axis=0, weights=[chunk["tokens"] for chunk in chunks])
    assert cosines(np.array([item["embedding"]]), mean[None] / np.linalg.norm(mean)).min() >= 0.999
    before = texts_computed(daemon)
    _, edited = post(daemon, "/v1/embeddings", input="A preface was added later. " + DOCUMENT, long_text="mean")
    assert 1 <= texts_computed(daemon) - before <= 4
    assert cosines(np.array([edited["data"][0]["embedding"]]), np.array([item["embedding"]])).min() >= 0.99
    before = texts_computed(daemon)
    assert post(daemon, "/api/embed", input=DOCUMENT, long_text="mean")[0] == 200
    assert texts_computed(daemon) == before, "all of it is in the cache"


@pytest.mark.parametrize(
    "text",
    [
        "東京は日本の首都であり世界最大級の都市です。" * 200,
        "กรุงเทพมหานครเป็นเมืองหลวง " * 200,
        "x" * 30_000,
        "1,2;3." * 4000,
        "😀👍🏽" * 2000,
    ],
    ids=["Chinese", "Thai", "a word", "numbers", "emoji"],
)
def test_no_window_is_too_long_in_any_script(daemon: Daemon, text: str) -> None:
    status, answer = post(daemon, "/v1/embeddings", input=text, long_text="chunks")
    assert status == 200, answer
    chunks = answer["data"][0]["chunks"]
    assert all(chunk["tokens"] <= CONTEXT for chunk in chunks)
    covered = {at for chunk in chunks for at in range(chunk["start"], chunk["end"])}
    assert {at for at, character in enumerate(text) if not character.isspace()} <= covered
