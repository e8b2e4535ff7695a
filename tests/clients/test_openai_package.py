"""The `openai` package against the real daemon with the real MiniLM."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest

from tests.e2e.daemon import Daemon, cosines, running

MODEL = "all-minilm-l6-v2-Q8_0"
TEXTS = [f"text number {number}: " + "some words of very different length " * (number % 9) for number in range(100)]


@pytest.fixture(scope="module")
def daemon(minilm: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running("--model", str(minilm("Q8_0")), home=tmp_path_factory.mktemp("e2e") / "home") as made:
        yield made


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="unused", max_retries=0)


def rows(answer: openai.types.CreateEmbeddingResponse) -> np.ndarray:
    return np.array([item.embedding for item in answer.data], dtype=np.float32)


def test_a_list_of_100_texts_keeps_its_order_and_equals_single_requests(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input=TEXTS)
    together = rows(answer)
    assert together.shape == (100, 384)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 100
    # Prefixed, so that they are not in the cache.
    singles = np.concatenate([rows(client.embeddings.create(model=MODEL, input=f"{text} ")) for text in TEXTS[::10]])
    assert cosines(together[::10], singles).min() > 0.999


def test_base64_and_float_are_the_same_rows(client: openai.OpenAI) -> None:
    floats = rows(client.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float"))
    coded = client.embeddings.with_raw_response.create(
        model=MODEL, input=TEXTS, encoding_format="base64"
    ).http_response.json()
    decoded = np.stack([np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4") for item in coded["data"]])
    assert np.array_equal(floats, decoded)
    assert np.array_equal(floats, rows(client.embeddings.create(model=MODEL, input=TEXTS)))


def test_fewer_dimensions_are_the_first_ones_normalised(client: openai.OpenAI) -> None:
    full = rows(client.embeddings.create(model=MODEL, input=TEXTS[:5]))
    cut = rows(client.embeddings.create(model=MODEL, input=TEXTS[:5], dimensions=128))
    assert cut.shape == (5, 128)
    assert np.allclose(np.linalg.norm(cut, axis=1), 1, atol=1e-5)
    assert np.allclose(cut, full[:, :128] / np.linalg.norm(full[:, :128], axis=1, keepdims=True), atol=1e-5)


def test_errors_raise_the_sdks_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.embeddings.create(model="text-embedding-3-small", input="a")
    with pytest.raises(openai.BadRequestError, match="empty") as empty:
        client.embeddings.create(model=MODEL, input=["a", ""])
    assert (empty.value.param, empty.value.code) == ("input[1]", "empty_input")
    with pytest.raises(openai.BadRequestError, match=r"input\[1\] has \d+ tokens\. .* length is 256 tokens") as long:
        client.embeddings.create(model=MODEL, input=["a", "word " * 600])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="between 1 and 384"):
        client.embeddings.create(model=MODEL, input="a", dimensions=1024)
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length"):
        client.embeddings.create(model=MODEL, input=[1, 2, 3])


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_many_clients_at_once_get_their_own_vectors(daemon: Daemon, client: openai.OpenAI) -> None:
    texts = [f"client {client_} asks for {number}" for client_ in range(16) for number in range(8)]
    with ThreadPoolExecutor(16) as pool:
        got = np.concatenate(list(pool.map(lambda text: rows(client.embeddings.create(model=MODEL, input=text)), texts)))
    expected = daemon.embed([f" {text}" for text in texts])  # a leading space: the same tokens, but another cache entry
    assert cosines(got, expected).min() > 0.999


def test_2048_texts_in_one_request(client: openai.OpenAI) -> None:
    texts = [f"n{number}" for number in range(2048)]
    answer = client.embeddings.create(model=MODEL, input=texts)
    assert len(answer.data) == 2048
    with pytest.raises(openai.BadRequestError, match="2048"):
        client.embeddings.create(model=MODEL, input=[*texts, "one more"])
