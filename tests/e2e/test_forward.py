"""One base URL for embeddings and chat: other routes are forwarded to another server, and responses returned unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from yarl import URL

from edgeembed.config.settings import Settings
from edgeembed.server import proxy
from edgeembed.server.lifecycle import listening
from tests.fake_upstreams import FakeGeneration, generation
from tests.fakes import FakeEngine, fake_service
from tests.hostile_server import dripping, endless, hostile_server
from tests.ports import free_port
from tests.server.dialect_requests import NO_ENDING, resolved

Serve = Callable[..., Awaitable[str]]


@pytest.fixture
async def other() -> AsyncIterator[FakeGeneration]:
    async with generation() as fake:
        yield fake


@pytest.fixture
async def serve(other: FakeGeneration) -> AsyncIterator[Serve]:
    """Return a function that starts a server like the daemon's and returns its URL."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> str:
            chosen = Settings(**{"port": 0, "forward": other.url, "grace_period": 0.1, **settings})
            service = fake_service(FakeEngine(), None)
            return await stack.enter_async_context(
                listening(service, resolved(chosen), (), lambda _models: None, NO_ENDING),
            )

        yield start


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield session


async def test_a_chat_streams_chunk_by_chunk(serve: Serve, other: FakeGeneration, client: aiohttp.ClientSession) -> None:
    url = await serve()
    async with client.post(f"{url}/v1/chat/completions", json={"stream": True, "messages": []}) as response:
        assert response.status == 200 and response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["X-Request-Id"] and response.headers["Server"].startswith("edgeembed/")
        for number in range(3):
            other.go_on.release()
            # The next chunk does not exist yet, so this one was not buffered.
            assert await response.content.readuntil(b"\n\n") == b'data: {"chunk":%d}\n\n' % number
        assert await response.content.read() == b"data: [DONE]\n\n"


async def test_a_disconnecting_client_ends_the_generation(
    serve: Serve, other: FakeGeneration, client: aiohttp.ClientSession
) -> None:
    url = await serve()
    response = await client.post(f"{url}/v1/chat/completions", json={"stream": True})
    other.go_on.release()
    await response.content.readuntil(b"\n\n")
    response.close()
    await asyncio.wait_for(other.gone.wait(), 10)


async def test_the_clients_secrets_are_replaced_by_the_other_servers_key(
    serve: Serve, other: FakeGeneration, client: aiohttp.ClientSession
) -> None:
    url = await serve(forward_key="theirs", api_key="ours")
    headers = {"Authorization": "Bearer ours", "Cookie": "session=1", "X-Api-Key": "ours", "Connection": "X-Hop"}
    headers |= {"X-Hop": "1", "X-Stays": "yes", "X-Request-Id": "abc", "User-Agent": "a tool"}
    async with client.post(
        URL(f"{url}/v1/responses?a=b%2Fc", encoded=True), json={"input": "hi"}, headers=headers
    ) as response:
        assert response.status == 200
    method, path, sent, body = other.requests[-1]
    assert (method, path, body) == ("POST", "/v1/responses?a=b%2Fc", b'{"input": "hi"}')
    assert sent["Authorization"] == "Bearer theirs"
    assert (sent["X-Stays"], sent["X-Request-Id"], sent["User-Agent"]) == ("yes", "abc", "a tool")
    assert not {"Cookie", "X-Api-Key", "X-Hop"} & set(sent)
    assert "ours" not in str(sent)
    async with client.post(f"{url}/v1/responses", json={}) as response:
        assert response.status == 401, "our own API key is required first"
    assert len(other.requests) == 1


async def test_no_key_is_sent_unless_configured(serve: Serve, other: FakeGeneration, client: aiohttp.ClientSession) -> None:
    url = await serve()
    await (await client.post(f"{url}/v1/completions", json={}, headers={"Authorization": "Bearer anything"})).read()
    assert "Authorization" not in other.requests[-1][2]


async def test_our_rules_for_web_pages_apply(serve: Serve, other: FakeGeneration, client: aiohttp.ClientSession) -> None:
    url = await serve(allowed_origins=("https://notes.example",))
    async with client.post(f"{url}/v1/completions", json={}, headers={"Origin": "https://evil.example"}) as response:
        assert response.status == 403
    assert not other.requests
    async with client.post(f"{url}/v1/completions", json={}, headers={"Origin": "https://notes.example"}) as response:
        assert response.status == 200
        assert response.headers.getall("Access-Control-Allow-Origin") == ["https://notes.example"]
        assert "X-Request-Id" in response.headers["Access-Control-Expose-Headers"] and response.headers["Vary"] == "Origin"
    assert "Origin" not in other.requests[-1][2], "the other server may reject pages that it does not know"
    async with client.post(f"{url}/v1/completions", json={}, headers={"Host": "rebound.example"}) as response:
        assert response.status == 403


async def test_our_routes_are_not_forwarded(serve: Serve, other: FakeGeneration, client: aiohttp.ClientSession) -> None:
    url = await serve()
    async with client.post(f"{url}/v1/embeddings", json={"input": "hello"}) as response:
        assert response.status == 200
    async with client.get(f"{url}/v1/embeddings") as response:
        assert response.status == 405, "a wrong method for one of our routes is not forwarded"
    async with client.get(f"{url}/openapi.json") as response:
        assert response.status == 200 and "/v1/{tail}" not in (await response.json())["paths"]
    async with client.get(f"{url}/metrics") as response:
        assert 'route="/v1/embeddings"' in await response.text()
    async with client.get(f"{url}/else") as response:
        assert response.status == 404
    assert not other.requests


async def send_raw(url: str, head: str, body: bytes = b"") -> bytes:
    """Send a request whose path and headers no client would touch, and return the status line."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    writer.write(f"{head}\r\nHost: localhost\r\n{length}Connection: close\r\n\r\n".encode() + body)
    line = (await reader.read()).splitlines()[0]
    writer.close()
    return line


@pytest.mark.parametrize(
    "path",
    ["/v1/%2e%2e/admin", "/v1/a/..%2f..%2fadmin", "/v1/x/%2E%2E/%2E%2E/admin", "/v1/%252e%252e/admin", "/v1/a\\..\\admin"],
)
async def test_paths_cannot_leave_the_base_url(path: str, serve: Serve, other: FakeGeneration) -> None:
    url = await serve()
    assert b" 404 " in await send_raw(url, f"GET {path} HTTP/1.1")
    assert not other.requests


@pytest.mark.parametrize(
    "path",
    [
        "/v1/embeddings/",
        "/v1//embeddings",
        "//v1/embeddings",
        "/v1/./embeddings",
        "/v1/x/../embeddings",
        "/v1/%2e/embeddings",
        "/v1/%65mbeddings/",
        "/v1%2Fembeddings",
        "/v1/%2Fembeddings",
        "/v1/%252Fembeddings",
        "/v1/%2565mbeddings",
        "/v1/Embeddings",
        "/v1/EMBEDDINGS",
        "/V1/embeddings",
        "/v1/embeddings;a=b",
        "/v1;x/embeddings",
        "/v1/embeddings%3Fx",
        "/v1/embeddings%23x",
        "/v1/embeddings%00",
        "/v1/embeddings%20",
        "/v1/embeddings%0d%0a",
        "/v1\\embeddings",
        "/v1/%5Cembeddings",
        "/v1/rerank/",
        "/v1/models/",
        "/v1/embed//",
        "/v1/status/",
        "http://elsewhere.example/v1/embeddings/",
        "/v1/v1/embeddings",
        "/v1/V1/embeddings",
        "/v1/Embeddings/embeddings",
        "/v1/embeddings/v1/Embeddings%2f",
        "/v1/reranking%20",
        "/v1/api/embed",
        "/v1/API/embed/",
        "/v1/api/embeddings",
        "/v1/v2/embed",
        "/v1/similarity",
        "/v1//admin/shutdown",
        "/v1/v1/admin",
        "/v1/%61dmin/",
        "/v1/metrics",
        "/v1/models/%2e%2e/chat/completions",
        "/v1/models/../chat/completions",
        "/v1/models/..%2f..%2fadmin",
    ],
)
async def test_texts_for_us_are_not_forwarded_however_the_path_is_written(
    path: str, serve: Serve, other: FakeGeneration
) -> None:
    url = await serve(forward_key="theirs")
    for method in ("POST", "GET", "PUT", "OPTIONS"):
        line = await send_raw(url, f"{method} {path} HTTP/1.1", b'{"input": "private"}')
        assert line.split()[1] in (b"200", b"400", b"404", b"405"), (method, line)
    assert {sent[1] for sent in other.requests} <= ({"/v1/models"} if path == "/v1/models/" else set()), "its list is asked"
    assert not any(sent[3] for sent in other.requests)


@pytest.mark.parametrize(
    "path",
    ["/v1//chat/completions", "/v1/v1/chat/completions/", "/chat/completions", "/v1/chat/completions/chat/completions"],
)
async def test_other_spellings_of_chat_are_forwarded_to_its_own_path(path: str, serve: Serve, other: FakeGeneration) -> None:
    url = await serve(forward_key="theirs", api_key="ours")
    assert b" 401 " in await send_raw(url, f"POST {path} HTTP/1.1", b"{}")
    assert not other.requests
    assert b" 200 " in await send_raw(url, f"POST {path}?a=%20b HTTP/1.1\r\nAuthorization: Bearer ours", b"{}")
    assert [sent[1] for sent in other.requests] == ["/v1/chat/completions?a=%20b"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "QUERY"])
@pytest.mark.parametrize("headers", [(), ("Access-Control-Request-Method: POST",)])
async def test_every_forwarded_request_needs_a_key(
    method: str, headers: tuple[str, ...], serve: Serve, other: FakeGeneration
) -> None:
    """Also with the headers of a preflight request from a page of our own origin, which no browser sends."""
    url = await serve(forward_key="theirs", api_key="ours")
    own = f"Origin: {url.replace('127.0.0.1', 'localhost')}"
    for more in ((), (own,), ("Origin: null",)):
        head = "\r\n".join([f"{method} /v1/chat/completions HTTP/1.1", *headers, *more])
        assert (await send_raw(url, head)).split()[1] in (b"401", b"403")
    assert not other.requests


async def test_an_allowed_page_s_preflight_request_needs_no_key_and_stays_here(
    serve: Serve, other: FakeGeneration, client: aiohttp.ClientSession
) -> None:
    url = await serve(forward_key="theirs", api_key="ours", allowed_origins=("https://notes.example",))
    headers = {"Origin": "https://notes.example", "Access-Control-Request-Method": "POST"}
    async with client.options(f"{url}/v1/chat/completions", headers=headers) as response:
        assert response.status == 204
    del headers["Access-Control-Request-Method"]
    async with client.options(f"{url}/v1/chat/completions", headers=headers) as response:
        assert response.status == 401
    assert not other.requests


async def test_a_trace_would_show_our_key_and_is_refused(serve: Serve, other: FakeGeneration) -> None:
    url = await serve(forward_key="theirs")
    assert b" 405 " in await send_raw(url, "TRACE /v1/chat/completions HTTP/1.1")
    assert not other.requests


async def test_models_are_listed_together(serve: Serve, other: FakeGeneration, client: aiohttp.ClientSession) -> None:
    other.models.append({"id": "fake-model", "object": "model"})
    url = await serve()
    async with client.get(f"{url}/v1/models") as response:
        names = [(model["id"], model["owned_by"]) for model in (await response.json())["data"]]
    assert ("fake-model", "edgeembed") in names and ("far-chat", "vllm") in names
    assert len({name for name, _ in names}) == len(names), "our models take precedence"
    async with client.get(f"{url}/v1/models/far-chat") as response:
        assert (await response.json())["id"] == "far-chat"
    async with client.get(f"{url}/v1/models/fake-model") as response:
        assert (await response.json())["owned_by"] == "edgeembed"


async def test_errors_and_headers_are_returned_unchanged(
    serve: Serve, other: FakeGeneration, client: aiohttp.ClientSession
) -> None:
    url = await serve()
    async with client.post(f"{url}/v1/refused", json={}) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "7")
        assert (await response.json())["code"] == 429
        assert "X-Hop" not in response.headers and "Set-Cookie" not in response.headers


async def test_an_unreachable_server_is_a_502_and_its_models_are_not_listed(
    serve: Serve, client: aiohttp.ClientSession
) -> None:
    port = free_port()
    url = await serve(forward=f"http://127.0.0.1:{port}/v1")
    async with client.post(f"{url}/v1/chat/completions", json={}) as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"], error["type"]) == (502, "bad_gateway", "server_error")
    async with client.get(f"{url}/v1/models") as response:
        assert {model["owned_by"] for model in (await response.json())["data"]} == {"edgeembed"}


async def test_a_silent_server_is_a_504(serve: Serve, other: FakeGeneration, client: aiohttp.ClientSession) -> None:
    other.silent = True
    url = await serve(forward_timeout=0.2)
    async with client.post(f"{url}/v1/chat/completions", json={}) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (504, "gateway_timeout")


async def test_a_silent_stream_is_disconnected(serve: Serve, other: FakeGeneration, client: aiohttp.ClientSession) -> None:
    """The headers have been sent: the client must not mistake a partial response for a complete one."""
    url = await serve(forward_timeout=0.3)
    async with client.post(f"{url}/v1/chat/completions", json={"stream": True}) as response:
        other.go_on.release()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_a_forwarding_loop_is_detected(serve: Serve, client: aiohttp.ClientSession) -> None:
    port = free_port()
    url = await serve(port=port, forward=f"http://127.0.0.1:{port}/v1")
    async with client.post(f"{url}/v1/chat/completions", json={}) as response:
        assert response.status == 502 and "this server itself" in (await response.json())["error"]["message"]


async def test_large_bodies_are_rejected_without_forwarding(
    serve: Serve, other: FakeGeneration, client: aiohttp.ClientSession
) -> None:
    url = await serve(max_body_mib=1)
    async with client.post(f"{url}/v1/chat/completions", data=b"x" * (2 << 20)) as response:
        assert response.status == 413
    assert not other.requests


async def test_nothing_is_forwarded_by_default(serve: Serve, other: FakeGeneration, client: aiohttp.ClientSession) -> None:
    url = await serve(forward=None)
    async with client.post(f"{url}/v1/chat/completions", json={}) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "unknown_url")
    assert not other.requests


async def test_a_list_of_models_without_an_end_is_not_read_to_its_end(serve: Serve, client: aiohttp.ClientSession) -> None:
    async with hostile_server() as hostile:
        url = await serve(forward=hostile.url)
        hostile.stream(endless)
        async with client.get(f"{url}/v1/models") as response:
            assert response.status == 200
            assert "far-chat" not in await response.text()
        assert hostile.sent < 16 * 2**20


async def test_a_response_that_drips_for_ever_is_ended(
    serve: Serve, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "LONGEST_SECONDS", 0.3)
    async with hostile_server() as hostile:
        url = await serve(forward=hostile.url)
        hostile.stream(dripping)
        with pytest.raises(aiohttp.ClientError):
            async with client.post(f"{url}/v1/chat/completions", json={}) as response:
                await response.read()
