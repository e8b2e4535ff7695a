"""Scores over HTTP, against those that the model computes of the same tokens in this process."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeembed.engine.interface import Limits, Pair
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.worker.reader import TextReader
from edgeembed.engine.worker_options import WorkerOptions
from tests.convert.tiny_encoders import make_tiny_cross_encoder
from tests.convert.without_proof import convert_checkpoint
from tests.e2e.daemon import Daemon, running
from tests.e2e.models import install

MODEL = "all-minilm-l6-v2"
QUERY = "what is rain"
DOCUMENTS = ["The rain falls.", "A dry desert.", "Umbrellas are sold out.", "rain " * 700]
PATHS = ("/rerank", "/v1/rerank", "/v2/rerank", "/reranking", "/v1/reranking")
CUT = Limits(0, "end", query=True)


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranker")
    make_tiny_cross_encoder(folder / "tiny")
    return convert_checkpoint(folder / "tiny", folder / "tiny.gguf", quantization="F32", license="Apache-2.0").path


@pytest.fixture(scope="module")
def daemon(ranker: Path, minilm: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    home = tmp_path_factory.mktemp("home")
    install(home, MODEL, "Q8_0", minilm("Q8_0"))
    install(home, "tiny-ranker", "F32", ranker)
    with running("--model", MODEL, "--aliases", f"some-reranker={MODEL}:cosine", home=home) as made:
        yield made


@pytest.fixture(scope="module")
def logits(ranker: Path) -> Iterator[Callable[[Sequence[tuple[str, str]]], np.ndarray]]:
    """Returns the model's logits of pairs, each alone, cut to what the model takes; shape (pairs,)."""
    model = LlamaModel(
        WorkerOptions(
            path=str(ranker), threads=1, context_tokens=4096, batch_tokens=64, mode="cpu", extra_buffers=True, task="rerank"
        )
    )
    reader = TextReader(model, context_tokens=model.info.context_tokens, vocabulary=model.vocabulary.size)

    def compute(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        readings = [reader.read_within(Pair(query, document, None, CUT)) for query, document in pairs]
        return np.array([model.embed([reading.tokens])[0][0] for reading in readings])

    yield compute
    model.close()


def ask(daemon: Daemon, path: str, **body: Any) -> Any:
    data = json.dumps({"model": "tiny-ranker", **body}).encode()
    request = urllib.request.Request(daemon.url + path, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def in_order(answer: Any) -> list[float]:
    """Return the scores of an answer in the order of the documents."""
    if isinstance(answer, list):
        return [item["score"] for item in sorted(answer, key=lambda item: item["index"])]
    if "results" in answer:
        return [item["relevance_score"] for item in sorted(answer["results"], key=lambda item: item["index"])]
    return [item["score"] for item in answer["data"]]


def test_every_path_and_shape_gives_the_models_own_scores(daemon: Daemon, logits: Callable[..., np.ndarray]) -> None:
    expected = logits([(QUERY, document) for document in DOCUMENTS])
    relevances = 1 / (1 + np.exp(-expected.astype(np.float64)))
    for path in PATHS:
        for field in ("documents", "texts"):
            assert np.allclose(in_order(ask(daemon, path, query=QUERY, **{field: DOCUMENTS})), relevances, atol=1e-4)
            raw = in_order(ask(daemon, path, query=QUERY, raw_scores=True, **{field: DOCUMENTS}))
            assert np.allclose(raw, expected, atol=1e-3)
    cut = {"truncate_prompt_tokens": -1}
    assert np.allclose(in_order(ask(daemon, "/score", text_1=QUERY, text_2=DOCUMENTS, **cut)), relevances, atol=1e-4)
    same = in_order(ask(daemon, "/v1/score", queries=[QUERY] * 4, documents=DOCUMENTS, **cut))
    assert np.allclose(same, relevances, atol=1e-4)


@pytest.mark.parametrize("cache", [False, True])
def test_a_long_query_is_cut_with_its_documents(daemon: Daemon, logits: Callable[..., np.ndarray], cache: bool) -> None:
    query = "dry desert " * 500
    expected = logits([(query, document) for document in DOCUMENTS])
    for _ in range(2):
        answer = ask(daemon, "/v1/rerank", query=query, documents=DOCUMENTS, raw_scores=True, cache=cache)
        assert np.allclose(in_order(answer), expected, atol=1e-3)
        assert [item["index"] for item in answer["truncated"]] == [0, 1, 2, 3]
    pairs = list(zip([QUERY, query, QUERY, query], DOCUMENTS, strict=True))
    answer = ask(
        daemon,
        "/score",
        text_1=[one for one, _ in pairs],
        text_2=[other for _, other in pairs],
        truncate_prompt_tokens=-1,
        use_activation=False,
    )
    assert np.allclose(in_order(answer), logits(pairs), atol=1e-3)


def test_an_embedder_ranks_and_scores_by_the_cosine_of_its_vectors(daemon: Daemon) -> None:
    rows = daemon.embed([QUERY, *DOCUMENTS[:3]])
    cosines = rows[1:] @ rows[0]
    for model in (f"{MODEL}:cosine", "some-reranker"):
        assert np.allclose(
            in_order(ask(daemon, "/rerank", model=model, query=QUERY, documents=DOCUMENTS[:3])), cosines, atol=1e-5
        )
    assert np.allclose(in_order(ask(daemon, "/score", model=MODEL, text_1=QUERY, text_2=DOCUMENTS[:3])), cosines, atol=1e-5)
