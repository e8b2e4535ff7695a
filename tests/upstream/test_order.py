"""Rows that belong to other texts: they are found, and then neither they nor their neighbours in the cache are used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.engine.interface import BULK, INTERACTIVE
from edgeembed.errors import EdgeEmbedError, EngineUnavailableError, WrongRowsError
from edgeembed.inference.requests import EmbedRequest
from edgeembed.runtime.models import find_configured_models
from edgeembed.runtime.service import make_service
from edgeembed.runtime.upstream import make_remote as make_remote_of
from edgeembed.upstream.engine import RemoteEngine
from edgeembed.upstream.identity import CANARY_TEXTS, SENTINELS
from edgeembed.upstream.order import sentinels_for, texts_beside_sentinels
from edgeembed.upstream.remote import Remote
from tests.fake_upstreams import FakeUpstream, Start, without_sentinels
from tests.fakes import FakeEngine
from tests.upstream.wrong_orders import WRONG, reversal, reversal_of_the_others, swap_of_two
from tests.waiting import until_async

MOST_BATCHES = 300
"""A swap of two rows is found in about one batch of four; this many without it have a probability of 1e-37."""
WORDS = ["river", "stone", "copper", "winter", "music", "bridge", "salad", "justice"]


def texts_of(batch: int, number: int = 31) -> list[str]:
    return [" ".join(WORDS[n % 8 : n % 8 + 1 + n % 5]) + f" {batch} {n}" for n in range(number)]


async def right_of(server: FakeUpstream, engine: RemoteEngine, texts: list[str]) -> list[bool | None]:
    """Return for each text whether its row is right; None where there is none."""
    found = await asyncio.gather(*engine.submit(texts, BULK), return_exceptions=True)
    assert all(isinstance(row, EdgeEmbedError) for row in found if isinstance(row, BaseException))
    return [
        None if isinstance(row, BaseException) else bool(np.allclose(row.vector, server.row_of(text), atol=1e-6))
        for text, row in zip(texts, found, strict=True)
    ]


FOUND = {name: fault for name, fault in WRONG.items() if name not in ("missing row", "extra row")}


@pytest.mark.parametrize("name", FOUND)
async def test_a_server_that_begins_to_mix_up_rows_is_found_and_its_cached_rows_are_given_up(
    name: str, server: FakeUpstream, start: Start
) -> None:
    engine = await start(server, recheck_every=4, wait=0.0)
    remote, before = engine._remote, engine.upstream.identity
    assert all(await right_of(server, engine, texts_of(0)))
    server.scramble = WRONG[name]()
    for batch in range(1, MOST_BATCHES):
        if engine.is_over:
            break
        await right_of(server, engine, texts_of(batch))
        await until_async(lambda: engine._sending.rechecks.task is None or engine._sending.rechecks.task.done())
    (error,) = await asyncio.gather(*engine.submit(["later"], INTERACTIVE), return_exceptions=True)
    assert isinstance(error, WrongRowsError) and error.status == 503
    assert engine.upstream.wrong_rows == 1 and remote.identity.digest != before
    known = remote._identities.last(server.url, server.model)
    assert known is not None and known.digest == remote.identity.digest, "also after a restart"


@pytest.mark.parametrize("name", ["missing row", "extra row"])
async def test_an_answer_with_another_number_of_rows_is_not_used(name: str, server: FakeUpstream, start: Start) -> None:
    engine = await start(server, wait=0.0)
    server.scramble = WRONG[name]()
    assert await right_of(server, engine, texts_of(0)) == [None] * 31


async def test_a_server_that_mixes_up_large_requests_gets_one_text_at_a_time(
    server: FakeUpstream, make_remote: Callable[..., Remote]
) -> None:
    """From the start: two requests of the largest size in different orders are sent before any text."""
    server.scramble = reversal_of_the_others
    remote = make_remote(server)
    await remote.identify(5.0, asyncio.Event())
    assert remote.faults == 1
    engine = RemoteEngine(remote)
    await engine.start()
    try:
        server.asked.clear()
        assert all(await right_of(server, engine, texts_of(0)))
        assert {len(without_sentinels(asked)) for asked in server.asked} == {1}
        # A sentinel text at one of two places: no order but the right one passes.
        server.scramble = reversal
        assert not any(await right_of(server, engine, texts_of(1)))
        assert remote.faults == 2
    finally:
        await engine.close()


async def test_after_a_second_fault_nothing_is_sent_and_the_fallback_answers(
    server: FakeUpstream, make_remote: Callable[..., Remote]
) -> None:
    remote = make_remote(server, wait=60.0)
    await remote.identify(5.0, asyncio.Event())
    remote.distrust("once")
    remote.distrust("twice")
    server.asked.clear()
    alone = RemoteEngine(remote)
    await alone.start()
    (error,) = await asyncio.gather(*alone.submit(["hello"], INTERACTIVE), return_exceptions=True)
    assert isinstance(error, EngineUnavailableError) and "rows of other texts" in error.message
    await alone.close()
    with_fallback = RemoteEngine(remote, lambda: Local(server.row_of))
    await with_fallback.start()
    try:
        await until_async(lambda: with_fallback.upstream.fallback == "same")
        assert all(await right_of(server, with_fallback, texts_of(0)))
        assert server.asked == []
    finally:
        await with_fallback.close()


class Local(FakeEngine):
    """The same model here."""

    def __init__(self, row_of: Callable[[str], Any]) -> None:
        super().__init__()
        self.row_of = row_of


async def test_canary_texts_in_another_order_are_no_other_model(server: FakeUpstream, start: Start) -> None:
    engine = await start(server, check_every=0.02)
    server.scramble = swap_of_two
    await until_async(lambda: engine.is_over)
    assert engine._remote.faults == 1 and engine._remote.changes == 0


async def test_a_server_with_one_row_for_all_texts_is_no_model(
    server: FakeUpstream, make_remote: Callable[..., Remote]
) -> None:
    server.row_of = lambda _text: np.ones(16, np.float32)
    with pytest.raises(EngineUnavailableError, match="same row for different texts"):
        await make_remote(server).identify(0.1, asyncio.Event())


async def test_sentinel_texts_and_their_places_are_drawn_anew(server: FakeUpstream, start: Start) -> None:
    engine = await start(server)
    for batch in range(40):
        await right_of(server, engine, texts_of(batch, 8))
    places = [
        (place, text) for asked in server.asked for place, text in enumerate(asked) if text in CANARY_TEXTS[:SENTINELS]
    ]
    assert len(places) == 40
    assert len({place for place, _ in places}) > 4 and len({text for _, text in places}) > 1


async def test_a_sample_of_the_texts_is_asked_again(server: FakeUpstream, start: Start) -> None:
    engine = await start(server, recheck_every=16)
    for batch in range(20):
        await right_of(server, engine, texts_of(batch))
        await until_async(lambda: engine._sending.rechecks.task is None or engine._sending.rechecks.task.done())
    asked = [text for request in server.asked for text in without_sentinels(request)]
    again = len(asked) - len(set(asked))
    assert 32 + (620 - 32) // 16 - 3 <= again <= 32 + (620 - 32) // 16 + 3
    assert not engine.is_over


@pytest.mark.parametrize("most", [2, 3, 16, 17, 32, 33, 100, 4096])
def test_a_request_with_its_sentinels_is_not_larger_than_allowed(most: int) -> None:
    texts = texts_beside_sentinels(most)
    assert texts + sentinels_for(texts) <= most
    assert texts + 1 + sentinels_for(texts + 1) > most, "nor smaller than it may be"


async def test_rows_that_were_cached_before_the_fault_was_found_are_computed_again(
    server: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEEMBED_HOME", str(tmp_path))
    paths, settings = Paths.resolve(), Settings(upstream=server.url, upstream_wait=0.0)
    remote = await make_remote_of(settings, paths)
    await remote.identify(5.0, asyncio.Event())
    service = make_service(settings, paths, find_configured_models(settings, paths, remote))
    assert service.cache is not None
    await service.cache.open()

    async def are_right(texts: list[str]) -> list[bool]:
        vectors = (await service.embed(EmbedRequest(texts))).vectors
        return [bool(np.allclose(row, server.row_of(text), atol=1e-6)) for row, text in zip(vectors, texts, strict=True)]

    try:
        assert all(await are_right(["first"]))
        server.scramble = reversal_of_the_others
        wrong = await are_right(texts_of(1))
        assert not all(wrong), "nothing shows it yet"
        await until_async(lambda: remote.faults == 1)
        assert all(await are_right(texts_of(1)))
        assert all(await are_right(texts_of(1))), "out of the cache"
    finally:
        await service.pool.close()
        await service.cache.close()
