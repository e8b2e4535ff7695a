"""Outputs of small models over HTTP: dense, sparse and multi in one pass against the reference, MaxSim, hidden states."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from tests.convert.encoder_texts import TEXTS
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo import FORMS
from tests.convert.zoo.rows import Outputs, read_outputs
from tests.e2e.daemon import Daemon, cosines, post, running
from tests.e2e.models import install

WHOLE, COLBERT, MINILM = "three-outputs", "colbert", "all-minilm-l6-v2"
OUTPUTS = ("dense", "multi", "sparse")
DOCUMENTS = ["The rain falls.", "A dry desert.", "Umbrellas are sold out."]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    forms = {form.name: form for form in FORMS}
    return {name: forms[form].make(folder / name) for name, form in ((WHOLE, "bge_m3"), (COLBERT, "colbert_bert"))}


@pytest.fixture(scope="module")
def daemon(
    checkpoints: dict[str, Path], minilm: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("outputs")
    home = folder / "home"
    home.mkdir()
    for name, checkpoint in checkpoints.items():
        file = folder / f"{name}.gguf"
        convert_checkpoint(checkpoint, file, quantization="F32", license="MIT")
        install(home, name, "F32", file)
    install(home, MINILM, "Q8_0", minilm("Q8_0"))
    with running("--model", WHOLE, home=home) as made:
        yield made


@pytest.fixture(scope="module")
def reference(checkpoints: dict[str, Path]) -> list[Outputs]:
    return read_outputs("bge_m3", checkpoints[WHOLE], OUTPUTS)


def items(daemon: Daemon, path: str = "/v1/embeddings", **body: Any) -> list[dict[str, Any]]:
    """Return the items of an answer, which has to be one."""
    status, answer = post(daemon, path, **body)
    assert status == 200, answer
    return answer["data"]


def test_all_outputs_are_those_of_the_reference(daemon: Daemon, reference: list[Outputs]) -> None:
    texts = [TEXTS[one.kind] for one in reference]
    found = items(daemon, input=texts, sparse=True, multi_vector=True, truncate="end")
    for item, one in zip(found, reference, strict=True):
        assert cosines(np.array([item["embedding"]]), one.values["dense"]).min() > 0.9999, one.kind
        assert cosines(np.array(item["multi_embedding"]), one.values["multi"]).min() > 0.999, "stored as small integers"
        sparse, expected = item["sparse_embedding"], one.values["sparse"][one.values["sparse"][:, 0].argsort()]
        assert sparse["indices"] == expected[:, 0].astype(int).tolist()
        assert np.allclose(sparse["values"], expected[:, 1], atol=1e-3)


def test_every_route_returns_the_same_numbers(daemon: Daemon) -> None:
    whole = items(daemon, input=DOCUMENTS, sparse=True, multi_vector=True)
    assert np.allclose([item["embedding"] for item in whole], daemon.embed(DOCUMENTS), atol=1e-5)
    for item, pairs in zip(whole, post(daemon, "/embed_sparse", inputs=DOCUMENTS)[1], strict=True):
        sparse: Any = item["sparse_embedding"]
        assert [pair["index"] for pair in pairs] == sparse["indices"]  # type: ignore[index]
        assert np.allclose([pair["value"] for pair in pairs], sparse["values"], atol=1e-5)  # type: ignore[index]
    jina = items(daemon, "/v1/multi-vector", input=DOCUMENTS, input_type="document")
    vllm = items(daemon, "/pooling", input=DOCUMENTS, task="token_embed")
    for item, as_jina, as_vllm in zip(whole, jina, vllm, strict=True):
        assert np.allclose(item["multi_embedding"], as_jina["embeddings"], atol=1e-5)
        assert np.allclose(item["multi_embedding"], as_vllm["data"], atol=1e-5)


def test_the_openai_package_has_them_as_further_fields(daemon: Daemon) -> None:
    client = openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="unused", max_retries=0)
    asked = {"sparse": True, "multi_vector": True}
    (expected, *_) = items(daemon, input=DOCUMENTS, **asked)
    answer = client.embeddings.create(model=WHOLE, input=DOCUMENTS, encoding_format="float", extra_body=asked)
    item = answer.data[0]
    assert np.allclose(item.embedding, expected["embedding"], atol=1e-5)
    assert np.allclose(item.model_extra["multi_embedding"], expected["multi_embedding"], atol=1e-5)  # type: ignore[index]
    assert item.model_extra["sparse_embedding"]["indices"] == expected["sparse_embedding"]["indices"]  # type: ignore[index]
    alone = client.embeddings.create(
        model=COLBERT, input=DOCUMENTS, encoding_format="float", extra_body={"multi_vector": True}
    )
    assert np.shape(alone.data[0].model_extra["multi_embedding"])[1] == 8  # type: ignore[index]
    coded = client.embeddings.create(model=WHOLE, input=DOCUMENTS, extra_body=asked).data[0]
    rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in coded.model_extra["multi_embedding"]]  # type: ignore[index]
    assert np.allclose(rows, expected["multi_embedding"], atol=1e-5), "the package asks for base64 by itself"


def test_words_are_those_of_the_text(daemon: Daemon) -> None:
    text = " ".join(DOCUMENTS)
    (item,) = items(daemon, input=text, sparse=True, sparse_words=True)
    sparse = item["sparse_embedding"]
    assert len(sparse["words"]) == len(sparse["indices"]) > 0
    assert all(word.strip() and word.strip() in text for word in sparse["words"]), sparse["words"]


def test_late_interaction_reads_queries_and_documents_differently(daemon: Daemon) -> None:
    (query,) = items(daemon, model=COLBERT, input="rain", multi_vector=True, input_type="query")
    (document,) = items(daemon, model=COLBERT, input="rain", multi_vector=True, input_type="document")
    assert list(query) == ["object", "index", "multi_embedding"], "the model has no dense vectors"
    assert len(query["multi_embedding"]) == 32 > len(document["multi_embedding"]), "queries are expanded"
    status, answer = post(daemon, "/v1/embeddings", model=COLBERT, input="rain")
    assert (status, answer["error"]["code"]) == (400, "wrong_task")


def test_reranking_with_late_interaction_is_maxsim(daemon: Daemon) -> None:
    (query,) = items(daemon, model=COLBERT, input="is it raining", multi_vector=True, input_type="query")
    documents = items(daemon, model=COLBERT, input=DOCUMENTS, multi_vector=True, input_type="document")
    one = np.array(query["multi_embedding"])
    expected = [(one @ np.array(each["multi_embedding"]).T).max(axis=1).sum() for each in documents]
    status, answer = post(daemon, "/v1/rerank", model=COLBERT, query="is it raining", documents=DOCUMENTS, raw_scores=True)
    assert status == 200, answer
    scores = {item["index"]: item["relevance_score"] for item in answer["results"]}
    order = sorted(range(len(DOCUMENTS)), key=lambda index: -expected[index])
    assert sorted(scores, key=lambda index: -scores[index]) == order


def test_the_mean_of_hidden_states_is_the_vector(daemon: Daemon) -> None:
    expected = daemon.embed(DOCUMENTS, model=MINILM)
    _, states = post(daemon, "/embed_all", model=MINILM, inputs=DOCUMENTS)
    means = np.stack([np.mean(one, axis=0) for one in states])
    assert cosines(means, expected).min() > 0.99999
    body = json.dumps({"model": MINILM, "input": DOCUMENTS, "encoding_format": "bytes"}).encode()
    request = urllib.request.Request(f"{daemon.url}/pooling", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        metadata, content = json.loads(response.headers["metadata"]), response.read()
    for text, rows in zip(metadata["data"], states, strict=True):
        found = np.frombuffer(content[text["start"] : text["end"]], dtype="<f4").reshape(text["shape"])
        assert cosines(found, np.array(rows)).min() > 0.99999
        assert np.allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)


def test_models_list_their_outputs(daemon: Daemon) -> None:
    listed = {model["id"]: model["outputs"] for model in daemon.get("/v1/models")[1]["data"] if "outputs" in model}
    assert listed[WHOLE] == [*OUTPUTS, "tokens"]
    assert listed[COLBERT] == ["multi", "tokens"]
    assert listed[MINILM] == ["dense", "tokens"]
