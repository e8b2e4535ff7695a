"""One base URL for embeddings and chat: what is not ours goes to another server, and comes back as it is."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from yarl import URL

from edgeembed.config.settings import Settings
from edgeembed.server.lifecycle import listening
from tests.fake_upstreams import FakeGeneration, generation
from tests.fakes import FakeEngine, fake_service

Serve = Callable[..., Awaitable[str]]


@pytest.fixture
async def far() -> AsyncIterator[FakeGeneration]:
    async with generation() as fake:
        yield fake


@pytest.fixture
async def serve(far: FakeGeneration) -> AsyncIterator[Serve]:
    """Return a function that serves as the daemon does, and gives the URL."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> str:
            chosen = Settings(**{"port": 0, "forward": far.url, "grace_period": 0.1, **settings})
            service = fake_service(FakeEngine(), None)
            return await stack.enter_async_context(
                listening(service, chosen, (), lambda _models: None, lambda: None),
            )

        yield start


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield session


async def test_a_chat_streams_chunk_by_chunk(serve: Serve, far: FakeGeneration, client: aiohttp.ClientSession) -> None:
    url = await serve()
    async with client.post(f"{url}/v1/chat/completions", json={"stream": True, "messages": []}) as response:
        assert response.status == 200 and response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["X-Request-Id"] and response.headers["Server"].startswith("edgeembed/")
        for number in range(3):
            far.go_on.release()
            # The next one is not made yet: what arrives was not kept back.
            assert await response.content.readuntil(b"\n\n") == b'data: {"chunk":%d}\n\n' % number
        assert await response.content.read() == b"data: [DONE]\n\n"


async def test_a_client_that_hangs_up_ends_the_generation(
    serve: Serve, far: FakeGeneration, client: aiohttp.ClientSession
) -> None:
    url = await serve()
    response = await client.post(f"{url}/v1/chat/completions", json={"stream": True})
    far.go_on.release()
    await response.content.readuntil(b"\n\n")
    response.close()
    await asyncio.wait_for(far.gone.wait(), 10)


async def test_secrets_stay_and_the_other_key_goes(serve: Serve, far: FakeGeneration, client: aiohttp.ClientSession) -> None:
    url = await serve(forward_key="theirs", api_key="ours")
    headers = {"Authorization": "Bearer ours", "Cookie": "session=1", "X-Api-Key": "ours", "Connection": "X-Hop"}
    headers |= {"X-Hop": "1", "X-Stays": "yes", "X-Request-Id": "abc", "User-Agent": "a tool"}
    async with client.post(
        URL(f"{url}/v1/responses?a=b%2Fc", encoded=True), json={"input": "hi"}, headers=headers
    ) as response:
        assert response.status == 200
    method, path, sent, body = far.requests[-1]
    assert (method, path, body) == ("POST", "/v1/responses?a=b%2Fc", b'{"input": "hi"}')
    assert sent["Authorization"] == "Bearer theirs"
    assert (sent["X-Stays"], sent["X-Request-Id"], sent["User-Agent"]) == ("yes", "abc", "a tool")
    assert not {"Cookie", "X-Api-Key", "X-Hop"} & set(sent)
    assert "ours" not in str(sent)
    async with client.post(f"{url}/v1/responses", json={}) as response:
        assert response.status == 401, "our own key is asked for first"
    assert len(far.requests) == 1


async def test_without_a_key_of_theirs_none_is_sent(
    serve: Serve, far: FakeGeneration, client: aiohttp.ClientSession
) -> None:
    url = await serve()
    await (await client.post(f"{url}/v1/completions", json={}, headers={"Authorization": "Bearer anything"})).read()
    assert "Authorization" not in far.requests[-1][2]


async def test_web_pages_are_let_in_or_kept_out_by_us(
    serve: Serve, far: FakeGeneration, client: aiohttp.ClientSession
) -> None:
    url = await serve(allowed_origins=("https://notes.example",))
    async with client.post(f"{url}/v1/completions", json={}, headers={"Origin": "https://evil.example"}) as response:
        assert response.status == 403
    assert not far.requests
    async with client.post(f"{url}/v1/completions", json={}, headers={"Origin": "https://notes.example"}) as response:
        assert response.status == 200
        assert response.headers.getall("Access-Control-Allow-Origin") == ["https://notes.example"]
    assert "Origin" not in far.requests[-1][2], "the other side would refuse a page that it does not know"
    async with client.post(f"{url}/v1/completions", json={}, headers={"Host": "rebound.example"}) as response:
        assert response.status == 403


async def test_ours_stays_ours(serve: Serve, far: FakeGeneration, client: aiohttp.ClientSession) -> None:
    url = await serve()
    async with client.post(f"{url}/v1/embeddings", json={"input": "hello"}) as response:
        assert response.status == 200
    async with client.get(f"{url}/v1/embeddings") as response:
        assert response.status == 405, "a wrong method on a path of ours is no reason to ask elsewhere"
    async with client.get(f"{url}/openapi.json") as response:
        assert response.status == 200 and "/v1/{tail}" not in (await response.json())["paths"]
    async with client.get(f"{url}/metrics") as response:
        assert 'route="/v1/embeddings"' in await response.text()
    async with client.get(f"{url}/else") as response:
        assert response.status == 404
    assert not far.requests


@pytest.mark.parametrize("path", ["/v1/%2e%2e/admin", "/v1/a/..%2f..%2fadmin", "/v1/x/%2E%2E/%2E%2E/admin"])
async def test_no_path_leads_out_of_the_base_url(path: str, serve: Serve, far: FakeGeneration) -> None:
    url = await serve()
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert b" 404 " in (await reader.read()).splitlines()[0]
    writer.close()
    assert not far.requests


async def test_models_are_listed_together(serve: Serve, far: FakeGeneration, client: aiohttp.ClientSession) -> None:
    far.models.append({"id": "fake-model", "object": "model"})
    url = await serve()
    async with client.get(f"{url}/v1/models") as response:
        names = [(model["id"], model["owned_by"]) for model in (await response.json())["data"]]
    assert ("fake-model", "edgeembed") in names and ("far-chat", "vllm") in names
    assert len({name for name, _ in names}) == len(names), "a name of ours means ours"
    async with client.get(f"{url}/v1/models/far-chat") as response:
        assert (await response.json())["id"] == "far-chat"
    async with client.get(f"{url}/v1/models/fake-model") as response:
        assert (await response.json())["owned_by"] == "edgeembed"


async def test_errors_and_headers_come_back_as_they_are(
    serve: Serve, far: FakeGeneration, client: aiohttp.ClientSession
) -> None:
    url = await serve()
    async with client.post(f"{url}/v1/refused", json={}) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "7")
        assert (await response.json())["code"] == 429
        assert "X-Hop" not in response.headers and "Set-Cookie" not in response.headers


async def test_an_absent_server_is_a_502_and_its_models_are_left_out(serve: Serve, client: aiohttp.ClientSession) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = await serve(forward=f"http://127.0.0.1:{port}/v1")
    async with client.post(f"{url}/v1/chat/completions", json={}) as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"], error["type"]) == (502, "bad_gateway", "server_error")
    async with client.get(f"{url}/v1/models") as response:
        assert {model["owned_by"] for model in (await response.json())["data"]} == {"edgeembed"}


async def test_a_silent_server_is_a_504(serve: Serve, far: FakeGeneration, client: aiohttp.ClientSession) -> None:
    far.silent = True
    url = await serve(forward_timeout=0.2)
    async with client.post(f"{url}/v1/chat/completions", json={}) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (504, "gateway_timeout")


async def test_a_stream_that_falls_silent_breaks_off(
    serve: Serve, far: FakeGeneration, client: aiohttp.ClientSession
) -> None:
    """Its head was sent: a client must not take half an answer for the whole."""
    url = await serve(forward_timeout=0.3)
    async with client.post(f"{url}/v1/chat/completions", json={"stream": True}) as response:
        far.go_on.release()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_a_server_that_passes_back_is_found_out(serve: Serve, client: aiohttp.ClientSession) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = await serve(port=port, forward=f"http://127.0.0.1:{port}/v1")
    async with client.post(f"{url}/v1/chat/completions", json={}) as response:
        assert response.status == 502 and "this server itself" in (await response.json())["error"]["message"]


async def test_large_bodies_are_refused_here(serve: Serve, far: FakeGeneration, client: aiohttp.ClientSession) -> None:
    url = await serve(max_body_mib=1)
    async with client.post(f"{url}/v1/chat/completions", data=b"x" * (2 << 20)) as response:
        assert response.status == 413
    assert not far.requests


async def test_nothing_is_passed_on_by_default(serve: Serve, far: FakeGeneration, client: aiohttp.ClientSession) -> None:
    url = await serve(forward=None)
    async with client.post(f"{url}/v1/chat/completions", json={}) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "unknown_url")
    assert not far.requests
