"""The access log and the spans of requests: what they hold, what they never hold, and how they bear disks and collectors."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from edgeembed.cache import VectorCache
from edgeembed.config.settings import Settings
from edgeembed.errors import ConfigError
from edgeembed.server import access_log
from edgeembed.server.lifecycle import listening
from tests.fake_upstreams import generation
from tests.fakes import FakeEngine, fake_service
from tests.server.dialect_requests import NO_ENDING, resolved
from tests.waiting import until

Serve = Callable[..., Awaitable[str]]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
async def servers() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def serve(servers: AsyncExitStack) -> Serve:
    """Return a function that starts a server like the daemon's and returns its URL."""

    async def start(**settings: Any) -> str:
        chosen = Settings(**{"port": 0, "grace_period": 0.1, **settings})
        service = fake_service(FakeEngine(), VectorCache(None, memory_mib=8, disk_mib=0))
        return await servers.enter_async_context(listening(service, resolved(chosen), (), lambda _models: None, NO_ENDING))

    return start


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield session


async def test_the_access_log_has_a_line_for_each_request_hits_included(
    serve: Serve, servers: AsyncExitStack, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    file = tmp_path / "access.log"
    url = await serve(access_log=str(file), log_format="json", api_key="a-key-of-this-test")
    headers = {"Authorization": "Bearer a-key-of-this-test", "X-Request-Id": "mine"}
    for _ in range(2):  # computed, then stored
        await client.post(f"{url}/v1/embeddings", json={"input": "a secret text"}, headers=headers)
    await client.get(f"{url}/secret-path?secret=1", headers={"Authorization": "Bearer secret"})
    await client.get(f"{url}/livez")
    await servers.aclose()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["request"], line["status"], line["key"]) for line in lines] == [
        ("POST /v1/embeddings", 200, "default"),
        ("POST /v1/embeddings", 200, "default"),
        ("GET (no route)", 401, "-"),
        ("GET /livez", 200, "-"),
    ]
    assert lines[0]["bytes"] == lines[1]["bytes"] > 100
    assert {line["client"] for line in lines} == {"127.0.0.1"}
    assert lines[0]["request_id"] == lines[1]["request_id"] == "mine" != lines[2]["request_id"]
    assert all(line["ms"] >= 0 for line in lines)
    assert "secret" not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


async def test_the_access_log_in_text_has_the_order_of_the_common_log_format(
    serve: Serve, servers: AsyncExitStack, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    file = tmp_path / "access.log"
    url = await serve(access_log=str(file))
    await client.post(f"{url}/v1/embeddings", json={"input": "a text"}, headers={"X-Request-Id": "mine"})
    await servers.aclose()
    line = r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\] "POST /v1/embeddings" 200 \d+ \d+\.\d+ mine\n'
    assert re.fullmatch(line, file.read_text())


async def test_the_access_log_follows_rotation_and_outlives_a_folder_that_is_gone(
    serve: Serve, servers: AsyncExitStack, client: aiohttp.ClientSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    file, rotated = folder / "access.log", folder / "access.log.1"
    url = await serve(access_log=str(file))
    await client.get(f"{url}/livez")
    await asyncio.to_thread(until, lambda: file.read_text().count("\n") == 1)
    file.rename(rotated)
    await client.get(f"{url}/readyz")
    await asyncio.to_thread(until, lambda: file.exists() and file.read_text().count("\n") == 1)
    assert "/livez" in rotated.read_text() and "/readyz" in file.read_text()
    folder.rename(tmp_path / "gone")
    for _ in range(3):
        assert (await client.get(f"{url}/livez")).status == 200
    await asyncio.to_thread(until, lambda: "cannot be written" in caplog.text)
    folder.mkdir()
    await client.get(f"{url}/livez")
    await servers.aclose()
    assert file.read_text().count("\n") == 1
    assert caplog.text.count("the access log cannot be written") == 1
    assert "the access log is written again" in caplog.text


async def test_lines_that_find_no_room_are_counted(
    serve: Serve, servers: AsyncExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(access_log, "MOST_WAITING", 2)
    log = access_log.AccessLog(str(tmp_path / "access.log"), "text")
    held = log._listener.handlers[0]
    assert isinstance(held, access_log._File)
    held.acquire()  # as a disk that hangs does
    request = type("Request", (dict,), {"remote": None})()
    try:
        for _ in range(10):
            log.write(request, "GET /livez", 200, 0.001, None, "id")
    finally:
        held.release()
    log.close()
    written = (tmp_path / "access.log").read_text().count("\n")
    assert 2 <= written < 10
    assert f"lacks {10 - written} lines" in caplog.text


async def test_an_access_log_that_cannot_be_written_is_refused(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"access_log: .* cannot be written: No such file or directory"):
        await serve(access_log=str(tmp_path / "missing" / "access.log"))


class Collector:
    """A stand-in for an OpenTelemetry collector."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.raw = b""
        self.resource: dict[str, str] = {}
        self.url = ""

    async def receive(self, request: web.Request) -> web.Response:
        raw = await request.read()
        self.raw += raw
        for group in ExportTraceServiceRequest.FromString(raw).resource_spans:
            self.resource = {each.key: each.value.string_value for each in group.resource.attributes}
            self.spans += [span for scope in group.scope_spans for span in scope.spans]
        return web.Response()

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    found = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", found.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{host}:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    yield found
    await runner.cleanup()


def attributes(span: Span) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "") for each in span.attributes}


async def test_spans_belong_to_the_clients_trace_and_hold_no_text(
    serve: Serve, servers: AsyncExitStack, client: aiohttp.ClientSession, collector: Collector
) -> None:
    url = await serve(traces=True)
    for _ in range(2):  # computed, then stored
        await client.post(f"{url}/v1/embeddings", json={"input": "a secret text"}, headers={"traceparent": TRACEPARENT})
    await client.get(f"{url}/v1/models/secret", headers={"traceparent": "secret"})
    await servers.aclose()
    computed, stored = collector.named("POST /v1/embeddings")
    for span in (computed, stored):
        assert (span.trace_id.hex(), span.parent_span_id.hex(), span.kind) == (TRACE, PARENT, Span.SPAN_KIND_SERVER)
    assert attributes(computed) == {
        "http.request.method": "POST",
        "http.route": "/v1/embeddings",
        "http.response.status_code": 200,
        "edgeembed.cache": "miss",
    }
    assert attributes(stored)["edgeembed.cache"] == "hit"
    [part] = collector.named("compute")
    assert (part.trace_id, part.parent_span_id) == (computed.trace_id, computed.span_id)
    assert attributes(part) == {"edgeembed.model": "fake-model:F32", "edgeembed.texts": 1}
    assert (
        computed.start_time_unix_nano <= part.start_time_unix_nano <= part.end_time_unix_nano <= computed.end_time_unix_nano
    )
    [other] = collector.named("GET /v1/models/{name}")
    assert other.parent_span_id == b"" and attributes(other)["http.response.status_code"] == 404
    assert collector.resource["service.name"] == "edgeembed" and collector.resource["service.version"]
    assert b"secret" not in collector.raw


async def test_a_collector_that_is_away_holds_up_neither_requests_nor_the_end(
    serve: Serve, servers: AsyncExitStack, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    url = await serve(traces=True)
    for _ in range(3):
        assert (await client.post(f"{url}/v1/embeddings", json={"input": "a text"})).status == 200
    async with asyncio.timeout(15):
        await servers.aclose()


@pytest.mark.parametrize("traces", [False, True])
async def test_what_is_forwarded_belongs_to_the_trace(
    traces: bool, serve: Serve, servers: AsyncExitStack, client: aiohttp.ClientSession, collector: Collector
) -> None:
    async with generation() as other:
        url = await serve(forward=other.url, traces=traces)
        await client.post(f"{url}/v1/chat/completions", json={}, headers={"traceparent": TRACEPARENT})
        await servers.aclose()
    given = other.requests[-1][2]["traceparent"]
    if traces:
        [span] = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
        assert given == f"00-{TRACE}-{span.span_id.hex()}-01"
    else:
        assert given == TRACEPARENT and not collector.spans
