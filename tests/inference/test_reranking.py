"""Scores from vectors: of two models, which aliases with an input type make possible; of tokens, by MaxSim."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgeembed.engine.interface import Output, Row
from edgeembed.engine.outputs import unpack
from edgeembed.errors import ModelNotFoundError, ModelReplacedError, RequestError
from edgeembed.inference.requests import EmbedRequest, EmbedResult, RerankRequest
from edgeembed.inference.reranking import result_of_vectors
from edgeembed.models.registry import ModelRegistry
from edgeembed.models.served_model import ServedModel
from tests.fakes import FakeEngine, fake_model, fake_packed_row, fake_row, fake_service


def result(name: str, digest: str, *rows: list[float]) -> EmbedResult:
    model = ServedModel(name, digest, path=Path(f"/{name}.gguf"))
    found = [Row(np.array(row, dtype=np.float32), 3) for row in rows]
    return EmbedResult(model, [b""] * len(found), found, None, 0)


def test_queries_and_documents_may_have_a_model_each() -> None:
    found = result_of_vectors(result("queries", "a", [1, 0]), result("passages", "b", [0, 2], [3, 0]))
    assert found.scores == [0.0, 1.0]
    assert found.model.name == "passages"


def test_a_model_that_was_replaced_between_them_is_noticed() -> None:
    with pytest.raises(ModelReplacedError):
        result_of_vectors(result("one", "a", [1, 0]), result("one", "b", [0, 2]))


def test_models_whose_rows_have_other_lengths_cannot_be_compared() -> None:
    with pytest.raises(RequestError, match="mean queries and passages, whose vectors have different lengths"):
        result_of_vectors(result("queries", "a", [1, 0]), result("passages", "b", [0, 2, 1]))


# --- vectors of tokens --------------------------------------------------------------------------------------------------


def _best(query: str, document: str) -> list[float]:
    """Return the best cosine of each word of a query in a document, by the vectors of the fake engine."""
    one, other = (unpack(fake_packed_row(text, ("multi",)), ("multi",))["multi"] for text in (query, document))
    best: list[float] = (one @ other.T).max(axis=1).tolist()
    return best


@pytest.mark.parametrize(("max_sim", "outputs"), [("sum", ("multi",)), ("mean", ("dense", "multi"))])
async def test_a_model_with_vectors_of_tokens_scores_by_max_sim(max_sim: str, outputs: tuple[Output, ...]) -> None:
    engine = FakeEngine()
    service = fake_service(engine, outputs=outputs)
    model = dataclasses.replace(fake_model(), outputs=outputs, max_sim=max_sim)
    service.registry = ModelRegistry(model)
    documents = ["red river", "the river is red", "a hill"]
    result = await service.rerank(RerankRequest("the river", documents, model=model.name))
    best = [_best("the river", document) for document in documents]
    assert result.scores == pytest.approx([sum(found) / 2 for found in best], abs=1e-6)
    assert result.raw_scores == pytest.approx([sum(found) / (2 if max_sim == "mean" else 1) for found in best], abs=1e-6)
    assert engine.roles == {"the river": "query", **dict.fromkeys(documents, "document")}


async def test_pairs_are_scored_by_max_sim_each_with_its_own_query() -> None:
    service = fake_service(FakeEngine(), outputs=("multi",))
    request = RerankRequest(["one two", "three"], ["two", "four five"], plain=True)
    result = await service.rerank(request)
    expected = [sum(_best("one two", "two")), sum(_best("three", "four five"))]
    assert result.raw_scores == pytest.approx(expected, abs=1e-6)


async def test_a_long_document_counts_with_its_best_window_by_max_sim() -> None:
    engine = FakeEngine()
    service = fake_service(engine, outputs=("multi",))
    long = " ".join(f"The sea was calm on day {day}." for day in range(10))
    result = await service.rerank(RerankRequest("calm day 9.", [long, "a hill"], windows=True))
    windows = [text for text in engine.computed if text not in ("calm day 9.", "a hill")]
    assert len(windows) > 2
    best = max(sum(_best("calm day 9.", window)) for window in windows)
    assert result.raw_scores == pytest.approx([best, sum(_best("calm day 9.", "a hill"))], abs=1e-6)
    dense = fake_service(engine, outputs=("dense", "multi"))
    await dense.embed(EmbedRequest([long], long_text="mean"))
    pairs = await dense.rerank(RerankRequest(["sea", "hill"], [long, "a hill"], plain=True, windows=True))
    rows = [fake_row(text).astype(np.float64) for text in windows]
    sea = fake_row("sea").astype(np.float64)
    cosines = [float(row @ sea / np.linalg.norm(row) / np.linalg.norm(sea)) for row in rows]
    assert pairs.scores[0] == pytest.approx(max(cosines), abs=1e-6)


async def test_the_size_of_a_result_counts_the_vectors_of_all_windows() -> None:
    """By it is decided what holds up the event loop: MaxSim compares them all."""
    engine = FakeEngine()
    service = fake_service(engine, outputs=("multi",))
    long = " ".join(f"The sea was calm on day {day}." for day in range(100))
    result = await service.embed(EmbedRequest([long], long_text="chunks", outputs=("multi",)))
    every = sum(len(fake_packed_row(window, ("multi",))) for window in engine.computed)
    assert result.numbers >= every > 10 * len(result.rows[0].vector)


async def test_an_embedder_with_vectors_of_tokens_still_gives_cosines_where_they_are_asked_for() -> None:
    service = fake_service(FakeEngine(), outputs=("dense", "multi"))
    plain = await service.rerank(RerankRequest("red", ["red", "river"], plain=True))
    named = await service.rerank(RerankRequest("red", ["red", "river"], model="fake-model:cosine"))
    rows = [fake_row(text) for text in ("red", "river")]
    expected = [1.0, float(rows[0] @ rows[1] / np.linalg.norm(rows[0]) / np.linalg.norm(rows[1]))]
    assert plain.scores == pytest.approx(expected, abs=1e-6)
    assert named.scores == pytest.approx(expected, abs=1e-6)


async def test_without_a_name_a_model_of_token_vectors_alone_ranks_and_an_embedder_does_not() -> None:
    service = fake_service(FakeEngine())
    colbert = dataclasses.replace(fake_model("colbert"), outputs=("multi",))
    service.registry = ModelRegistry(fake_model(), [colbert])
    assert (await service.rerank(RerankRequest("a", ["b"]))).model.name == "colbert"
    with pytest.raises(ModelNotFoundError):
        await fake_service(FakeEngine(), outputs=("dense", "multi")).rerank(RerankRequest("a", ["b"]))
