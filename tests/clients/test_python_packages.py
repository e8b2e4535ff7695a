"""The Python packages of Ollama, Cohere and Hugging Face against the real daemon, each with its defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cohere
import numpy as np
import ollama
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.convert.tiny_encoders import make_tiny_cross_encoder
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.classifiers import make_classifier
from tests.e2e.daemon import Daemon, cosines, post, running
from tests.e2e.models import install

MODEL = "all-minilm-l6-v2"
TEXTS = ["The rain falls.", "A dry desert.", "Umbrellas are sold out."]
LONG = "word " * 600
LABELS = ("negative", "neutral", "positive")


@pytest.fixture(scope="module")
def daemon(minilm: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("clients")
    home = folder / "home"
    home.mkdir()
    make_tiny_cross_encoder(folder / "ranker")
    convert_checkpoint(folder / "ranker", folder / "ranker.gguf", quantization="F32", license="Apache-2.0")
    install(home, MODEL, "Q8_0", minilm("Q8_0"))
    install(home, "tiny-ranker", "F32", folder / "ranker.gguf")
    make_classifier(folder / "judge", make_tiny_cross_encoder, "classifier", LABELS)
    convert_checkpoint(folder / "judge", folder / "judge.gguf", quantization="F32", license="Apache-2.0")
    install(home, "tiny-judge", "F32", folder / "judge.gguf")
    with running("--model", MODEL, "--aliases", f"nomic-embed-text={MODEL}", home=home) as made:
        yield made


@pytest.fixture(scope="module")
def expected(daemon: Daemon) -> np.ndarray:
    """The rows of POST /v1/embeddings for the texts, shape (texts, 384)."""
    return daemon.embed(TEXTS)


def same(rows: object, expected: np.ndarray) -> bool:
    return bool(np.allclose(np.asarray(rows, dtype=np.float32), expected, atol=1e-6))


def test_ollama(daemon: Daemon, expected: np.ndarray) -> None:
    client = ollama.Client(host=daemon.url)
    answer = client.embed(model=MODEL, input=TEXTS)
    assert same(answer.embeddings, expected)
    assert answer.prompt_eval_count and answer.total_duration
    assert same(client.embed(model=f"{MODEL}:latest", input=TEXTS[0], keep_alive="5m").embeddings, expected[:1])
    assert same(client.embeddings(model="nomic-embed-text", prompt=TEXTS[0]).embedding, expected[0])
    cut = client.embed(model=MODEL, input=TEXTS[0], dimensions=64, truncate=True, options={"num_ctx": 2048}).embeddings
    assert same(cut, expected[:1, :64] / np.linalg.norm(expected[:1, :64]))
    names = {f"{MODEL}:latest", f"{MODEL}:Q8_0", "all-minilm:latest", "nomic-embed-text:latest"}
    assert names == {model.model for model in client.list().models}
    shown = client.show("nomic-embed-text")
    assert shown.capabilities == ["embedding"]
    assert shown.modelinfo and shown.modelinfo["bert.embedding_length"] == 384
    assert shown.details and (shown.details.family, shown.details.parameter_size) == ("bert", "22.57M")
    (loaded, *_) = client.ps().models
    assert (loaded.model, loaded.context_length) == (f"{MODEL}:latest", 256)
    empty = client.embed(model=MODEL, input=["", TEXTS[0]])
    assert same(empty.embeddings[1:], expected[:1])
    assert np.linalg.norm(empty.embeddings[0]) == pytest.approx(1.0, abs=1e-5), "the row of [CLS] and [SEP]"
    alone = client.embed(model=MODEL, input=[""])
    assert (alone.embeddings[0], alone.prompt_eval_count) == (empty.embeddings[0], 2)


def test_errors_of_ollama(daemon: Daemon) -> None:
    client = ollama.Client(host=daemon.url)
    for ask in (client.embed, client.embeddings, client.show):
        with pytest.raises(ollama.ResponseError, match="model 'no-such-model' not found") as missing:
            ask("no-such-model")
        assert missing.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match=r"the input length exceeds the context length: .* 256"):
        client.embed(model=MODEL, input=LONG, truncate=False)
    with pytest.raises(ollama.ResponseError, match="input after truncation exceeds maximum context length"):
        client.embed(model=MODEL, input=LONG, options={"num_ctx": 1})
    assert client.embed(model=MODEL, input=LONG).prompt_eval_count == 256
    with pytest.raises(ollama.ResponseError, match="does not support generate"):
        client.generate(MODEL, "a")


def test_cohere(daemon: Daemon, expected: np.ndarray) -> None:
    client = cohere.ClientV2(api_key="unused", base_url=daemon.url)
    answer = client.embed(
        model=MODEL, texts=TEXTS, input_type="search_document", embedding_types=["float", "int8", "ubinary"]
    )
    assert same(answer.embeddings.float_, expected)
    assert cosines(np.array(answer.embeddings.int8, dtype=np.float32), expected).min() > 0.999
    assert np.shape(answer.embeddings.ubinary) == (3, 48)
    ranked = client.rerank(model="tiny-ranker", query="Is it raining?", documents=TEXTS, top_n=2).results
    assert len(ranked) == 2 and ranked[0].relevance_score >= ranked[1].relevance_score
    with pytest.raises(cohere.NotFoundError, match="embed-v4"):
        client.embed(model="embed-v4.0", texts=TEXTS, input_type="search_query")
    older = cohere.Client(api_key="unused", base_url=daemon.url)
    many = older.embed(model=MODEL, texts=TEXTS * 50, input_type="search_document").embeddings
    assert same(many, np.tile(expected, (50, 1)))
    documents = older.rerank(model="tiny-ranker", query="q", documents=TEXTS, return_documents=True).results
    assert {each.document.text for each in documents if each.document} == set(TEXTS)


def test_huggingface_hub(daemon: Daemon, expected: np.ndarray) -> None:
    for address in (daemon.url, f"{daemon.url}/embed"):
        client = InferenceClient(address)
        assert same(client.feature_extraction(TEXTS[0]), expected[:1])
        assert same(client.feature_extraction(TEXTS, normalize=True, truncate=True), expected)
        raw = client.feature_extraction(TEXTS, normalize=False)
        assert not same(raw, expected) and cosines(raw, expected).min() > 0.99999
        assert client.feature_extraction(TEXTS, dimensions=64).shape == (3, 64)
    for address in (daemon.url, f"{daemon.url}/similarity"):
        found = InferenceClient(address).sentence_similarity(TEXTS[0], other_sentences=TEXTS)
        assert np.allclose(found, expected @ expected[0], atol=1e-5)
    states = InferenceClient(f"{daemon.url}/embed_all").feature_extraction(TEXTS[0])
    assert same(states.mean(axis=1) / np.linalg.norm(states.mean(axis=1)), expected[:1]), "the model's rows are their mean"
    with pytest.raises(HfHubHTTPError, match="no sparse vectors"):
        InferenceClient(f"{daemon.url}/embed_sparse").feature_extraction(TEXTS[0])
    with pytest.raises(HfHubHTTPError, match="maximum context length is 256"):
        InferenceClient(daemon.url).feature_extraction(LONG, truncate=False)


def test_text_classification_of_huggingface_hub(daemon: Daemon) -> None:
    """At /predict, and at the server's address, where the default model decides: this one's is an embedder."""
    logits = post(daemon, "/classify", input=TEXTS[:1], use_activation=False)[1]["data"][0]["probs"]
    powers = np.exp(np.array(logits) - max(logits))
    expected = {label: float(power / powers.sum()) for label, power in zip(LABELS, powers, strict=True)}
    client = InferenceClient(f"{daemon.url}/predict")
    found = client.text_classification(TEXTS[0])
    assert [one.label for one in found] == sorted(LABELS, key=lambda label: -expected[label])
    assert {one.label: one.score for one in found} == pytest.approx(expected, abs=1e-6)
    (best,) = client.text_classification(TEXTS[0], top_k=1)
    assert (best.label, best.score) == (found[0].label, found[0].score)
    plain = client.text_classification(TEXTS[0], function_to_apply="none")
    assert sorted(one.score for one in plain) == pytest.approx(sorted(logits), abs=1e-6)
    with pytest.raises(HfHubHTTPError, match="empty"):
        client.text_classification("")


def test_the_clients_of_text_embeddings_inference(daemon: Daemon, expected: np.ndarray) -> None:
    """There is no official package: tools send requests to the routes themselves."""
    assert same(post(daemon, "/embed", inputs=TEXTS, truncate=True)[1], expected)
    ranks: Any = post(daemon, "/rerank", query="q", texts=TEXTS, raw_scores=False)[1]
    assert sorted(rank["index"] for rank in ranks) == [0, 1, 2]
    assert daemon.get("/info")[1]["max_input_length"] == 256
