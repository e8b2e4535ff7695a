"""Clients that send texts to /v1/embeddings and time the answers.

The clients run on the measured machine and take CPU time from the server. Answers are therefore read but not parsed during a
measurement, and each result includes the share of the CPU time that the clients used. `python -m tests.benchmarks.compare
driver` compares these clients with one on plain sockets in a separate process: a request costs 0.3 ms of CPU time here and
0.1 ms there (tests/benchmarks/README.md), so a server that answers more than about 1,000 requests a second on two CPUs
appears slower than it is.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp
import msgspec
import orjson
from yarl import URL

from edgeembed.common.answers import read_body
from edgeembed.config.values import base_url
from edgeembed.errors import ConfigError, EngineError, EngineUnavailableError, RequestError
from edgeembed.upstream.wire import error_message

ANSWER_SECONDS = 600.0
"""Timeout of a request."""
MOST_BYTES = 512 * 2**20
"""Of an answer."""


class EmbeddingsReply(msgspec.Struct, frozen=True, kw_only=True):
    """One parsed answer. tokens: of all texts together; None when the server does not report them."""

    rows: list[list[float]]
    tokens: int | None
    cache: str | None
    """Cache result of an edgeembed server: hit, partial or miss."""


@dataclass(frozen=True)
class LoadResult:
    """The result of a load."""

    latencies: list[float]
    """Duration of each request in seconds, ascending."""
    texts: int
    seconds: float
    """From the first request to the last answer."""
    client_seconds: float
    """CPU time of the clients."""

    @property
    def texts_per_second(self) -> float:
        return self.texts / self.seconds

    @property
    def client_share(self) -> float:
        """Share of the CPU time used by the clients, from 0 to 1."""
        return self.client_seconds / self.seconds / (os.cpu_count() or 1)

    def percentile(self, percent: float) -> float | None:
        """Return a percentile of the latencies in seconds, by nearest rank; None when there are too few requests."""
        if percent > 50 and len(self.latencies) < 100 / (100 - percent):
            return None
        return self.latencies[math.ceil(percent / 100 * len(self.latencies)) - 1]


class Client:
    """HTTP client for one server. Use as an async context manager."""

    def __init__(self, url: str, *, model: str | None = None, api_key: str | None = None) -> None:
        """url: with or without /v1 at the end. model: name to send; None to send none."""
        self.base = URL(_base(url))
        self._embeddings = self.base / "v1" / "embeddings"
        self.model = model
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {api_key}"} if api_key else {})}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            # As many connections as clients; no cookies, proxies or compression.
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
            skip_auto_headers=("Accept-Encoding",),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session:
            await self._session.close()

    async def get(self, path: str) -> tuple[int, dict[str, Any], str]:
        """GET a path and return status, JSON object ({} if it is not one) and the Server header.

        Raises EngineUnavailableError when the server does not answer.
        """
        try:
            async with self._open.get(self.base / path) as response:
                raw = await read_body(response, MOST_BYTES)
                found = orjson.loads(raw) if raw else {}
                return response.status, found if isinstance(found, dict) else {}, response.headers.get("Server", "")
        except orjson.JSONDecodeError:
            return response.status, {}, response.headers.get("Server", "")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(self.base, error) from error

    async def ask(self, texts: Sequence[str]) -> EmbeddingsReply:
        """Embed texts and return the parsed answer. Raises RequestError, EngineError or EngineUnavailableError."""
        headers, raw = await self._post(self._body(texts))
        try:
            found = orjson.loads(raw)
            rows = [item["embedding"] for item in found["data"]]
            tokens = (found.get("usage") or {}).get("prompt_tokens")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise EngineError(f"unexpected answer of {self._embeddings}: {raw[:200]!r}") from error
        if len(rows) != len(texts) or not all(isinstance(row, list) and row for row in rows):
            raise EngineError(f"{self._embeddings} returned {len(rows)} rows for {len(texts)} texts")
        return EmbeddingsReply(rows=rows, tokens=tokens or None, cache=headers.get("X-Edgeembed-Cache"))

    async def load(self, next_texts: Callable[[], Sequence[str]], *, clients: int, seconds: float) -> LoadResult:
        """Let clients send requests back to back for some seconds, and wait for the last answers.

        next_texts: returns the texts of a request; its time is not part of the latency. Raises what `ask` raises, for every
        status other than 200.
        """
        latencies: list[float] = []
        texts_answered = 0
        cpu_before = time.process_time()
        began = time.perf_counter()
        until = began + seconds
        last = began

        async def client() -> None:
            nonlocal texts_answered, last
            while True:
                texts = next_texts()
                body = self._body(texts)
                sent = time.perf_counter()
                await self._post(body)
                last = time.perf_counter()
                latencies.append(last - sent)
                texts_answered += len(texts)
                if last >= until:
                    return

        tasks = [asyncio.create_task(client()) for _ in range(clients)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return LoadResult(sorted(latencies), texts_answered, last - began, time.process_time() - cpu_before)

    @property
    def _open(self) -> aiohttp.ClientSession:
        assert self._session is not None, "use the client as a context manager"
        return self._session

    def _body(self, texts: Sequence[str]) -> bytes:
        body: dict[str, Any] = {"input": texts[0] if len(texts) == 1 else texts}
        if self.model:
            body["model"] = self.model
        return orjson.dumps(body)

    async def _post(self, body: bytes) -> tuple[Any, bytes]:
        try:
            async with self._open.post(self._embeddings, data=body) as response:
                raw = await read_body(response, MOST_BYTES)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(self.base, error) from error
        if response.status != 200:
            refused = 400 <= response.status < 500
            raise (RequestError if refused else EngineError)(f"{response.status}: {error_message(raw, response.status)}")
        return response.headers, raw


def _base(url: str) -> str:
    """Return the URL without /v1 or /v1/embeddings at the end, and with a scheme. Raises ConfigError."""
    url = url.strip().rstrip("/")
    for end in ("/embeddings", "/v1"):
        url = url.removesuffix(end)
    try:
        return base_url(url if "://" in url else f"http://{url}")
    except ValueError as error:
        raise ConfigError(f"{url!r} is not the URL of a server: {error}") from error


def _unreachable(url: URL, error: BaseException) -> EngineUnavailableError:
    return EngineUnavailableError(f"{url} does not answer: {str(error) or type(error).__name__}")
