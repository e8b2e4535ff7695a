"""One request to upstream: what happens to its texts when it is answered, refused or fails."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from aiohttp import web

from edgeembed.engine.interface import BULK, Limits, Prompted
from edgeembed.errors import (
    BadVectorError,
    EngineError,
    EngineTimeoutError,
    InputTooLongError,
    RequestError,
)
from tests.fake_upstreams import FakeUpstream, Start, Style, unit_row
from tests.upstream.asking import errors_of, rows_of, same
from tests.waiting import until_async


@pytest.mark.parametrize("style", ["sglang", "vllm", "tei"])
async def test_a_refused_text_does_not_affect_the_others(style: Style, start: Start) -> None:
    server = FakeUpstream(style)
    server.refused = lambda text: "far too long" in text
    await server.start()
    engine = await start(server)
    texts = [f"text {n}" for n in range(20)]
    texts[13] = "far too long"
    futures = engine.submit(texts, BULK)
    await asyncio.wait(futures)
    with pytest.raises(RequestError, match="longer than the model's context length"):
        futures.pop(13).result()
    same([future.result() for future in futures], texts[:13] + texts[14:])
    assert engine.upstream.refusals == 1 and engine.upstream.breaker == "closed"
    assert engine.upstream.most_texts == 30, "a refused text says nothing about the size of requests"
    await engine.close()
    await server.stop()


@pytest.mark.parametrize(
    "trouble",
    [
        *({"status": status, "text": '{"error": {"message": "secret"}}'} for status in (400, 401, 404, 413, 429, 500, 503)),
        {"status": 502, "text": "secret", "reason": "secret"},
        {"text": '{"data": "secret"}'},
        {"text": '{"data": [{"embedding": "secret"}, {"embedding": "secret"}]}'},
        {"text": "secret"},
        {"body": b"secret", "headers": {"Content-Encoding": "gzip"}},
        {"status": 302, "headers": {"Location": "http://secret"}},
    ],
    ids=str,
)
async def test_what_upstream_says_is_neither_logged_nor_shown(
    trouble: dict[str, Any], server: FakeUpstream, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """It may quote the text of a client, or of another one; only who sent the text may see it."""
    caplog.set_level("DEBUG", "edgeembed")
    engine = await start(server, wait=0.0)
    server.troubles.extend(web.Response(**trouble) for _ in range(3))
    await errors_of(engine, ["hello"])
    await errors_of(engine, ["hello"])
    shown = f"{caplog.text} {msgspec.json.encode(engine.status).decode()} {msgspec.json.encode(engine.upstream).decode()}"
    assert "secret" not in shown


async def test_the_largest_request_of_a_server_is_found(server: FakeUpstream, start: Start) -> None:
    server.most_texts = 8
    engine = await start(server)
    texts = [f"text {n}" for n in range(31)]
    same(await rows_of(engine, texts), texts)
    refusals = len(server.bodies) - len(server.asked)
    assert engine.upstream.most_texts < 8
    same(await rows_of(engine, texts), texts)
    assert len(server.bodies) - len(server.asked) == refusals, "no larger request is tried again"


async def test_a_text_that_causes_an_error_500_is_not_retried(server: FakeUpstream, start: Start) -> None:
    engine = await start(server)
    server.troubles.append(server.error(500, "CUDA error"))
    (error,) = await errors_of(engine, ["hello"])
    assert type(error) is EngineError and "CUDA error" in error.message
    # llama-server's message and status for a text longer than its batch.
    server.troubles.append(server.error(500, "input (1002 tokens) is too large to process"))
    (error,) = await errors_of(engine, ["hello"])
    assert type(error) is RequestError and "1002 tokens" in error.message


async def test_a_clients_own_limit_is_checked_with_upstreams_token_count(server: FakeUpstream, start: Start) -> None:
    engine = await start(server)
    words = " ".join(["word"] * 30)
    strict, cutting = Prompted("", words, "", Limits(16, "none")), Prompted("", words, "", Limits(16, "end"))
    wide = Prompted("", words, "", Limits(40, "end"))
    first, second, third = await errors_of(engine, [strict, cutting, wide])
    assert isinstance(first, InputTooLongError) and (first.tokens, first.limit) == (32, 16)
    assert type(second) is RequestError and "cannot truncate on request" in second.message
    assert third is None


async def test_unusable_rows_are_errors(server: FakeUpstream, start: Start) -> None:
    engine = await start(server)
    server.row_of = lambda text: unit_row(text) * (text != "zero")
    zero, fine = await errors_of(engine, ["zero", "fine"])
    assert isinstance(zero, BadVectorError) and fine is None


async def test_a_request_is_sent_again_after_a_closed_connection(server: FakeUpstream, start: Start) -> None:
    engine = await start(server, wait=20.0)
    server.hold.clear()
    waiting = asyncio.ensure_future(rows_of(engine, ["hello"]))
    await until_async(lambda: server.in_flight == 1)
    server.hold = asyncio.Event()
    server.hold.set()
    await server.stop()
    await server.start()
    same(await waiting, ["hello"])


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_single_failure_is_not_seen_by_clients(status: int, server: FakeUpstream, start: Start) -> None:
    engine = await start(server)
    server.troubles.append(web.Response(status=status, text="<html>bad gateway</html>"))
    same(await rows_of(engine, ["hello"]), ["hello"])
    assert (engine.upstream.breaker, engine.upstream.opened, engine.upstream.retries) == ("closed", 0, 1)


async def test_a_request_that_times_out_is_not_retried(server: FakeUpstream, start: Start) -> None:
    engine = await start(server, timeout=0.2)
    server.hold.clear()
    (error,) = await errors_of(engine, ["hello"])
    assert isinstance(error, EngineTimeoutError) and engine.upstream.retries == 0
