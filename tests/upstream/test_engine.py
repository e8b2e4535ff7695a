"""The engine that asks another server: what it sends and accepts, and what it does when that server fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from edgeembed.engine.interface import BULK, INTERACTIVE, Pair, Prompted
from edgeembed.errors import (
    ConfigError,
    EngineUnavailableError,
    InputTooLongError,
    ModelReplacedError,
    RequestError,
)
from edgeembed.upstream.engine import RemoteEngine
from edgeembed.upstream.identity import CANARY_TEXTS, IdentityStore
from edgeembed.upstream.remote import Remote, entry_of, only_model
from tests.fake_upstreams import FakeUpstream, Start, Style, other_row, unit_row, without_sentinels
from tests.fakes import FakeEngine
from tests.upstream.asking import errors_of, rows_of, same
from tests.waiting import until_async

OUTAGE = 0.4


# --- what is sent and taken -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["openai", "sglang", "vllm", "vllm-old", "tei", "ollama"])
async def test_the_rows_of_every_server_are_read(style: Style, start: Start) -> None:
    server = FakeUpstream(style)
    await server.start()
    engine = await start(server)
    texts = [f"text number {n}" for n in range(70)]
    rows = await rows_of(engine, texts, BULK)
    same(rows, texts)
    assert sum(row.tokens for row in rows) == 70 * 5
    assert all(len(without_sentinels(asked)) < len(asked) <= 32 for asked in server.asked)
    info = engine.info
    assert info is not None and (info.dimensions, info.context_tokens) == (16, 512 if style in ("vllm", "sglang") else 0)
    await engine.close()
    await server.stop()


async def test_base64_is_requested_and_the_key_sent(server: FakeUpstream, start: Start) -> None:
    engine = await start(server, key="sesame")
    await rows_of(engine, ["hello"])
    sent = server.bodies[-1].pop("input")
    assert (without_sentinels(sent), len(sent)) == (["hello"], 2)
    assert server.bodies[-1] == {"model": "far-model", "encoding_format": "base64"}
    assert server.headers[-1]["Authorization"] == "Bearer sesame"


async def test_a_prompt_is_put_around_the_text(server: FakeUpstream, start: Start) -> None:
    engine = await start(server)
    await rows_of(engine, [Prompted("query: ", "hello", " </s>")])
    assert without_sentinels(server.asked[-1]) == ["query: hello </s>"]


async def test_concurrent_texts_share_a_request(server: FakeUpstream, start: Start) -> None:
    engine = await start(server)
    await asyncio.gather(*(rows_of(engine, [f"lone {n}"]) for n in range(6)))
    assert [len(asked) for asked in server.asked] == [7]


async def test_requests_are_limited_and_queries_go_before_bulk(server: FakeUpstream, start: Start) -> None:
    engine = await start(server, most_requests=2, most_texts=5, most_characters=40)
    server.hold.clear()
    bulk = [asyncio.ensure_future(rows_of(engine, [f"bulk text {n}" for n in range(12)], BULK)) for _ in range(2)]
    await until_async(lambda: server.in_flight == 1)
    query = asyncio.ensure_future(rows_of(engine, ["query"]))
    await until_async(lambda: server.in_flight == 2)
    assert engine.upstream.in_flight == 2 and engine.status.texts_waiting > 10
    server.hold.set()
    await asyncio.gather(*bulk, query)
    assert server.most_in_flight <= 2
    assert "query" in server.asked[0] + server.asked[1], "one request is kept free for it"
    assert all(sum(map(len, without_sentinels(asked))) <= 40 and len(asked) <= 5 for asked in server.asked)


async def test_a_text_longer_than_a_request_may_be_is_sent_alone(server: FakeUpstream, start: Start) -> None:
    engine = await start(server, most_characters=10)
    texts = ["a" * 50, "b", "c"]
    same(await rows_of(engine, texts), texts)
    assert [len(asked) for asked in server.asked] == [2, 3]


async def test_the_request_of_a_client_that_disconnects_is_cancelled(server: FakeUpstream, start: Start) -> None:
    engine = await start(server, most_requests=1, timeout=60.0)
    server.hold.clear()
    (gone,) = engine.submit(["cancelled in flight"], INTERACTIVE)
    await until_async(lambda: server.in_flight == 1)
    (waiting,) = engine.submit(["cancelled in the queue"], INTERACTIVE)
    (stays,) = engine.submit(["hello"], INTERACTIVE)
    waiting.cancel()
    gone.cancel()
    await until_async(lambda: server.gone == 1)
    server.hold.set()
    same([await stays], ["hello"])
    assert [without_sentinels(asked) for asked in server.asked] == [["hello"]]


async def test_what_cannot_be_sent_is_refused_with_a_reason(server: FakeUpstream, start: Start) -> None:
    engine = await start(server)
    ids = Prompted("", "", "", None, np.array([1, 2], np.int32).tobytes())
    found = await errors_of(engine, [ids, Pair("a", "b"), "fine"])
    assert [type(error) for error in found[:2]] == [RequestError, RequestError] and found[2] is None
    (future,) = engine.tokenize(["hello"], "ids")
    with pytest.raises(RequestError, match="tokenizer"):
        await future


# --- outages ----------------------------------------------------------------------------------------------------------


async def test_texts_wait_while_upstream_restarts(server: FakeUpstream, start: Start) -> None:
    engine = await start(server, wait=20.0)
    await server.stop()
    texts = [f"text {n}" for n in range(40)]
    waiting = [asyncio.ensure_future(rows_of(engine, texts, BULK)), asyncio.ensure_future(rows_of(engine, ["query"]))]
    await until_async(lambda: engine.upstream.breaker != "closed")
    assert engine.status.state == "restarting" and "cannot be reached" in (engine.status.reason or "")
    await server.start()
    bulk, query = await asyncio.gather(*waiting)
    same(bulk, texts)
    same(query, ["query"])
    report = engine.upstream
    assert (report.breaker, report.opened, report.away_seconds) == ("closed", 1, None)
    assert report.retries > 0


async def test_texts_fail_after_the_wait_and_later_ones_fail_at_once(server: FakeUpstream, start: Start) -> None:
    engine = await start(server, wait=OUTAGE)
    await server.stop()
    (error,) = await errors_of(engine, ["hello"])
    assert isinstance(error, EngineUnavailableError) and "is unavailable" in error.message and error.retry_after
    requests = engine.upstream.requests
    (error,) = await errors_of(engine, ["hello again"])
    assert isinstance(error, EngineUnavailableError)
    assert engine.upstream.requests == requests, "the breaker is open: nothing is sent"
    await server.start()
    await until_async(lambda: engine.upstream.breaker == "closed", 30)
    same(await rows_of(engine, ["hello"]), ["hello"])


async def test_an_overloaded_server_is_left_alone_as_long_as_it_asks(server: FakeUpstream, start: Start) -> None:
    engine = await start(server, wait=20.0)
    server.troubles.append(web.json_response({"error": "slow down"}, status=429, headers={"Retry-After": "0.3"}))
    began = asyncio.get_running_loop().time()
    same(await rows_of(engine, ["hello"]), ["hello"])
    assert asyncio.get_running_loop().time() - began >= 0.3
    assert engine.upstream.opened == 0


async def test_texts_fail_if_the_server_is_overloaded_for_too_long(server: FakeUpstream, start: Start) -> None:
    engine = await start(server, wait=OUTAGE)
    server.troubles.extend(web.json_response({}, status=429, headers={"Retry-After": "30"}) for _ in range(3))
    (error,) = await errors_of(engine, ["hello"])
    assert isinstance(error, EngineUnavailableError) and "429" in error.message


async def test_a_wrong_key_is_reported_with_its_setting(server: FakeUpstream, start: Start) -> None:
    engine = await start(server, wait=OUTAGE)
    server.troubles.extend(server.error(401, "invalid api key") for _ in range(9))
    (error,) = await errors_of(engine, ["hello"])
    assert isinstance(error, EngineUnavailableError) and "upstream_key" in error.message


async def test_a_response_without_embeddings_counts_as_an_outage(server: FakeUpstream, start: Start) -> None:
    engine = await start(server)
    server.troubles.append(web.Response(text="<html>welcome</html>"))
    same(await rows_of(engine, ["hello"]), ["hello"])


async def test_closing_fails_all_waiting_texts(server: FakeUpstream, start: Start) -> None:
    engine = await start(server)
    server.hold.clear()
    sent = engine.submit(["on its way"], INTERACTIVE)
    await until_async(lambda: server.in_flight == 1)
    await engine.close()
    for future in sent:
        with pytest.raises((EngineUnavailableError, asyncio.CancelledError)):
            await future
    assert engine.is_over and engine.status.state == "stopped"


# --- another model ----------------------------------------------------------------------------------------------------


async def test_vectors_of_another_model_are_never_returned(server: FakeUpstream, start: Start) -> None:
    engine = await start(server)
    changed: list[Any] = []
    engine._remote.on_change = changed.append
    before = engine.upstream.identity
    same(await rows_of(engine, ["hello"]), ["hello"])
    server.row_of = other_row
    (error,) = await errors_of(engine, ["hello"])
    assert isinstance(error, ModelReplacedError)
    assert engine.is_over and engine.status.state == "failed"
    assert [model.digest for model in changed] == [before]
    remote = engine._remote
    assert remote.changes == 1 and remote.identity.digest != before
    successor = RemoteEngine(remote)
    await successor.start()
    try:
        (row,) = await rows_of(successor, ["hello"])
        np.testing.assert_allclose(row.vector, other_row("hello"), atol=1e-6)
        server.row_of = unit_row
        assert isinstance((await errors_of(successor, ["hello"]))[0], ModelReplacedError)
        assert remote.identity.digest == before, "the old model gets its identity back, and with it its cached rows"
    finally:
        await successor.close()


async def test_a_change_is_noticed_without_requests(server: FakeUpstream, start: Start) -> None:
    engine = await start(server, check_every=0.05)
    server.row_of = other_row
    await until_async(lambda: engine.is_over)


async def test_one_backend_with_another_model_is_not_a_change(server: FakeUpstream, start: Start) -> None:
    """Behind a load balancer one server may have another model: its rows are discarded and the texts sent again."""
    engine = await start(server)
    turns = iter([other_row, *[unit_row] * 1000])
    server.row_of = lambda text: turn(text)
    turn = next(turns)

    async def next_turn() -> None:
        nonlocal turn
        await until_async(lambda: len(server.asked) > 0)
        turn = next(turns)

    rows, _ = await asyncio.gather(rows_of(engine, ["hello"]), next_turn())
    same(rows, ["hello"])
    assert not engine.is_over


async def test_a_context_may_be_too_short_for_the_longest_canary_text(server: FakeUpstream, start: Start) -> None:
    server.refused = lambda text: len(text) > 200
    engine = await start(server, check_every=0.05)
    same(await rows_of(engine, ["hello"]), ["hello"])
    await until_async(lambda: any(set(asked) == set(CANARY_TEXTS[:-1]) for asked in server.asked))
    assert engine.upstream.breaker == "closed"
    server.row_of = other_row
    await until_async(lambda: engine.is_over)


async def test_rows_of_another_length_are_another_model(server: FakeUpstream, start: Start) -> None:
    engine = await start(server)
    server.row_of = lambda text: unit_row(text, 32)
    assert isinstance((await errors_of(engine, ["hello"]))[0], ModelReplacedError)
    assert engine._remote.served().dimensions == 32


# --- the local fallback -----------------------------------------------------------------------------------------------


class Local(FakeEngine):
    """The same model here, with rows that are not normalised."""

    def __init__(self, row_of: Callable[[str], Any] = lambda text: unit_row(text) * 5) -> None:
        super().__init__()
        self.row_of = row_of


async def test_a_local_model_that_is_the_same_answers_while_upstream_is_away(server: FakeUpstream, start: Start) -> None:
    local = Local()
    engine = await start(server, lambda: local)
    await until_async(lambda: engine.upstream.fallback == "same")
    assert engine.upstream.fallback_cosine == pytest.approx(1.0)
    await rows_of(engine, ["here"])
    assert set(local.computed) < set(CANARY_TEXTS), "upstream computes while it is there"
    await server.stop()
    texts = ["hello", "world"]
    same(await rows_of(engine, texts), texts)
    assert (engine.status.state, engine.status.mode) == ("ready", "local fallback")
    assert engine.upstream.fallback_texts == 2
    (tokens,) = engine.tokenize(["hello"], "ids")
    assert len((await tokens).ids) > 0
    await server.start()
    await until_async(lambda: engine.upstream.breaker == "closed", 30)
    server.asked.clear()
    same(await rows_of(engine, ["again"]), ["again"])
    assert [without_sentinels(asked) for asked in server.asked] == [["again"]]


async def test_a_local_model_that_is_another_one_never_answers(
    server: FakeUpstream, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    local = Local(other_row)
    engine = await start(server, lambda: local, wait=OUTAGE)
    await until_async(lambda: engine.upstream.fallback == "different")
    assert local.closed, "it is closed, so that it takes no memory"
    assert "other vectors than upstream" in caplog.text
    await server.stop()
    (error,) = await errors_of(engine, ["hello"])
    assert isinstance(error, EngineUnavailableError) and "other vectors than upstream" in error.message
    assert engine.status.state == "restarting"


async def test_the_setting_decides_about_a_local_model_that_is_nearly_the_same(server: FakeUpstream, start: Start) -> None:
    def near(text: str) -> Any:
        return unit_row(text) + 0.15 * other_row(text)

    strict = await start(server, lambda: Local(near))
    await until_async(lambda: strict.upstream.fallback == "different")
    cosine = strict.upstream.fallback_cosine
    assert cosine is not None and 0.9 < cosine < 0.99
    lenient = await start(server, lambda: Local(near), min_cosine=0.9)
    await until_async(lambda: lenient.upstream.fallback == "same")


async def test_a_local_model_that_cannot_be_loaded_is_reported(server: FakeUpstream, start: Start) -> None:
    def absent() -> Any:
        raise EngineUnavailableError("there is no such file")

    engine = await start(server, absent, wait=OUTAGE)
    await until_async(lambda: engine.upstream.fallback == "failed")
    await server.stop()
    (error,) = await errors_of(engine, ["hello"])
    assert error is not None and "there is no such file" in error.message


async def test_a_text_too_long_for_the_local_model_is_not_the_clients_mistake(server: FakeUpstream, start: Start) -> None:
    local = Local()
    engine = await start(server, lambda: local)
    await until_async(lambda: engine.upstream.fallback == "same")
    local.failing = lambda _text: InputTooLongError("", tokens=600, limit=512)
    await server.stop()
    (error,) = await errors_of(engine, ["hello"])
    assert isinstance(error, EngineUnavailableError) and "too long for the local fallback" in error.message


# --- the start --------------------------------------------------------------------------------------------------------


async def test_an_upstream_never_reached_before_is_waited_for(
    make_remote: Callable[..., Remote], caplog: pytest.LogCaptureFixture
) -> None:
    server = FakeUpstream()
    await server.start()
    await server.stop()
    remote = make_remote(server)
    with pytest.raises(EngineUnavailableError, match="never been reached"):
        await remote.identify(0.3, asyncio.Event())
    caplog.clear()
    identifying = asyncio.ensure_future(remote.identify(30.0, asyncio.Event()))
    await until_async(lambda: "waiting up to 30 s" in caplog.text)
    await server.start()
    await identifying
    assert remote.served().dimensions == 16
    await server.stop()


async def test_an_upstream_reached_before_may_be_away_at_the_start(
    server: FakeUpstream, make_remote: Callable[..., Remote]
) -> None:
    remote = make_remote(server)
    await remote.identify(5.0, asyncio.Event())
    await server.stop()
    again = make_remote(server, wait=20.0)
    await again.identify(5.0, asyncio.Event())
    assert again.served().digest == remote.served().digest
    engine = RemoteEngine(again)
    await engine.start()
    try:
        assert engine.status.state == "restarting" and engine.info is not None
        waiting = asyncio.ensure_future(rows_of(engine, ["hello"]))
        await server.start()
        same(await waiting, ["hello"])
    finally:
        await engine.close()


async def test_the_catalogue_recognises_the_names_of_other_servers(
    make_remote: Callable[..., Remote], tmp_path: Path
) -> None:
    for name in (
        "all-minilm-l6-v2",
        "sentence-transformers/all-MiniLM-L6-v2",
        "Qwen/Qwen3-Embedding-0.6B",
        "/m/all-minilm-l6-v2-Q8_0.gguf",
    ):
        entry = entry_of(name)
        assert entry is not None and entry.task == "embed"
    assert entry_of("somebody/else") is None
    assert entry_of("qwen3-reranker-0.6b") is None, "it does not embed"
    server = FakeUpstream(model="Qwen/Qwen3-Embedding-0.6B")
    await server.start()
    remote = make_remote(server)
    await remote.identify(5.0, asyncio.Event())
    served = remote.served()
    assert served.prompts is not None and "{instruction}" in served.prompts.query
    assert served.name == "Qwen/Qwen3-Embedding-0.6B" and "qwen3-embedding-0.6b" in served.other_names
    identities = IdentityStore(tmp_path / "upstream-identities.json")
    assert await only_model(remote.options, identities) == "Qwen/Qwen3-Embedding-0.6B"
    await server.stop()
    assert await only_model(remote.options, identities) == "Qwen/Qwen3-Embedding-0.6B", "it was reached before"
    with pytest.raises(ConfigError, match="name one with --model"):
        await only_model(remote.options, IdentityStore(tmp_path / "empty.json"))
