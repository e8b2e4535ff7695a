"""Each step of a request happens once: the lookup, the lease, the count; failures are in the client's words."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable

import msgspec
import pytest

from edgeembed.cache import FoundRows, VectorCache
from edgeembed.engine import text_sizes
from edgeembed.engine.interface import Text
from edgeembed.errors import InputTooLongError
from edgeembed.inference import row_request
from edgeembed.inference.requests import EmbedRequest
from edgeembed.inference.service import EmbeddingService
from edgeembed.inference.truncation import Lengths
from edgeembed.models.pool import Lease, ModelPool
from edgeembed.models.served_model import ServedModel
from tests.fakes import CONTEXT_TOKENS, FakeEngine, fake_model, fake_service

LONG = "word " * (CONTEXT_TOKENS + 10)
CUT = Lengths(cut="end")
MAYBE_LONG = "w" * 100
"""One token of the fake engine, of which it takes tokenising to know that."""


class CountingCache(VectorCache):
    """Counts lookups, and the keys that they ask for."""

    def __init__(self) -> None:
        super().__init__(None, memory_mib=8, disk_mib=0)
        self.lookups: list[int] = []

    def get_from_memory(self, keys: Iterable[bytes], model: str = "", *, low: bool = False) -> FoundRows:
        asked = list(keys)
        self.lookups.append(len(asked))
        return super().get_from_memory(asked, model, low=low)


@pytest.fixture
def cache() -> CountingCache:
    return CountingCache()


@pytest.fixture
def leases(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the leases of each model."""
    counts: Counter[str] = Counter()
    take = ModelPool.take

    async def counting(self: ModelPool, model: ServedModel) -> Lease:
        counts[model.name] += 1
        return await take(self, model)

    monkeypatch.setattr(ModelPool, "take", counting)
    return counts


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def service(engine: FakeEngine, cache: CountingCache) -> EmbeddingService:
    return fake_service(engine, cache)


@pytest.mark.parametrize("lengths", [Lengths(), CUT, Lengths(max_tokens=10), Lengths(cut="start", max_tokens=10)])
async def test_a_miss_looks_up_once_leases_once_and_counts_once(
    service: EmbeddingService, cache: CountingCache, leases: Counter[str], lengths: Lengths
) -> None:
    result = await service.embed(EmbedRequest(["a", "b"], lengths=lengths))
    assert (result.hits, len(cache.lookups), leases["fake-model"]) == (0, 1, 1)
    assert (service.requests[fake_model().key], service.texts[fake_model().key]) == (1, 2)


@pytest.mark.parametrize("lengths", [Lengths(), CUT])
async def test_a_hit_looks_up_once_and_needs_no_model(
    service: EmbeddingService, cache: CountingCache, leases: Counter[str], lengths: Lengths
) -> None:
    await service.embed(EmbedRequest(["a", "b"]))
    cache.lookups.clear()
    leases.clear()
    result = await service.embed(EmbedRequest(["b", "a"], lengths=lengths))
    assert (result.hits, len(cache.lookups), leases["fake-model"]) == (2, 1, 0)


async def test_rows_of_cut_texts_are_asked_for_in_the_same_lookup(
    service: EmbeddingService, engine: FakeEngine, cache: CountingCache
) -> None:
    first = await service.embed(EmbedRequest([LONG, "short"], lengths=CUT))
    assert [cut.index for cut in first.cuts] == [0]
    cache.lookups.clear()
    second = await service.embed(EmbedRequest([LONG, "short"], lengths=CUT))
    assert cache.lookups == [3], "two whole texts, and what is left of the long one"
    assert (second.hits, second.cuts, len(engine.computed)) == (2, first.cuts, 2)


async def test_no_part_of_a_text_is_asked_for_where_memory_has_all_of_it(
    service: EmbeddingService, cache: CountingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.embed(EmbedRequest([MAYBE_LONG, LONG], lengths=CUT))
    cache.lookups.clear()
    sized: list[Text] = []

    def tokens_at_most(text: Text) -> int:
        sized.append(text)
        return text_sizes.tokens_at_most(text)

    monkeypatch.setattr(row_request, "tokens_at_most", tokens_at_most)
    result = await service.embed(EmbedRequest([MAYBE_LONG, LONG], lengths=CUT))
    assert (result.hits, cache.lookups, sized) == (2, [3], [LONG])


async def test_a_cached_text_over_the_clients_limit_is_refused_without_the_model(
    service: EmbeddingService, leases: Counter[str]
) -> None:
    await service.embed(EmbedRequest(["one two three four five"]))
    leases.clear()
    with pytest.raises(InputTooLongError, match=r"texts\[1\] has 7 tokens, and max_tokens allows 4") as caught:
        await service.embed(EmbedRequest(["a", "one two three four five"], param="texts", lengths=Lengths(max_tokens=4)))
    assert (caught.value.param, caught.value.tokens, caught.value.limit) == ("texts[1]", 7, 4)
    assert not leases


async def test_only_whole_rows_from_memory_allow_a_response_to_be_stored(service: EmbeddingService) -> None:
    async def is_stored(text: str) -> bool:
        await service.embed(EmbedRequest([text], lengths=CUT))
        result = await service.embed(EmbedRequest([text], lengths=CUT))
        assert result.hits == 1
        service.store_response(text.encode(), b"response", result)
        return service.cache is not None and service.cache.responses.get(text.encode()) is not None

    assert await is_stored("short")
    assert not await is_stored(LONG), "its response needs a header that says what was cut"


async def test_what_a_smaller_worker_keeps_of_a_text_is_not_cached_as_what_a_larger_one_keeps(
    service: EmbeddingService, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that died for want of memory comes back with a shorter context, while the request waits."""
    info = engine.info
    engine.paused = True
    first = asyncio.create_task(service.embed(EmbedRequest([LONG, "short"], lengths=CUT)))
    await engine.until(lambda: engine.waiting)
    with monkeypatch.context() as smaller:
        smaller.setattr(FakeEngine, "info", msgspec.structs.replace(info, context_tokens=CONTEXT_TOKENS // 2))
        engine.resume()
        await first
    engine.paused = False
    again = await service.embed(EmbedRequest([LONG, "short"], lengths=CUT))
    assert again.hits == 1, "only the text that was not cut"
