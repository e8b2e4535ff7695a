"""The service on a fake engine: cache, texts in flight, clients that go away, health."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest

from edgeembed.cache import VectorCache
from edgeembed.engine.interface import BULK, INTERACTIVE, Reference, Row
from edgeembed.errors import (
    BadVectorError,
    EmptyInputError,
    EngineTimeoutError,
    EngineUnavailableError,
    InputTooLongError,
    RequestError,
    WrongTaskError,
)
from edgeembed.hub.catalogue import Matryoshka, Prompts
from edgeembed.inference.requests import EmbedRequest, EmbedResult, RerankRequest, TokenizeRequest
from edgeembed.inference.service import EmbeddingService, check_outputs
from edgeembed.models.pool import ModelPool, PoolRules
from edgeembed.models.registry import ModelRegistry
from edgeembed.models.served_model import ServedModel
from tests.fakes import DIMENSIONS, FakeEngine, fake_model, fake_row, fake_service
from tests.waiting import until_async

QWEN = Prompts(query="Instruct: {instruction}\nQuery:{text}", document="{text}", instruction="find it")


def make(
    engine: FakeEngine | None = None, cache: VectorCache | None = None, timeout: float = 20.0, prompts: Prompts | None = None
) -> tuple[EmbeddingService, FakeEngine]:
    engine = engine or FakeEngine()
    return fake_service(engine, cache, timeout=timeout, prompts=prompts, aliases={"alias": "fake-model"}), engine


def memory_cache() -> VectorCache:
    return VectorCache(None, memory_mib=8, disk_mib=0)


def unit(text: str, dimensions: int = DIMENSIONS) -> np.ndarray:
    row = fake_row(text)[:dimensions].astype(np.float64)
    return row / np.linalg.norm(row)


async def test_rows_are_unit_vectors_in_the_order_of_the_texts() -> None:
    service, engine = make()
    texts = ["b", "a", "b", "c"]
    result = await service.embed(EmbedRequest(texts))
    assert np.allclose(result.vectors, [unit(text) for text in texts], atol=1e-6)
    assert result.tokens == [3, 3, 3, 3]
    assert sorted(engine.computed) == ["a", "b", "c"], "a text that stands twice in a request is computed once"


async def test_dimensions_cut_first_and_normalise_then() -> None:
    service, _ = make()
    result = await service.embed(EmbedRequest(["a"], dimensions=4))
    assert np.allclose(result.vectors, [unit("a", 4)], atol=1e-6)
    for wrong in (0, -1, DIMENSIONS + 1):
        with pytest.raises(RequestError, match=f"between 1 and {DIMENSIONS}") as caught:
            await service.embed(EmbedRequest(["a"], dimensions=wrong))
        assert caught.value.param == "dimensions"


async def test_a_text_is_computed_once_and_then_cached_for_every_dimension() -> None:
    service, engine = make(cache=memory_cache())
    first = await service.embed(EmbedRequest(["a", "b"]))
    second = await service.embed(EmbedRequest(["b", "c"], dimensions=4))
    assert (first.hits, second.hits) == (0, 1)
    assert sorted(engine.computed) == ["a", "b", "c"]
    assert np.allclose(second.vectors, [unit("b", 4), unit("c", 4)], atol=1e-6)
    assert second.tokens == [3, 3]


async def test_rows_survive_a_restart_with_no_call_to_the_engine(tmp_path: Path) -> None:
    for life in range(2):
        cache = VectorCache(tmp_path / "vectors", memory_mib=1, disk_mib=1)
        await cache.open()
        service, engine = make(cache=cache)
        result = await service.embed(EmbedRequest(["kept"]))
        assert np.allclose(result.vectors, [unit("kept")], atol=1e-6)
        assert engine.computed == (["kept"] if life == 0 else [])
        await cache.close()


async def test_another_prompt_is_another_row() -> None:
    service, engine = make(cache=memory_cache(), prompts=QWEN)
    await service.embed(EmbedRequest(["a"]))
    await service.embed(EmbedRequest(["a"], input_type="query"))
    await service.embed(EmbedRequest(["a"], input_type="query", instruction="other"))
    document = await service.embed(EmbedRequest(["a"], input_type="document"))
    assert engine.computed == ["a", "Instruct: find it\nQuery:a", "Instruct: other\nQuery:a"]
    assert document.hits == 1, "a document without a prompt is the plain text"


async def test_equal_texts_in_flight_are_computed_once() -> None:
    service, engine = make()
    await service.pool.load(fake_model())
    engine.paused = True
    requests = [asyncio.create_task(service.embed(EmbedRequest(["same", f"own {number}"]))) for number in range(5)]
    await until_async(lambda: len(engine.priorities) == 6)
    engine.paused = False
    engine.resume()
    results = await asyncio.gather(*requests)
    assert engine.computed.count("same") == 1
    assert all(np.allclose(result.vectors[0], unit("same"), atol=1e-6) for result in results)


async def test_a_client_that_goes_away_frees_its_place_unless_another_waits_for_the_same_text() -> None:
    service, engine = make()
    await service.pool.load(fake_model())
    engine.paused = True
    leaver = asyncio.create_task(service.embed(EmbedRequest(["shared", "only mine"])))
    stayer = asyncio.create_task(service.embed(EmbedRequest(["shared"])))
    await until_async(lambda: len(engine.priorities) == 2)
    leaver.cancel()
    await until_async(lambda: engine.cancelled == ["only mine"])
    engine.resume()
    assert np.allclose((await stayer).vectors, [unit("shared")], atol=1e-6)
    # A text that was given up can be asked for again.
    engine.paused = False
    await service.embed(EmbedRequest(["only mine"]))
    assert engine.computed == ["shared", "only mine"]


async def test_a_few_texts_are_interactive_and_many_are_bulk() -> None:
    service, engine = make()
    await service.embed(EmbedRequest(["a"]))
    await service.embed(EmbedRequest([f"text {number}" for number in range(20)]))
    assert engine.priorities == [INTERACTIVE] + [BULK] * 20


async def test_errors_name_the_item_of_the_request() -> None:
    service, engine = make()
    with pytest.raises(EmptyInputError) as empty:
        await service.embed(EmbedRequest(["a", ""]))
    assert empty.value.param == "input[1]"
    with pytest.raises(InputTooLongError, match=r"input\[2\] has 32 tokens\. .* is 20 tokens") as long:
        await service.embed(EmbedRequest(["a", "b", "word " * 30, "c"]))
    assert long.value.param == "input[2]"
    with pytest.raises(InputTooLongError) as single:
        await service.embed(EmbedRequest(["word " * 30], single=True))
    assert single.value.param == "input"
    engine.failing = lambda text: BadVectorError("not finite") if text == "bad" else None
    with pytest.raises(BadVectorError, match=r"input\[1\]"):
        await service.embed(EmbedRequest(["a", "bad"]))


async def test_a_failed_text_is_not_cached_and_gives_up_the_rest_of_its_request() -> None:
    service, engine = make(cache=memory_cache())
    engine.failing = lambda text: BadVectorError("not finite") if text == "bad" else None
    with pytest.raises(BadVectorError):
        await service.embed(EmbedRequest(["bad"]))
    engine.failing = lambda text: None
    assert (await service.embed(EmbedRequest(["bad"]))).hits == 0


async def test_a_request_out_of_time_frees_its_places() -> None:
    service, engine = make(timeout=0.05)
    await service.pool.load(fake_model())
    engine.paused = True
    with pytest.raises(EngineTimeoutError):
        await service.embed(EmbedRequest(["slow"]))
    await asyncio.sleep(0)
    assert engine.cancelled == ["slow"]


async def test_health_is_shown_by_a_vector() -> None:
    service, engine = make()
    await service.pool.load(fake_model())
    await service.check()
    assert len(engine.computed) == 1
    await service.check()
    assert len(engine.computed) == 1, "a fresh row is proof enough"


async def test_a_wrong_first_probe_is_no_baseline_and_its_verdict_stays_until_it_is_disproved() -> None:
    service, engine = make()
    right = fake_row("hello")
    engine.reference = Reference(text="hello", row=right.tobytes(), least=0.9, given=False, made_at=1.0)
    await service.pool.load(fake_model())
    engine.row_of = lambda text: -right if text == "hello" else fake_row(text)
    for number in range(3):
        with pytest.raises(BadVectorError, match=r"probe text's vector has a cosine of -1\.00"):
            await service.check()
        await service.embed(EmbedRequest([f"text {number}"]))  # a fresh row of another text disproves nothing
    assert len(engine.distrusted) == 3, "its worker has to show its canary rows again"
    engine.paused = True
    engine.busy_since = time.time()
    with pytest.raises(BadVectorError, match="probe text's vector"):
        await service.check()  # nor does a probe that has not been computed yet
    engine.resume()
    engine.paused = False
    engine.row_of = fake_row
    await service.check()
    await service.check()
    await service.pool.close()


async def test_the_time_after_which_to_ask_again_is_that_of_the_engine() -> None:
    service, engine = make()
    engine.failing = lambda _text: EngineUnavailableError("upstream is down", retry_after=30)
    with pytest.raises(EngineUnavailableError) as caught:
        await service.embed(EmbedRequest(texts=["a"]))
    assert caught.value.retry_after == 30
    await service.pool.close()


async def test_health_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeembed.inference.health.PROBE_SECONDS", 0.05)
    service, engine = make()
    await service.pool.load(fake_model())
    engine.state, engine.reason = "restarting", "ended by SIGKILL"
    with pytest.raises(EngineUnavailableError, match="SIGKILL"):
        await service.check()
    engine.state = "ready"
    engine.paused = True  # says that it is ready, and does not answer
    with pytest.raises(EngineUnavailableError, match="has not answered"):
        await service.check()
    engine.busy_since = time.time() - 1  # in the middle of a long text
    await service.check()
    engine.busy_since = time.time() - 1000
    with pytest.raises(EngineUnavailableError, match="has not answered"):
        await service.check()
    engine.paused = False
    engine.row_of = lambda text: np.full(DIMENSIONS, np.nan, dtype=np.float32)
    with pytest.raises(BadVectorError):
        await service.check()


async def test_cut_rows_are_layer_normalised_before_where_the_models_makers_do_so() -> None:
    row = fake_row("a").astype(np.float64)
    normed = (row - row.mean()) / np.sqrt(row.var() + 1e-5)
    model = ServedModel(name="fake-model", digest="0" * 64, matryoshka=Matryoshka(min=2, max=DIMENSIONS, layer_norm=True))
    result = EmbedResult(model, [b""], [Row(fake_row("a"), 1)], 4, 0)
    assert np.allclose(result.vectors, [normed[:4] / np.linalg.norm(normed[:4])], atol=1e-6)
    assert np.allclose(result.scaled(-1), [normed[:4]], atol=1e-6), "also for clients that normalise themselves"
    assert np.allclose(result.scaled(1), [normed[:4] / np.abs(normed[:4]).sum()], atol=1e-6)


async def test_documents_are_not_embedded_when_the_query_is_refused() -> None:
    service, engine = make()
    engine.loaded.clear()
    with pytest.raises(EmptyInputError, match="query is empty"):
        await service.rerank(RerankRequest("", ["a", "b"], plain=True))
    engine.loaded.set()
    await service.embed(EmbedRequest(["c"]))
    assert engine.computed == ["c"]


async def test_a_reranker_that_was_just_installed_has_tokens() -> None:
    registry = ModelRegistry(fake_model(), scan=lambda: [fake_model("ranker", task="rerank")])
    pool = ModelPool(lambda _model: FakeEngine(), PoolRules(budget_bytes=1))
    result = await EmbeddingService(registry, pool, None).count_tokens(TokenizeRequest(["a b"], model="ranker"))
    assert (result.model.name, len(result.tokens[0].ids)) == ("ranker", 4)


# --- outputs besides the dense row ------------------------------------------------------------------------------------


async def test_outputs_of_one_pass_are_cached_apart_from_dense_rows() -> None:
    engine = FakeEngine()
    service = fake_service(engine, memory_cache(), outputs=("dense", "multi", "sparse"))
    dense = await service.embed(EmbedRequest(["a bb"]))
    for hits in (0, 1):
        both = await service.embed(EmbedRequest(["a bb"], outputs=("dense", "sparse")))
        assert both.hits == hits
        assert np.allclose(both.vectors, dense.vectors)
        assert both.parts("sparse")[0].tolist() == [[11, 2], [12, 2]]
        assert both.tokens == [4]
    assert engine.computed == ["a bb", "a bb"]
    as_query = await service.embed(EmbedRequest(["a bb"], outputs=("dense", "sparse"), input_type="query"))
    assert as_query.hits == 0, "some models read queries otherwise than documents"


async def test_hidden_states_are_not_cached() -> None:
    engine = FakeEngine()
    service, _ = make(engine, memory_cache())
    for _ in range(2):
        result = await service.embed(EmbedRequest(["a bb"], outputs=("tokens",)))
        assert result.hits == 0
        assert result.parts("tokens")[0].shape == (4, DIMENSIONS)
    assert engine.computed == ["a bb", "a bb"]


async def test_an_output_that_the_model_has_no_head_for_is_refused() -> None:
    service, engine = make()
    remote = dataclasses.replace(fake_model(), upstream="http://gpu-box:30000/v1")
    with pytest.raises(WrongTaskError, match="computed by another server, which returns dense vectors only"):
        check_outputs(remote, ("tokens",))
    with pytest.raises(RequestError, match="has no sparse vectors; it has dense vectors"):
        await service.embed(EmbedRequest(["a"], outputs=("sparse",)))
    assert not engine.computed
