"""The deployment that clients reach, by Serve's proxies: passes each request to a replica, and repeats it on another."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import orjson
from aiohttp import web

from edgeembed.common.backoff import Backoff
from edgeembed.common.retry_after import format_retry_after
from edgeembed.config.resolution import resolve
from edgeembed.errors import EdgeEmbedError, EngineUnavailableError, ForbiddenError, ModelNotFoundError, RequestTooLargeError
from edgeembed.ray_serve.merged_metrics import merged
from edgeembed.ray_serve.messages import BODILESS, Answer, Request, forwarded
from edgeembed.ray_serve.text_key import key_of
from edgeembed.server.app import DIALECTS
from edgeembed.server.auth import PROBES
from edgeembed.server.error_formats import ERROR_FORMATS, Problem, dialect_of
from edgeembed.server.paths import OWN_PATH_ONLY, Spellings
from edgeembed.server.reading import ROOM_BYTES, SMALL_BYTES, STEP_SECONDS, BodyRoom, least_of_step, too_slow

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 6
BACKOFF = Backoff(first=0.05, longest=1.0, jitter=0.5)
PROBE_SECONDS = 10.0
"""How long a health check waits for a replica to take it."""
REPORT_SECONDS = 20.0
"""For the answers of all replicas."""
RETRY_SECONDS = 1.0
METRICS, REPLICAS = "/metrics", "/v1/replicas"
_ALL_REPLICAS = {METRICS: "/metrics", REPLICAS: "/v1/status"}
"""Paths that all replicas answer together -> what each of them is asked."""
_READ_ONLY = frozenset({"GET", "HEAD", "OPTIONS"})
_OWNER_PATHS = tuple(path for path in OWN_PATH_ONLY if path not in ("/v1/status", METRICS))
_NOT_PASSED_BACK = frozenset({b"x-request-id", b"date", b"server"})
"""Serve's proxy sets them; its id is the one that the daemon has logged."""


class Ingress:
    """Passes requests on. It computes nothing, and has no state: there can be several."""

    def __init__(self, replicas: Any, settings: Mapping[str, str]) -> None:
        """replicas: Serve's handle of the replicas. settings: see `read_arguments`."""
        self._streams = replicas.options(method_name="stream", stream=True)
        self._replicas = replicas
        self._most_bytes = resolve(settings).settings.max_body_mib * 2**20
        self._room = BodyRoom(ROOM_BYTES)

    async def __call__(self, request: Any) -> Any:
        """Return the answer to a request, both of Starlette."""
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        try:
            _require_for_all(request.method, path)
            if request.method == "GET" and path in _ALL_REPLICAS:
                return await self._of_all(request, path)
            return await self._of_one(request, path)
        except EdgeEmbedError as error:
            return _response(_error(error, request.method, path))

    async def _of_one(self, request: Any, path: str) -> Any:
        async with self._body(request) as body:
            message = Request(request.method, _target(request, path), _headers(request), body)
            parts = self._streams.options(session_id=key_of(body)) if body else self._streams
            try:
                async with asyncio.timeout(PROBE_SECONDS if path in PROBES else None):
                    answer, rest = await self._first(parts, message, repeatable=_is_repeatable(request.method, path))
            except TimeoutError as error:
                raise EngineUnavailableError("no replica answers", retry_after=RETRY_SECONDS) from error
        return _response(answer) if answer.complete else _response(answer, rest)

    @contextlib.asynccontextmanager
    async def _body(self, request: Any) -> AsyncIterator[bytes]:
        """Read the body of a request; a large one keeps its place in the room until the context ends.

        Nobody has asked for a key yet. So a place is reserved only when part of a large body has arrived, as in a daemon.
        Raises RequestTooLargeError, BodyTimeoutError.
        """
        announced = int(request.headers.get("content-length") or 0)
        if announced > self._most_bytes:
            raise _too_large(self._most_bytes)
        body = bytearray()
        reserved = 0
        try:
            async for step in _steps(request.stream()):
                body += step
                if len(body) > self._most_bytes:
                    raise _too_large(self._most_bytes)
                if len(body) > SMALL_BYTES and not reserved:
                    size = announced or self._most_bytes
                    await self._room.reserve(size)
                    reserved = size
            yield bytes(body)
        finally:
            self._room.release(reserved)

    async def _first(self, handle: Any, message: Request, *, repeatable: bool) -> tuple[Answer, AsyncIterator[bytes]]:
        """Return the begin of an answer, and an iterator over the rest; repeat the request while replicas fail.

        Raises EngineUnavailableError.
        """
        for attempt in range(1, MOST_ATTEMPTS + 1):
            last = attempt == MOST_ATTEMPTS or not repeatable
            answer, rest = await _attempt(handle, message)
            if not answer.failure and (answer.status != 503 or last):
                return answer, rest
            if last:
                raise EngineUnavailableError(f"the replica failed: {answer.failure}", retry_after=RETRY_SECONDS)
            log.info("attempt %d failed: %s", attempt, answer.failure or answer.status)
            if not answer.failure:  # this one lives, and would get the request again
                handle = handle.options(session_id=key_of(message.body + bytes([attempt])))
            await asyncio.sleep(BACKOFF.pause(attempt))
        raise AssertionError("the last attempt returns or raises")

    async def _of_all(self, request: Any, path: str) -> Any:
        """Return the answers of all replicas as one; if a replica refuses, its answer."""
        headers = [(name, value) for name, value in _headers(request) if name.lower() not in (b"accept", b"accept-encoding")]
        message = Request("GET", _ALL_REPLICAS[path], headers, b"")
        found = await self._replicas.broadcast("whole", message).results_async(
            timeout_s=REPORT_SECONDS, return_exceptions=True
        )
        answers = sorted(each for each in found if not isinstance(each, BaseException) and not each[2].failure)
        if not answers:
            raise EngineUnavailableError("no replica answers", retry_after=RETRY_SECONDS)
        refused = next((answer for _, _, answer in answers if answer.status != 200), None)
        if refused is not None:
            return _response(refused)
        if path == METRICS:
            body = merged({name: answer.body.decode() for name, _, answer in answers})
            return _response(Answer(200, [(b"Content-Type", b"text/plain; version=0.0.4; charset=utf-8")], body))
        listed = [{"replica": name, "node": node, "status": orjson.loads(answer.body)} for name, node, answer in answers]
        return _response(Answer(200, [(b"Content-Type", b"application/json")], orjson.dumps({"replicas": listed})))


async def _attempt(handle: Any, message: Request) -> tuple[Answer, AsyncIterator[bytes]]:
    """Ask a replica once; return the begin of its answer and the rest. One that died has a `failure`."""
    from ray.exceptions import RayError, RayTaskError
    from ray.serve.exceptions import RayServeException

    parts = handle.remote(message)
    try:
        answer: Answer = await anext(parts)
    except RayTaskError:
        raise  # a bug of ours
    except (RayError, RayServeException) as error:
        return Answer(0, [], failure=str(error).partition("\n")[0]), parts
    except BaseException:
        parts.cancel()  # the client is gone: the daemon need not go on
        raise
    return answer, parts


def _require_for_all(method: str, path: str) -> None:
    """Raise ForbiddenError or ModelNotFoundError for a path that would concern one replica, chosen by chance."""
    if path.startswith(_OWNER_PATHS):
        raise ForbiddenError(
            "a replica is not administered through Ray Serve: change the application's arguments and deploy it again"
        )
    if method in _READ_ONLY and path == "/":
        raise ModelNotFoundError("the dashboard is of one daemon; /v1/replicas and /metrics describe all replicas")


@functools.cache
def _computing() -> tuple[Spellings, frozenset[str]]:
    """Return the spellings of paths, and the own paths to which a POST only computes."""
    app = web.Application()
    for module in DIALECTS:
        app.add_routes(module.routes)
    posts = {route.resource.canonical for route in app.router.routes() if route.method == "POST" and route.resource}
    return Spellings(app), frozenset(posts)


def _is_repeatable(method: str, path: str) -> bool:
    """Return whether a request may be sent twice: it reads, or computes. What is passed on to other servers may not."""
    spellings, posts = _computing()
    return method in _READ_ONLY or (method == "POST" and spellings.meant(path) in posts)


async def _steps(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield a body as it arrives, with a daemon's limit for slow clients. Raises BodyTimeoutError."""
    arrived = 0
    ended = False
    while not ended:
        step = bytearray()
        try:
            async with asyncio.timeout(STEP_SECONDS):
                while not ended and len(step) < least_of_step(arrived):
                    chunk = await anext(stream, None)
                    ended = chunk is None
                    step += chunk or b""
        except TimeoutError:
            raise too_slow() from None
        arrived += len(step)
        yield bytes(step)


def _too_large(most: int) -> RequestTooLargeError:
    return RequestTooLargeError(f"the request body is larger than {most / 2**20:g} MiB; send fewer texts at a time")


def _target(request: Any, path: str) -> str:
    """Return path and query as the client sent them."""
    raw: bytes | None = request.scope.get("raw_path")
    sent = path if raw is None else raw.decode("latin-1").removeprefix(request.scope.get("root_path", ""))
    query = request.scope.get("query_string", b"").decode("latin-1")
    return f"{sent or '/'}{'?' if query else ''}{query}"


def _headers(request: Any) -> list[tuple[bytes, bytes]]:
    return forwarded(request.scope["headers"], request.client.host if request.client else "unknown")


def _response(answer: Answer, rest: AsyncIterator[bytes] | None = None) -> Any:
    from starlette.responses import Response, StreamingResponse

    response = Response(answer.body, answer.status) if rest is None else StreamingResponse(rest, answer.status)
    kept = [(name.lower(), value) for name, value in answer.headers if name.lower() not in _NOT_PASSED_BACK]
    if rest is None and answer.status not in BODILESS and not any(name == b"content-length" for name, _ in kept):
        kept.append((b"content-length", str(len(answer.body)).encode()))
    response.raw_headers = kept
    return response


def _error(error: EdgeEmbedError, method: str, path: str) -> Answer:
    """Return an error in the format of the path's dialect, as a daemon has it."""
    problem = Problem(error.status, error.message, error.type, error.code, error.param)
    status, body = ERROR_FORMATS[dialect_of(method, path)](problem)
    headers = [(b"Content-Type", b"application/json; charset=utf-8")]
    if error.retry_after is not None:
        headers.append((b"Retry-After", format_retry_after(error.retry_after).encode()))
    return Answer(status, headers, msgspec.json.encode(body))
