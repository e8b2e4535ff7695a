"""Test doubles of other servers: their documented responses, errors and quirks, without their models.

Sources: SGLang's serving_embedding.py and create_error_response (always floats, flat errors, integer codes);
vLLM's protocol.py (integer codes in an `error` object; in older versions flat errors, and base64 refused: its issue 6174);
TEI's OpenAI routes (message, code and type, batches of 32 at most); Ollama's openai.go (`code` is null).
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import numpy as np
from aiohttp import web
from multidict import CIMultiDict

from edgeembed.engine.interface import Float32Row
from edgeembed.upstream.engine import RemoteEngine
from edgeembed.upstream.identity import CANARY_TEXTS, SENTINELS
from tests.fakes import fake_row

Style = Literal["openai", "sglang", "vllm", "vllm-old", "tei", "ollama"]

Scramble = Callable[[list[str], list[dict[str, Any]]], list[dict[str, Any]]]

TEI_BATCH = 32


def unit_row(text: str, dimensions: int = 16) -> Float32Row:
    """Return the fake engine's row, normalised as by most servers."""
    row = fake_row(text, dimensions)
    return (row / np.linalg.norm(row)).astype(np.float32)


def other_row(text: str) -> Float32Row:
    """Return the row of another model."""
    return unit_row(f"another model reads {text}")


def without_sentinels(asked: list[str]) -> list[str]:
    """Return the texts of a request except the sentinel texts."""
    return [text for text in asked if text not in CANARY_TEXTS[:SENTINELS]]


class FakeUpstream:
    """A server that keeps its port when it is stopped and started again."""

    def __init__(self, style: Style = "openai", *, model: str = "far-model") -> None:
        self.style = style
        self.model = model
        self.row_of: Callable[[str], Float32Row] = unit_row
        self.asked: list[list[str]] = []
        """The texts of each answered request."""
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.troubles: deque[web.Response] = deque()
        """Responses sent instead of rows, in order."""
        self.refused: Callable[[str], bool] = lambda _text: False
        self.scramble: Scramble = lambda _texts, data: data
        """Changes the `data` of an answer."""
        self.most_texts = TEI_BATCH if style == "tei" else 10_000
        self.hold = asyncio.Event()
        """Cleared to let requests hang."""
        self.hold.set()
        self.in_flight = self.most_in_flight = 0
        self.gone = 0
        """Requests whose client disconnected."""
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop like a killed process: connections are aborted."""
        if self._runner is not None:
            server = self._runner.server
            for connection in list(server.connections) if server else []:
                if connection.transport is not None:
                    connection.transport.abort()
            await self._runner.cleanup()
            self._runner = None

    def error(self, status: int, message: str) -> web.Response:
        """Return an error response in the style of this server."""
        kind = "BadRequestError" if status == 400 else "InternalServerError"
        body: dict[str, Any]
        match self.style:
            case "sglang" | "vllm-old":
                body = {"object": "error", "message": message, "type": kind, "param": None, "code": status}
            case "vllm":
                body = {"error": {"message": message, "type": kind, "param": None, "code": status}}
            case "tei":
                body = {"message": message, "code": status, "type": "Validation"}
            case _:
                body = {"error": {"message": message, "type": "api_error", "param": None, "code": None}}
        return web.json_response(body, status=status)

    async def _embeddings(self, request: web.Request) -> web.Response:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            body = await request.json()
            await self.hold.wait()
            return self._answer(request, body)
        except asyncio.CancelledError:
            self.gone += 1
            raise
        finally:
            self.in_flight -= 1

    def _answer(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        if self.troubles:
            return self.troubles.popleft()
        texts = body["input"]
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if self.style == "vllm-old" and body.get("encoding_format") == "base64":
            return self.error(400, "base64 encoding is not currently supported")
        if len(texts) > self.most_texts:
            return self.error(413 if self.style == "tei" else 400, f"batch size {len(texts)} > {self.most_texts}")
        if wrong := [text for text in texts if self.refused(text)]:
            return self.error(400, f"the input ({len(wrong[0])} characters) is longer than the model's context length")
        self.asked.append(texts)
        as_base64 = body.get("encoding_format") == "base64" and self.style not in ("sglang", "vllm-old")
        data = [
            {"object": "embedding", "index": index, "embedding": _written(self.row_of(text), as_base64)}
            for index, text in enumerate(texts)
        ]
        data = self.scramble(texts, data)
        if self.style == "vllm":
            data.reverse()
        tokens = sum(len(text.split()) + 2 for text in texts)
        answer = {"object": "list", "data": data, "model": self.model}
        answer["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
        return web.json_response(answer)

    async def _models(self, _request: web.Request) -> web.Response:
        if self.style == "tei":
            raise web.HTTPNotFound
        described: dict[str, Any] = {"id": self.model, "object": "model", "created": 1, "owned_by": self.style}
        if self.style in ("vllm", "sglang"):
            described["max_model_len"] = 512
        return web.json_response({"object": "list", "data": [described]})


def _written(row: Float32Row, as_base64: bool) -> str | list[float]:
    return base64.b64encode(row.astype("<f4").tobytes()).decode() if as_base64 else [float(value) for value in row]


class FakeGeneration:
    """A generation server that records requests and streams a chunk whenever a test releases one."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, CIMultiDict[str], bytes]] = []
        """Method, path with query, headers, body."""
        self.go_on = asyncio.Semaphore(0)
        """Released once for each chunk."""
        self.gone = asyncio.Event()
        """Set when a client disconnects during a stream."""
        self.silent = False
        self.models: list[dict[str, Any]] = [{"id": "far-chat", "object": "model", "created": 1, "owned_by": "vllm"}]
        self.url = ""

    async def _any(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append((request.method, request.raw_path, request.headers.copy(), body))
        if self.silent:
            await asyncio.Event().wait()
        if request.path == "/v1/models":
            return web.json_response({"object": "list", "data": self.models})
        if request.path == "/v1/models/far-chat":
            return web.json_response(self.models[0])
        if request.path == "/v1/refused":
            headers = {"Retry-After": "7", "Connection": "X-Hop", "X-Hop": "1", "Set-Cookie": "a=b"}
            return web.json_response({"object": "error", "message": "no", "code": 429}, status=429, headers=headers)
        if not (body and json.loads(body).get("stream")):
            return web.json_response({"path": request.raw_path})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for number in range(3):
                await self.go_on.acquire()
                await response.write(b'data: {"chunk":%d}\n\n' % number)
            await response.write(b"data: [DONE]\n\n")
        except asyncio.CancelledError:
            self.gone.set()
            raise
        return response


@asynccontextmanager
async def generation() -> AsyncIterator[FakeGeneration]:
    """Run a generation server."""
    fake = FakeGeneration()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake._any)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield fake
    finally:
        await runner.cleanup()


Start = Callable[..., Awaitable[RemoteEngine]]
