"""The OpenAPI document matches the server; and the page that shows it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from jsonschema import Draft202012Validator

from edgeembed.errors import EngineUnavailableError
from edgeembed.server.api_keys import Keys
from edgeembed.server.auth import Access
from edgeembed.server.ops.openapi import served
from edgeembed.server.ops.operations import OPERATIONS
from tests.server.dialect_requests import Server, daemon
from tests.server.helpers import loaded

POSTS = sorted(path for (method, path), operation in OPERATIONS.items() if method == "POST" and operation.body is not None)
NO_BODY = sorted(path for (method, path), operation in OPERATIONS.items() if method == "POST" and operation.body is None)
GETS = sorted(path for (method, path) in OPERATIONS if method == "GET")
WITHOUT_EXAMPLE: dict[str, dict[str, Any]] = {
    "/api/show": {"model": "embedder"},
    "/api/pull": {"model": "embedder", "stream": False},
    "/api/copy": {"source": "embedder", "destination": "mine"},
    "/api/generate": {"model": "embedder", "keep_alive": 0},
    "/v1/admin/cache/clear": {},
    "/v1/admin/keys/delete": {"name": "nobody"},
    "/v1/admin/aliases": {"name": "mine", "model": "embedder"},
    **{f"/v1/admin/models/{action}": {"model": "embedder"} for action in ("load", "unload", "default", "delete")},
    **{f"/v1/admin/models/pull{action}": {"model": "a/b"} for action in ("", "/pause", "/cancel")},
}
"""Bodies for routes without an example: these need the name of a model, or nothing."""
REFUSED = {
    "/v1/admin/keys/delete": 404,
    "/v1/admin/models/delete": 409,
    **{f"/v1/admin/models/pull{action}": 400 for action in ("", "/pause", "/cancel")},
}
"""Routes whose success needs more than a body; test_admin_models.py and test_admin_settings.py have it."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("EDGEEMBED_HOME", str(tmp_path))
    return daemon(outputs=("dense", "multi", "sparse"))


@pytest.fixture
async def client(server: Server, aiohttp_client: Callable[..., Awaitable[TestClient]]) -> TestClient:
    return await aiohttp_client(server.app)


async def document_of(client: TestClient) -> dict[str, Any]:
    response = await client.get("/openapi.json")
    assert response.status == 200
    return await response.json()


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})


def check(document: dict[str, Any], schema: dict[str, Any], instance: Any) -> None:
    """Raise jsonschema.ValidationError if a value does not match a schema of the document."""
    validator(document, schema).validate(instance)


async def check_response(document: dict[str, Any], method: str, path: str, response: Any) -> None:
    """Check a response against its route in the document: status, media type, headers and body."""
    answers = document["paths"][path][method.lower()]["responses"]
    assert str(response.status) in answers, f"{response.status} is not documented: {await response.text()}"
    answer = answers[str(response.status)]
    content = answer["content"]
    assert response.content_type in content
    for name, header in answer.get("headers", {}).items():
        if name in response.headers:
            check(document, header["schema"], response.headers[name])
    if response.content_type == "application/json":
        check(document, content["application/json"]["schema"], await response.json())


def test_the_document_has_exactly_the_servers_routes(server: Server) -> None:
    assert set(served(server.app)) == set(OPERATIONS)


async def test_the_document_is_valid(client: TestClient) -> None:
    document = await document_of(client)
    assert document["openapi"].startswith("3.1")
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    named = set(re.findall(r'"\$ref":"#/components/schemas/(\w+)"', await (await client.get("/openapi.json")).text()))
    assert named <= set(document["components"]["schemas"])
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids) == len(OPERATIONS)
    for operation in operations:
        assert operation["summary"].endswith(".")
        assert {tag["name"] for tag in document["tags"]} >= set(operation["tags"])


@pytest.mark.parametrize("path", POSTS)
async def test_examples_work_and_their_responses_match_the_document(client: TestClient, path: str) -> None:
    document = await document_of(client)
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    body = content.get("example") or WITHOUT_EXAMPLE[path]
    check(document, content["schema"], body)
    response = await client.post(path, json=body)
    assert response.status == REFUSED.get(path, 200), await response.text()
    await check_response(document, "POST", path, response)


@pytest.mark.parametrize("path", NO_BODY)
async def test_responses_to_requests_without_a_body_match_the_document(client: TestClient, path: str) -> None:
    document = await document_of(client)
    assert "requestBody" not in document["paths"][path]["post"]
    await check_response(document, "POST", path, await client.post(path))


async def test_the_document_has_no_routes_that_the_application_lacks(
    aiohttp_client: Callable[..., Awaitable[TestClient]],
) -> None:
    document = await document_of(await aiohttp_client(Server().app))
    assert not [path for path in document["paths"] if path.startswith("/v1/admin")]


@pytest.mark.parametrize("path", GETS)
async def test_responses_of_get_match_the_document(client: TestClient, path: str) -> None:
    await loaded(client)
    document = await document_of(client)
    response = await client.get(path.replace("{name}", "embedder"))
    assert response.status == 200
    await check_response(document, "GET", path, response)


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/embeddings", {"input": ["a"], "encoding_format": "base64"}),
    ("/v1/rerank", {"query": "q", "documents": ["good", {"text": "bad"}], "return_documents": True}),
    ("/rerank", {"query": "q", "documents": ["good"]}),
    ("/rerank", {"query": "q", "texts": ["good"], "return_text": True, "raw_scores": True}),
    ("/", {"query": "q", "texts": ["good"]}),
    ("/", {"inputs": {"source_sentence": "a", "sentences": ["b"]}}),
    ("/api/embed", {"input": ""}),
    ("/api/embeddings", {"prompt": ""}),
    ("/v1/embed", {"texts": ["a"], "embedding_types": ["float", "int8", "uint8", "binary", "ubinary", "base64"]}),
    ("/embed", {"inputs": "a", "normalize": False}),
    ("/v1/tokenize", {"input": "a"}),
    ("/v1/embeddings", {"input": ["a", "w " * 30], "truncate": "end"}),
    ("/v1/embeddings", {"input": [[5, 6], [7]], "token_ids": "model"}),
    ("/v2/embed", {"texts": ["w " * 30]}),
    ("/api/embed", {"input": "w " * 30}),
    ("/v1/admin/cache/clear", {"model": None}),
    ("/api/pull", {"name": "embedder"}),
    ("/classify", {"input": ["a", ["b", "c"]], "raw_scores": True}),
    ("/v1/classify", {"input": [[5, 6], [7]], "use_activation": False}),
    ("/classify", {"input": "w " * 30, "truncate": "end"}),
    ("/predict", {"inputs": [["a"], ["b", "c"]]}),
    ("/predict", {"inputs": "a", "parameters": {"top_k": 1}}),
    ("/", {"inputs": "a", "model": "judge"}),
    ("/v1/embeddings", {"input": ["a", "w " * 30], "truncate": "end", "sparse": True, "multi_vector": True}),
    ("/v1/embeddings", {"input": "a", "sparse": True, "sparse_words": True, "return_dense": False}),
    ("/v1/embeddings", {"input": "a", "multi_vector": True, "encoding_format": "base64"}),
    ("/v1/multi-vector", {"input": ["a"], "embedding_type": "base64"}),
    ("/invocations", {"input": ["a"], "sparse": True}),
    ("/pooling", {"input": ["a", "w " * 30], "truncate_prompt_tokens": -1}),
    ("/pooling", {"input": "a", "encoding_format": "base64"}),
    ("/pooling", {"input": "a", "encoding_format": "bytes"}),
    ("/v1/embeddings", {"input": "a", "encoding_format": "bytes_only"}),
    ("/pooling", {"input": [5, 6], "task": "embed"}),
    ("/pooling", {"input": "a", "model": "judge"}),
    ("/embed_all", {"inputs": [[5, 6], [7]]}),
    ("/embed_sparse", {"inputs": ["a", "w " * 30]}),
]


@pytest.mark.parametrize(("path", "body"), VARIANTS)
async def test_responses_to_other_bodies_match_the_document(client: TestClient, path: str, body: dict[str, Any]) -> None:
    document = await document_of(client)
    check(document, document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"], body)
    response = await client.post(path, json=body)
    assert response.status == 200
    await check_response(document, "POST", path, response)


WRONG: list[Any] = [None, True, -1, 0, 1.5, "word", "", [], [None], [1], [""], {}, {"a": 1}, [[]], [{}]]


@pytest.mark.parametrize("path", POSTS)
async def test_bodies_that_do_not_match_the_document_are_errors(client: TestClient, path: str) -> None:
    """For each field, values of every type: the server refuses what the schema refuses."""
    document = await document_of(client)
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    schema, example = content["schema"], content.get("example") or WITHOUT_EXAMPLE[path]
    components = document["components"]["schemas"]
    refs = [each["$ref"].rpartition("/")[2] for each in schema.get("anyOf", [schema])]
    fields = {field for ref in refs for field in components[ref]["properties"]}
    allowed = validator(document, schema)
    tried = 0
    for body in [{**example, field: value} for field in sorted(fields) for value in WRONG] + WRONG:
        if allowed.is_valid(body):
            continue
        response = await client.post(path, data=json.dumps(body), headers={"Content-Type": "application/json"})
        assert 400 <= response.status < 500, f"{body} gives {response.status}"
        await check_response(document, "POST", path, response)
        tried += 1
    assert tried > 10


async def test_server_errors_match_the_document(client: TestClient, server: Server) -> None:
    document = await document_of(client)

    def away(_text: str) -> EngineUnavailableError:
        return EngineUnavailableError("the worker is away")

    server.embedder.failing = server.ranker.failing = server.judge.failing = away
    for path in POSTS:
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"].get("example")
        # The fake engine never fails to tokenise.
        tokenizes = path in ("/v1/tokenize", "/tokenize", "/detokenize", "/decode")
        if body is None or tokenizes or path.startswith("/v1/admin"):
            continue
        response = await client.post(path, json=body)
        assert response.status == 503
        await check_response(document, "POST", path, response)
    server.embedder.state, server.embedder.reason = "restarting", "it died"
    response = await client.get("/health")
    assert response.status == 503
    await check_response(document, "GET", "/health", response)


async def test_access_errors_match_the_document(
    aiohttp_client: Callable[..., Awaitable[TestClient]],
) -> None:
    open_client = await aiohttp_client(daemon().app)
    document = await document_of(open_client)
    client = await aiohttp_client(daemon(access=Access(keys=Keys.read("sesame", None), check_host=True)).app)
    for method, path in OPERATIONS:
        asked = path.replace("{name}", "embedder")
        response = await client.request(method, asked, headers={"Host": "evil.example", "Authorization": "Bearer sesame"})
        assert response.status == 403
        await check_response(document, method, path, response)
        response = await client.request(method, asked, json={} if method == "POST" else None)
        if response.status != 200:  # such as a probe, which needs no key
            await check_response(document, method, path, response)


async def test_a_route_without_description_is_left_out_of_the_document(
    aiohttp_client: Callable[..., Awaitable[TestClient]],
) -> None:
    server = daemon()

    async def handler(_request: web.Request) -> web.Response:
        return web.Response()

    server.app.router.add_get("/undescribed", handler)
    document = await document_of(await aiohttp_client(server.app))
    assert "/undescribed" not in document["paths"]
    assert "/v1/embeddings" in document["paths"]


async def test_the_page_shows_every_route_without_a_script(client: TestClient) -> None:
    response = await client.get("/docs")
    assert response.status == 200
    page = await response.text()
    for method, path in OPERATIONS:
        assert f"<b>{method}</b> <code>{html.escape(path)}</code>" in page
    assert "`" not in page, "backticks in a docstring become code on the page"
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy and "http" not in policy
    assert "<script" not in page and "javascript:" not in page and " on" + "click" not in page
    links = re.findall(r"""(?:href|src)=["']([^"']+)""", page)
    assert all(link.startswith(("#", "/")) for link in links), "no resources from other servers"
    anchors = {link[1:] for link in links if link.startswith("#")}
    assert anchors <= set(re.findall(r'id="([^"]+)"', page))


async def test_the_host_header_is_escaped_on_the_page(aiohttp_client: Callable[..., Awaitable[TestClient]]) -> None:
    client = await aiohttp_client(Server(access=Access(check_host=False)).app)
    page = await (await client.get("/docs", headers={"Host": "x'\"><script>alert(1)</script>"})).text()
    assert "<script" not in page
