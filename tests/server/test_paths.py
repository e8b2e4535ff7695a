"""Other spellings of our routes' paths, on a server like the daemon's; and what a 404 tells."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from edgeembed.cache import VectorCache
from edgeembed.config.settings import Settings
from edgeembed.server.app import make_app
from edgeembed.server.lifecycle import listening
from edgeembed.server.ops import admin
from edgeembed.server.paths import ALTERNATIVES, Spellings
from tests.fakes import FakeEngine, fake_service
from tests.server.dialect_requests import NO_ENDING, resolved

Serve = Callable[..., Awaitable[str]]

EMBEDDINGS = (
    *(
        "/embeddings",
        "/embeddings/",
        "//embeddings",
        "/v1/embeddings/",
        "/v1//embeddings",
        "//v1/embeddings",
        "//v1//embeddings//",
    ),
    *("/v1/v1/embeddings", "/v1//v1/embeddings", "/v1/v1/v1/embeddings/", "/v1/embeddings/embeddings"),
    *("/v1/embeddings/v1/embeddings", "/embeddings/embeddings", "/v1/v1/embeddings/embeddings"),
)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Return a function that starts a server and returns its URL."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> str:
            chosen = Settings(**{"port": 0, "grace_period": 0.1, **settings})
            service = fake_service(FakeEngine(), VectorCache(None, memory_mib=8, disk_mib=0))
            return await stack.enter_async_context(
                listening(service, resolved(chosen), (), lambda _models: None, NO_ENDING),
            )

        yield start


def spellings() -> Spellings:
    app = make_app(fake_service(FakeEngine()))
    admin.add_to(app, NO_ENDING)
    return Spellings(app)


async def ask(url: str, line: str, body: bytes = b"", *headers: str) -> tuple[int, dict[str, str], bytes]:
    """Send a request whose path no client library would touch; return status, headers in lower case, and body."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = [f"{line} HTTP/1.1", f"Host: {host}:{port}", "Content-Type: application/json", "X-Request-Id: same", *headers]
    head += [f"Content-Length: {len(body)}", "", ""]
    writer.write("\r\n".join(head).encode() + body)
    async with asyncio.timeout(20):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        found = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines[1:] if one)}
        content = await reader.readexactly(int(found.get("content-length", "0")))
    writer.close()
    found.pop("date", None)
    return int(lines[0].split()[1]), found, content


# --- the table ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EMBEDDINGS)
def test_other_spellings_of_embeddings(path: str) -> None:
    assert spellings().replacement(path) == "/v1/embeddings"


@pytest.mark.parametrize(
    ("path", "route"),
    [
        *ALTERNATIVES.items(),
        ("/rerank/", "/rerank"),
        ("/v1/rerank/rerank", "/v1/rerank"),
        ("/v1/reranking/", "/v1/rerank"),
        ("/health/", "/health"),
        ("//livez", "/livez"),
        ("/api//embed", "/api/embed"),
        ("/api/api/tags/", "/api/tags"),
        ("/api/embed/api/embed", "/api/embed"),
        ("/v2/v2/embed", "/v2/embed"),
        ("/embed/embed", "/embed"),
        ("//", "/"),
        ("/v1/", "/v1"),
        ("/v1/models/", "/v1/models"),
        ("/models/all-minilm", "/v1/models/all-minilm"),
        ("/v1//models/all-minilm/", "/v1/models/all-minilm"),
        ("/v1/models//all-minilm", "/v1/models/all-minilm"),
        ("/v1/v1/models/Qwen/Qwen3-Embedding-0.6B", "/v1/models/Qwen/Qwen3-Embedding-0.6B"),
        ("/models/a%2Fb:latest", "/v1/models/a%2Fb:latest"),
        ("/models//home/u/x.gguf", "/v1/models//home/u/x.gguf"),
    ],
)
def test_other_spellings(path: str, route: str) -> None:
    assert spellings().replacement(path) == route


def test_every_alternative_is_of_a_route_and_is_none() -> None:
    own = spellings().plain
    assert set(ALTERNATIVES.values()) <= own
    assert not set(ALTERNATIVES) & own


def test_every_own_path_stays() -> None:
    found = spellings()
    assert {path: found.replacement(path) for path in found.plain} == dict.fromkeys(found.plain)
    assert {path: found.meant(path) for path in found.plain} == {path: path for path in found.plain}


@pytest.mark.parametrize(
    "path",
    [
        *("//v1/admin", "/v1//admin/shutdown", "/v1/admin/", "/v1/v1/admin", "/v1/admin/admin", "/admin"),
        *("/metrics/", "//metrics", "/v1/status/", "/v1//status"),
        *("/v1/embeddings/..", "/v1/../embeddings", "/./v1/embeddings", "/v1/embeddings/.", "/x/../embeddings"),
        *("/v1%2fembeddings/", "/v1/embeddings%2f", "/%2fv1/embeddings", "/v1/%65mbeddings/", "/embeddings%00"),
        *("/V1/embeddings", "/v1/Embeddings", "/EMBEDDINGS", "/Health/", "/v1\\embeddings", "/v1/embeddings;a=b"),
        *("/v1/embeddings/x", "/x/v1/embeddings", "/api/v1/embeddings", "/v1/chat/completions/", "/v1/api/embed"),
        *("*", "", "example.org:443", "/" + "v1/" * 5000 + "embeddings", "/" + "a/b/" * 2000, "/" * 8000 + "x"),
    ],
)
def test_what_is_no_spelling_stays_as_it_is(path: str) -> None:
    """Routes that a proxy may have to block have only their own path; escapes, dots and capitals are left to the router."""
    assert spellings().replacement(path) is None


# --- answers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EMBEDDINGS)
async def test_an_other_spelling_is_answered_as_the_own_path(path: str, serve: Serve) -> None:
    """Status, headers and body: a miss, then a hit, which the fast path answers."""
    bodies = [json.dumps({"input": "hello"}).encode(), b'{"input": []}', b"{", b'{"input": "x", "model": "none"}']
    own, other = await serve(), await serve()
    for body in (bodies[0], *bodies):
        expected = await ask(own, "POST /v1/embeddings", body)
        assert await ask(other, f"POST {path}", body) == expected
        assert await ask(other, f"POST {path}?api-version=1", body) == await ask(
            own, "POST /v1/embeddings?api-version=1", body
        )
    assert await ask(other, f"GET {path}") == await ask(own, "GET /v1/embeddings")
    assert await counts(other) == await counts(own)


async def counts(url: str) -> list[str]:
    """Return the counts of requests by route and status."""
    lines = (await ask(url, "GET /metrics"))[2].decode().splitlines()
    return [line for line in lines if line.startswith("edgeembed_http_requests_total{")]


@pytest.mark.parametrize("path", ["/health/", "/ping", "/v1/health", "//livez"])
async def test_probes_need_no_key_however_they_are_spelled(path: str, serve: Serve) -> None:
    assert (await ask(await serve(api_key="ours"), f"GET {path}"))[0] in (200, 503)


@pytest.mark.parametrize(
    "line",
    [
        *(f"POST {path}" for path in EMBEDDINGS),
        *("POST //v1/admin/shutdown", "GET //v1/admin", "GET /v1//admin", "GET /v1/admin/", "POST /v1/admin/shutdown/"),
        *("GET /models", "GET /models/fake-model", "GET /v1", "GET /v1/", "POST //", "POST /health/../v1/admin/shutdown"),
        *(
            "GET /health/../metrics",
            "GET /health/..%2fmetrics",
            "GET /%68ealth/%2e%2e/metrics",
            "GET /health%2f..%2fmetrics",
        ),
        *(
            "GET //metrics",
            "GET /metrics/",
            "GET /Health",
            "GET /health/health/..",
            "GET /health/metrics",
            "GET /health;/metrics",
        ),
        *("GET /dashboard.css/../v1/status", "POST /health/v1/embeddings", "POST /ping/v1/embeddings", "GET /nothing"),
        *("POST http://elsewhere.example/v1/embeddings/", "POST http://elsewhere.example//embeddings"),
    ],
)
async def test_no_spelling_gets_past_the_check_of_keys(line: str, serve: Serve) -> None:
    url = await serve(api_key="ours")
    body = b'{"input": "hello"}'
    status, _, content = await ask(url, line, body)
    assert status == 401, content
    await ask(url, "POST /v1/embeddings", body, "Authorization: Bearer ours")
    assert (await ask(url, line, body))[0] == 401, "also when the answer is in the cache"


@pytest.mark.parametrize("path", ["/embeddings", "/v1//embeddings/", "/v1/v1/embeddings"])
async def test_limits_and_checks_of_pages_are_those_of_the_own_path(path: str, serve: Serve) -> None:
    url = await serve(max_body_mib=1, allowed_origins=("https://notes.example",))
    assert (await ask(url, f"POST {path}", b" " * (2 << 20)))[0] == 413
    assert (await ask(url, f"POST {path}", b"{}", "Origin: https://evil.example"))[0] == 403
    page = "Origin: https://notes.example"
    status, headers, _ = await ask(url, f"POST {path}", b'{"input": "x"}', page)
    assert (status, headers["access-control-allow-origin"]) == (200, "https://notes.example")
    assert (await ask(url, f"OPTIONS {path}", b"", page, "Access-Control-Request-Method: POST"))[0] == 204


@pytest.mark.parametrize(
    "line",
    [
        *("GET /v1/%61dmin", "POST /v1/%61dmin/pause", "POST /v1/admin%2fpause", "POST /%76%31/admin/pause?x=1"),
        *("GET /v1/statu%73", "GET /%6Detrics", "GET /metric%73?a=b", "GET /v1/%2561dmin"),
        *("POST /api/%70ull", "DELETE /api/%64elete", "POST /ap%69/copy"),
    ],
)
async def test_routes_that_a_proxy_may_block_have_no_spelling_with_escapes(line: str, serve: Serve) -> None:
    """HAProxy, for one, compares paths as they are written."""
    url = await serve()
    status, _, content = await ask(url, line, b'{"model": "fake-model"}')
    assert status == 404 and "there is nothing at" in content.decode()
    assert json.loads((await ask(url, "GET /v1/admin"))[2]) == {"paused": False, "stopping": False}


@pytest.mark.parametrize("path", ["/v1%2fembeddings", "/v1%2Fembeddings", "/v1/embeddings%2f"])
async def test_an_escaped_slash_is_none_not_even_for_an_answer_in_the_cache(path: str, serve: Serve) -> None:
    url = await serve()
    for line in ("/v1/embeddings", "/v1/embeddings"):
        assert (await ask(url, f"POST {line}", b'{"input": "hello"}'))[0] == 200
    assert (await ask(url, f"POST {path}", b'{"input": "hello"}'))[0] == 404


# --- what a 404 tells ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "field", "advice"),
    [
        ("POST /v1/api/embed", "error", "the base URL for clients of Ollama is {url}"),
        ("GET /v1/api/tags", "error", "the base URL for clients of Ollama is {url}"),
        ("POST /api/v1/embeddings", "error.message", "the base URL for clients of OpenAI's API is {url}/v1"),
        ("POST /openai/embeddings", "error.message", "the base URL for clients of OpenAI's API is {url}/v1"),
        ("GET /openai/models", "error.message", "the base URL for clients of OpenAI's API is {url}/v1"),
        ("POST /v1/similarity", "error", "the base URL for clients of text-embeddings-inference is {url}"),
        ("POST /v1/v2/embed", "message", "the base URL for clients of Cohere is {url}"),
        ("POST /v1/chat/completions", "error.message", "start it with --forward http://HOST:PORT/v1"),
        ("POST /chat/completions", "error.message", "The base URL for both is then {url}/v1"),
        ("POST /v1/responses/", "error.message", "--forward"),
        ("POST /v1/images/generations", "error.message", "--forward"),
        ("POST /v1/audio/speech", "error.message", "--forward"),
        ("GET /v1//admin", "error.message", "the path is /v1/admin"),
        ("GET /nothing", "error.message", "base URLs: {url}/v1 (OpenAI's API), {url} (Ollama), "),
    ],
)
async def test_a_404_names_the_base_url_in_the_format_of_a_client(line: str, field: str, advice: str, serve: Serve) -> None:
    url = await serve()
    status, _, content = await ask(url, line, b"{}")
    answer = json.loads(content)
    for name in field.split("."):
        answer = answer[name]
    assert status == 404
    assert answer.startswith(f"there is nothing at {line}")
    assert answer.partition("; ")[2].endswith(advice.format(url=url)) or advice.format(url=url) in answer


@pytest.mark.parametrize("path", ["/v1", "/v1/", "//v1"])
async def test_the_base_url_itself_tells_what_is_here(path: str, serve: Serve) -> None:
    url = await serve()
    status, _, content = await ask(url, f"GET {path}")
    answer = json.loads(content)
    assert (status, answer["server"], answer["base_urls"]["openai"]) == (200, "edgeembed", f"{url}/v1")
    assert (await ask(url, f"POST {path}", b"{}"))[0] == 405


async def test_the_openai_client_works_with_a_base_url_without_v1(serve: Serve) -> None:
    """As with one that ends in a slash, or in the route."""
    url = await serve()
    async with aiohttp.ClientSession() as client:
        for base in (url, f"{url}/", f"{url}/v1/", f"{url}/v1/embeddings"):
            async with client.post(f"{base}/embeddings", json={"input": "hello"}) as response:
                assert response.status == 200, base
