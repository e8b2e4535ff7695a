"""The ingress with replicas that are fakes: what is repeated, how often, and what clients get when nothing helps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from edgeembed.ray_serve import ingress
from edgeembed.ray_serve.ingress import MOST_ATTEMPTS, Ingress
from edgeembed.ray_serve.messages import Answer, Request
from edgeembed.server.reading import ROOM_BYTES, SMALL_BYTES

exceptions: Any = pytest.importorskip("ray.exceptions", reason="Ray is not installed (it is in the dev group)")
serve_exceptions: Any = pytest.importorskip("ray.serve.exceptions", reason="Ray Serve is not installed (dev group)")
starlette: Any = pytest.importorskip("starlette.requests", reason="Starlette is not installed (it comes with Ray Serve)")

DEAD = exceptions.ActorDiedError()
NO_DEPLOYMENT = serve_exceptions.RayServeException("unavailable")
GONE = Answer(0, [], failure="the daemon does not answer")
LOADING = Answer(503, [(b"Retry-After", b"7")], b"loading")
FULL = Answer(429, [(b"Retry-After", b"3")], b"full")
FINE = Answer(200, [(b"X-Edgeembed-Cache", b"hit")], b"rows")


class Replicas:
    """Serve's handle: answers in order."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self._answers = list(answers)
        self.requests: list[Request] = []
        self.keys: list[str | None] = []
        self._key: str | None = None

    def options(self, *, session_id: str | None = None, **_more: Any) -> Replicas:
        """Return the handle with a key."""
        self._key = session_id
        return self

    def remote(self, request: Request) -> Parts:
        """Take a request."""
        self.requests.append(request)
        self.keys.append(self._key)
        return Parts(self._answers.pop(0))


class Parts:
    """What Serve yields of an answer."""

    def __init__(self, answer: Answer | Exception) -> None:
        self._answer = answer

    def __aiter__(self) -> AsyncIterator[Answer | bytes]:
        return self

    async def __anext__(self) -> Answer | bytes:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def cancel(self) -> None:
        """Do nothing."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEEMBED_HOME", str(tmp_path))
    monkeypatch.setattr(ingress, "BACKOFF", ingress.Backoff(first=0, longest=0))


async def send(replicas: Any, method: str = "POST", path: str = "/v1/embeddings", body: bytes = b'{"input": "x"}') -> Any:
    """Return the response to a request."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return await ask(Ingress(replicas, {}), receive, len(body), method, path)


async def ask(passing: Ingress, receive: Any, length: int, method: str = "POST", path: str = "/v1/embeddings") -> Any:
    """Return the response to a request whose body has so many bytes, and comes from a function."""
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"a=1",
        "headers": [(b"host", b"localhost"), (b"traceparent", b"00-1-2-01"), (b"content-length", str(length).encode())],
        "client": ("10.0.0.9", 1234),
        "server": ("localhost", 8000),
        "scheme": "http",
    }
    return await passing(starlette.Request(scope, receive))


async def test_a_request_passes_with_its_headers() -> None:
    replicas = Replicas(FINE)
    response = await send(replicas)
    assert (response.status_code, response.body) == (200, b"rows")
    [request] = replicas.requests
    assert request.target == "/v1/embeddings?a=1"
    assert (b"traceparent", b"00-1-2-01") in request.headers
    assert (b"X-Forwarded-For", b"10.0.0.9") in request.headers


@pytest.mark.parametrize("failed", [DEAD, GONE, NO_DEPLOYMENT], ids=["replica", "daemon", "deployment"])
async def test_a_request_is_repeated_with_its_key_when_a_replica_dies(failed: Answer | Exception) -> None:
    replicas = Replicas(failed, failed, FINE)
    assert (await send(replicas)).status_code == 200
    assert len(set(replicas.keys)) == 1, "the dead one is no longer chosen"
    assert len({(each.body, each.target) for each in replicas.requests}) == 1


async def test_a_replica_that_lives_but_is_not_ready_does_not_get_it_again() -> None:
    replicas = Replicas(LOADING, FINE)
    assert (await send(replicas)).status_code == 200
    assert len(set(replicas.keys)) == 2


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/chat/completions"), ("POST", "/v1/x"), ("DELETE", "/v1/embeddings")]
)
@pytest.mark.parametrize("failed", [DEAD, LOADING], ids=["dead", "loading"])
async def test_what_does_not_only_compute_is_sent_once(method: str, path: str, failed: Answer | Exception) -> None:
    replicas = Replicas(failed)
    assert (await send(replicas, method, path)).status_code == 503
    assert len(replicas.requests) == 1


async def test_a_queue_that_is_full_is_the_clients_to_wait_for() -> None:
    replicas = Replicas(FULL)
    response = await send(replicas)
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")


@pytest.mark.parametrize(
    ("path", "says"), [("/v1/embeddings", lambda body: body["error"]["message"]), ("/embed", lambda b: b["error"])]
)
async def test_an_error_when_all_fail(path: str, says: Callable[[Any], str]) -> None:
    replicas = Replicas(*[DEAD] * MOST_ATTEMPTS)
    response = await send(replicas, path=path)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert "the replica failed" in says(json.loads(response.body))
    assert len(replicas.requests) == MOST_ATTEMPTS


async def test_the_last_503_is_the_replicas_own() -> None:
    response = await send(Replicas(*[LOADING] * MOST_ATTEMPTS))
    assert (response.status_code, response.body, response.headers["retry-after"]) == (503, b"loading", "7")


async def test_a_health_check_does_not_wait_for_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress, "PROBE_SECONDS", 0.0)

    class Waiting(Replicas):
        def remote(self, request: Request) -> Any:
            return NeverComing(FINE)

    response = await send(Waiting(), "GET", "/readyz", b"")
    assert response.status_code == 503
    assert b"no replica answers" in response.body


class NeverComing(Parts):
    async def __anext__(self) -> Answer | bytes:
        return await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("path", ["/v1/admin", "/v1/admin/models/pull", "/api/pull", "/api/copy"])
async def test_no_replica_is_administered(path: str) -> None:
    replicas = Replicas()
    assert (await send(replicas, path=path)).status_code == 403
    assert replicas.requests == []


class Body:
    """A body that stops after its first part."""

    def __init__(self, first: bytes) -> None:
        self._first: bytes | None = first
        self.stopped = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        """Return the part once, and nothing after it."""
        if self._first is None:
            self.stopped.set()
            return await asyncio.get_running_loop().create_future()
        part, self._first = self._first, None
        return {"type": "http.request", "body": part, "more_body": True}


async def test_clients_that_announce_much_and_send_little_keep_nobody_waiting() -> None:
    passing = Ingress(Replicas(FINE), {})
    bodies = [Body(b"x" * SMALL_BYTES) for _ in range(3)]
    slow = [asyncio.create_task(ask(passing, body.receive, ROOM_BYTES // 2)) for body in bodies]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * 2 * SMALL_BYTES, "more_body": False}

    async with asyncio.timeout(30):
        await asyncio.gather(*(body.stopped.wait() for body in bodies))
        assert (await ask(passing, receive, 2 * SMALL_BYTES)).status_code == 200
    for each in slow:
        each.cancel()
    await asyncio.wait(slow)


@pytest.mark.parametrize("arrived", [1, 2 * SMALL_BYTES])
async def test_a_body_that_stops_is_given_up(monkeypatch: pytest.MonkeyPatch, arrived: int) -> None:
    monkeypatch.setattr(ingress, "STEP_SECONDS", 0.05)
    replicas = Replicas()
    passing = Ingress(replicas, {})
    response = await ask(passing, Body(b"x" * arrived).receive, 2**20)
    assert response.status_code == 408
    assert json.loads(response.body)["error"]["code"] == "body_timeout"
    assert replicas.requests == []
