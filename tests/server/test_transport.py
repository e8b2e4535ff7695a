"""What clients do below JSON: Content-Encoding, charset, Expect, Upgrade."""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from edgeembed.cache import VectorCache
from edgeembed.server import content_codings, expectations, fast_path
from edgeembed.server.aiohttp_internals import take_no_upgrades, wrap_handler
from edgeembed.server.api_keys import Keys
from edgeembed.server.app import make_app
from edgeembed.server.auth import Access
from edgeembed.server.connections import ConnectionLimit
from tests.fakes import FakeEngine, fake_service

BODY = b'{"input": "hello"}'
LIMIT = 1_000_000
Ask = Callable[..., Awaitable[list[int]]]


def request(method: str = "POST", path: str = "/v1/embeddings", body: bytes = BODY, **headers: str) -> bytes:
    """Return a request as bytes; the underscores in the names of headers are hyphens."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    named = {"Host": "localhost", "Content-Length": str(len(body)), **given}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


zipped = functools.partial(gzip.compress, mtime=0)


@asynccontextmanager
async def daemon(
    access: Access | None = None, cache: VectorCache | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve as the daemon does, and yield a connection."""
    app = make_app(fake_service(FakeEngine(), cache), access=access, max_body_bytes=LIMIT)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    take_no_upgrades(runner)
    wrap_handler(runner, functools.partial(expectations.ahead_of, runner.app))
    fast_path.install(runner)
    ConnectionLimit(runner, 100)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
    try:
        async with asyncio.timeout(20):
            yield reader, writer
    finally:
        writer.close()
        await runner.cleanup()


async def headers(reader: asyncio.StreamReader) -> dict[str, str]:
    """Read one response, and return its headers."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    found = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
    await reader.readexactly(int(found["Content-Length"]))
    return found


async def status(reader: asyncio.StreamReader) -> int:
    """Read one response, and return its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    if (length := head.partition("content-length: ")[2].partition("\r\n")[0]) and " 100 " not in head[:20]:
        await reader.readexactly(int(length))
    return int(head.split()[1])


# --- Upgrade ----------------------------------------------------------------------------------------------------------

H2C = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2_Settings": "AAMAAABkAAQCAAAAAAIAAAAA"}
"""As curl --http2 and Java's HttpClient send them."""
CHUNKED = b'12\r\n{"input": "hello"}\r\n0\r\n\r\n'
GET = request("GET", "/health", b"", Content_Length="")


@pytest.mark.parametrize("size", [10_000, 1, 7, 64])
@pytest.mark.parametrize("headers", [H2C, {"Connection": "upgrade", "Upgrade": "websocket"}, {**H2C, "Upgrade": "TLS/1.0"}])
async def test_a_request_with_an_upgrade_and_what_follows_it_are_answered(headers: dict[str, str], size: int) -> None:
    sent = (
        request(**headers)
        + request("GET", "/health", b"", Content_Length="", **headers)
        + request(body=CHUNKED, Content_Length="", Transfer_Encoding="chunked", **headers)
        + request(**headers)
        + request()
        + GET
    )
    async with daemon() as (reader, writer):
        for begin in range(0, len(sent), size):
            writer.write(sent[begin : begin + size])
            await asyncio.sleep(0)
        assert [await status(reader) for _ in range(6)] == [200, 200, 200, 200, 200, 200]
        writer.write(GET)
        assert await status(reader) == 200, "the connection stays open"


async def test_a_large_body_with_an_upgrade_loses_nothing_behind_it() -> None:
    """Reading it is paused, as the handler reads slower than the client sends."""
    body = json.dumps({"input": ["\r\n\r\n" + "x" * 1000] * 800}).encode().replace(b"\\r\\n", b"\r\n")
    padded = b'{"input": "a"' + b"\r\n\r\n" * 200_000 + b"}"
    async with daemon() as (reader, writer):
        writer.write(request(body=padded, **H2C) + request(body=padded, **H2C) + GET)
        assert [await status(reader) for _ in range(3)] == [200, 200, 200]
        writer.write(request(body=body, **H2C) + GET)
        assert [await status(reader) for _ in range(2)] == [400, 200]


async def test_an_upgrade_that_is_not_recognised_in_time_closes_the_connection() -> None:
    """So the client knows that what it sent ahead was not answered."""
    async with daemon() as (reader, writer):
        writer.write(request(body=b'{"input": "a"' + b" " * 20_000 + b"}") + request("GET", "/health", b"", **H2C) + GET)
        assert await status(reader) == 200
        assert b"connection: close" in (await reader.readuntil(b"\r\n\r\n")).lower()


# --- answers that are sent as bytes -----------------------------------------------------------------------------------


async def test_an_answer_that_is_sent_as_bytes_has_the_headers_of_any_other() -> None:
    """They are sent so on connections that stay open, whether the row was computed or the whole answer was stored."""
    cache = VectorCache(None, memory_mib=8, disk_mib=0)
    async with daemon(cache=cache) as (reader, writer):
        found = []
        for body in (b'{"input": "one"}', b'{"input": "one"}', b'{"input": "one"}', b'{"input": "two"}'):
            writer.write(request(body=body, X_Request_Id="mine", Connection="" if body != b'{"input": "two"}' else "close"))
            found.append(await headers(reader))
    computed, found_row, stored, other = found
    assert other.pop("Connection") == "close"
    assert [each["X-Edgeembed-Cache"] for each in found] == ["miss", "hit", "hit", "miss"]
    assert computed.keys() == found_row.keys() == stored.keys() == other.keys()
    for name in other.keys() - {"Date", "Content-Length", "X-Edgeembed-Cache"}:
        assert computed[name] == found_row[name] == stored[name] == other[name]


# --- Expect -----------------------------------------------------------------------------------------------------------

EXPECT = {"Expect": "100-continue"}


async def test_a_client_that_waits_gets_one_100() -> None:
    for expect in ("100-continue", "100-Continue"):
        async with daemon() as (reader, writer):
            sent = request(Expect=expect)
            writer.write(sent[: -len(BODY)])
            assert await status(reader) == 100
            writer.write(BODY)
            assert await status(reader) == 200
            writer.write(request(**EXPECT))  # it does not wait
            assert await status(reader) == 200
            writer.write(GET)
            assert await status(reader) == 200


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"path": "/nothing"}, 404),
        ({"method": "PUT"}, 405),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Content_Length": str(LIMIT + 1)}, 413),
        ({"Content_Encoding": "br"}, 415),
        ({"Content_Type": "application/json; charset=koi8-r"}, 415),
        ({"Expect": "miracles"}, 417),
    ],
)
async def test_a_client_that_waits_with_what_is_refused_sends_no_body(wrong: dict[str, str], expected: int) -> None:
    access = Access(keys=Keys.read("sesame", None), check_host=True)
    async with daemon(access) as (reader, writer):
        options: dict[str, Any] = {"Authorization": "Bearer sesame", **EXPECT, **wrong}
        writer.write(request(**options)[: -len(BODY)])
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert int(head.split()[1]) == expected
        assert "connection: close" in head, "what comes next could be the body, or a request"
        assert "application/json" in head


async def test_http_1_0_expects_nothing() -> None:
    async with daemon() as (reader, writer):
        writer.write(request(**EXPECT).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await reader.readline()).split()[1] == b"200"


# --- Content-Encoding -------------------------------------------------------------------------------------------------


@pytest.fixture
async def client(aiohttp_client: Callable[..., Awaitable[TestClient]]) -> TestClient:
    return await aiohttp_client(make_app(fake_service(FakeEngine()), max_body_bytes=LIMIT))


RAW_DEFLATE = zlib.compress(BODY)[2:-4]


@pytest.mark.parametrize(
    ("coding", "packed", "expected"),
    [
        ("gzip", zipped(BODY), 200),
        ("GZip", zipped(BODY), 200),
        ("x-gzip", zipped(BODY), 200),
        ("gzip", zipped(BODY[:5]) + zipped(BODY[5:]), 200),
        ("deflate", zlib.compress(BODY), 200),
        ("deflate", RAW_DEFLATE, 200),
        ("identity", BODY, 200),
        ("identity, gzip", zipped(BODY), 200),
        ("gzip", zipped(BODY)[:-1], 400),
        ("gzip", zipped(BODY)[:-9] + b"12345678" + b"\0", 400),
        ("gzip", zipped(BODY) + b"more", 400),
        ("gzip", zipped(b"") * 100 + zipped(BODY), 400),
        ("deflate", zlib.compress(BODY) * 2, 400),
        ("deflate", RAW_DEFLATE[:-1], 400),
        ("gzip", BODY, 400),
        ("br", BODY, 415),
        ("zstd", BODY, 415),
        ("compress", BODY, 415),
        ("nonsense", BODY, 415),
        ("gzip, gzip", zipped(zipped(BODY)), 415),
    ],
)
async def test_codings(client: TestClient, coding: str, packed: bytes, expected: int) -> None:
    for path, keys in (("/v1/embeddings", {"error"}), ("/v2/embed", {"message"}), ("/embed", {"error", "error_type"})):
        body = packed
        if path != "/v1/embeddings" and expected == 200:
            continue
        response = await client.post(path, data=body, headers={"Content-Encoding": coding})
        assert response.status == (422 if expected == 400 and path == "/embed" else expected)
        if expected != 200:
            assert set(await response.json()) >= keys
        assert response.headers.get("Accept-Encoding") == ("gzip, deflate" if expected == 415 else None)
    assert (await client.post("/v1/embeddings", data=BODY)).status == 200, "the connection can be used again"


@pytest.mark.parametrize("pack", [zipped, lambda body: zipped(body[:9]) * (LIMIT // 4)])
async def test_no_more_is_decompressed_than_a_body_may_have(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    grown: list[int] = []
    usual = content_codings.Decompressor.parts

    def counted(self: content_codings.Decompressor, packed: bytes) -> Any:
        for part in usual(self, packed):
            grown.append(len(part))
            yield part

    monkeypatch.setattr(content_codings.Decompressor, "parts", counted)
    response = await client.post(
        "/v1/embeddings", data=pack(b" " * 50 * LIMIT)[:LIMIT], headers={"Content-Encoding": "gzip"}
    )
    assert response.status in (400, 413)
    assert sum(grown) < 2 * LIMIT and max(grown) <= 256 * 1024
    assert (await client.post("/v1/embeddings", data=BODY)).status == 200


# --- charset ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("charset", "codec", "expected"),
    [
        ("utf-8", "utf-8", 200),
        ('"UTF-8"', "utf-8-sig", 200),
        ("us-ascii", "utf-8", 200),
        ("iso-8859-1", "latin-1", 200),
        ("windows-1252", "cp1252", 200),
        ("utf-16", "utf-16", 200),
        ("UTF-16LE", "utf-16-le", 200),
        pytest.param("utf-16le", "utf-16", 200, marks=pytest.mark.skipif(sys.byteorder == "big", reason="writes UTF-16BE")),
        ("utf-16be", "utf-16-be", 200),
        ("utf-16le", "utf-8", 400),
        ("utf-7", "utf-8", 415),
        ("idna", "utf-8", 415),
        ("nonsense", "utf-8", 415),
    ],
)
async def test_charsets(charset: str, codec: str, expected: int, aiohttp_client: Any) -> None:
    engine = FakeEngine()
    client = await aiohttp_client(make_app(fake_service(engine)))
    headers = {"Content-Type": f"application/json; charset={charset}"}
    for path, body in (("/v1/embeddings", '{"input": "née"}'), ("/embed", '{"inputs": "née"}')):
        response = await client.post(path, data=body.encode(codec), headers=headers)
        assert response.status == (422 if expected == 400 and path == "/embed" else expected)
    if expected == 200:
        assert engine.computed and set(engine.computed) == {"née"}


async def test_the_same_bytes_in_another_charset_are_another_text() -> None:
    """A stored response is found by the bytes of the body."""
    body = '{"input": "Ã©"}'.encode("latin-1")
    async with daemon() as (reader, writer):
        answers = []
        for charset in ("utf-8", "utf-8", "latin-1", "utf-8"):
            writer.write(request(body=body, Content_Type=f"application/json; charset={charset}"))
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            answers.append(await reader.readexactly(int(head.partition("content-length: ")[2].split()[0])))
        assert answers[0] == answers[1] == answers[3] != answers[2]
