"""What is refused before anything is computed: requests that are too large, and large ones with a text that is too long."""

from __future__ import annotations

import dataclasses

import pytest

from edgeembed.engine.interface import Prompted
from edgeembed.errors import InputTooLongError, RequestError, RequestTooLargeError
from edgeembed.inference import limits, parts, pipeline
from edgeembed.inference.requests import EmbedRequest
from edgeembed.inference.service import EmbeddingService
from edgeembed.inference.truncation import Lengths
from edgeembed.models.pool import ModelPool, PoolRules
from edgeembed.models.registry import ModelRegistry
from tests.fakes import CONTEXT_TOKENS, DIMENSIONS, FakeEngine, fake_model, fake_service

PART = 10
"""Texts of a part in these tests."""
TEXTS = [f"text {number}" for number in range(3 * PART + 5)]
LONG = "word " * (CONTEXT_TOKENS + 10)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (parts, pipeline):
        monkeypatch.setattr(module, "PART_TEXTS", PART)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.mark.parametrize("lengths", [Lengths(), Lengths(max_tokens=3)])
async def test_a_text_that_is_too_long_refuses_all_before_anything_is_computed(engine: FakeEngine, lengths: Lengths) -> None:
    service = fake_service(engine)
    with pytest.raises(InputTooLongError) as caught:
        await service.embed(EmbedRequest([*["a"] * 3, *TEXTS[1:], LONG], lengths=lengths))
    assert engine.computed == []
    assert caught.value.param == (f"input[{len(TEXTS) + 2}]" if lengths.plain else "input[3]")
    cut = dataclasses.replace(lengths, cut="end")
    assert len((await service.embed(EmbedRequest([*TEXTS, LONG], lengths=cut))).rows) == len(TEXTS) + 1


async def test_token_ids_are_checked_before_anything_is_computed(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    tokenize = engine.tokenize

    def counting(texts, want):  # type: ignore[no-untyped-def]
        read.extend(len(text.ids) for text in texts if isinstance(text, Prompted))
        return tokenize(texts, want)

    monkeypatch.setattr(engine, "tokenize", counting)
    await fake_service(engine).embed(EmbedRequest([], ids=[[number] for number in range(20, 20 + 2 * PART)]))
    assert len(read) == 2 * PART


@pytest.mark.parametrize("in_advance", [True, False])
async def test_more_vectors_than_fit_into_memory_are_refused_before_anything_is_computed(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, in_advance: bool
) -> None:
    monkeypatch.setattr(limits, "MOST_NUMBERS", 20 * DIMENSIONS)
    model = dataclasses.replace(fake_model(), dimensions=DIMENSIONS if in_advance else None)
    pool = ModelPool(lambda _model: engine, PoolRules(budget_bytes=1))
    service = EmbeddingService(ModelRegistry(model), pool, None)
    with pytest.raises(RequestTooLargeError, match=r"input has 35 items; .* at most 20 vectors"):
        await service.embed(EmbedRequest(TEXTS))
    assert (engine.computed, pool.loads.total()) == ([], 0 if in_advance else 1)
    assert len((await service.embed(EmbedRequest(TEXTS[:20]))).rows) == 20


async def test_upstreams_model_is_not_tokenised_here(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = dataclasses.replace(fake_model(), upstream="http://gpu-box:8000/v1")
    service = EmbeddingService(ModelRegistry(remote), ModelPool(lambda _m: engine, PoolRules(budget_bytes=1)), None)
    engine.failing = lambda text: RequestError("too long there") if text == LONG else None
    with pytest.raises(RequestError, match=f"input.{len(TEXTS)}.: too long there"):
        await service.embed(EmbedRequest([*TEXTS, LONG]))
    assert engine.read == []
