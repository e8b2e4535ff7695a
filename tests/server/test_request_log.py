"""What is logged about a request."""

from __future__ import annotations

import json

import pytest
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.test_utils import TestClient

from edgeembed.common.logs import setup_logging
from edgeembed.errors import EngineError
from edgeembed.inference.requests import EmbedRequest
from edgeembed.inference.service import EmbeddingService
from edgeembed.server.aiohttp_internals import cannot_be_read
from edgeembed.server.request_log import HttpLog
from tests.fakes import FakeEngine


def messages(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    return [line["message"] for line in lines if line["logger"] == "edgeembed.server.request_log"]


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("GET", "/v1/models/secret", "GET /v1/models/{name} 404"),
        ("GET", "/secret?secret=secret", "GET (no route) 404"),
        ("PURGE", "/v1/models", "(other method) (no route) 405"),
        ("DELETE", "/v1/embeddings", "DELETE (no route) 405"),
        ("POST", "/v1/embeddings", "POST /v1/embeddings 400"),
        ("OPTIONS", "/secret\r\n\x1b[31m", "OPTIONS (no route) 404"),
    ],
)
async def test_a_request_is_named_by_method_and_route(
    method: str, path: str, said: str, client: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logging("debug", "json")
    await client.request(method, path, data=b'{"input": 5, "user": "secret"}', headers={"X-Secret": "secret"})
    (line,) = messages(capsys)
    assert line.startswith(f"{said} ") and line.endswith(" ms -")


async def test_only_failures_of_the_server_are_warnings(
    client: TestClient, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logging("warning", "json")
    engine.failing = lambda _text: EngineError("secret")
    assert (await client.post("/v1/embeddings", json={"input": "secret"})).status == 500
    assert (await client.post("/v1/embeddings", json={"input": 5})).status == 400
    engine.state = "failed"
    assert (await client.get("/health")).status == 503, "which is a valid answer"
    (line,) = messages(capsys)
    assert line.startswith("POST /v1/embeddings 500 ")


async def test_a_bug_is_logged_with_its_calls_and_without_its_message(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logging("warning", "json")

    async def fail(_service: EmbeddingService, request: EmbedRequest) -> None:
        raise KeyError(request.texts)

    monkeypatch.setattr(EmbeddingService, "embed", fail)
    response = await client.post("/v1/embeddings", json={"input": "secret"})
    assert response.status == 500 and "secret" not in await response.text()
    said = capsys.readouterr().err
    assert "secret" not in said
    first = json.loads(said.splitlines()[0])
    assert first["message"] == "unexpected error in POST /v1/embeddings" and "in fail" in first["exception"]
    assert first["exception"].endswith("KeyError")


def test_what_aiohttp_logs_is_the_clients_fault_or_a_bug(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("debug", "json")
    log = HttpLog()
    broken = LineTooLong(b"secret", 8190)
    assert cannot_be_read(broken) and cannot_be_read(web.RequestPayloadError()) and not cannot_be_read(ValueError())
    log.debug("secret %s", "secret", exc_info=broken)
    log.exception("secret %s", "secret", exc_info=broken)
    log.exception("secret %s", "secret", exc_info=ValueError("secret"))
    log.exception("secret")
    log.warning("secret")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["level"] for line in lines] == ["info", "error", "error", "warning"]
    assert lines[0]["message"] == "a request cannot be read: LineTooLong" and "secret" not in str(lines)
