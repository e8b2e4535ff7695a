"""HTTP to the upstream server: one request, one response, and what a failure means for the next request."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import aiohttp
from aiohttp import hdrs

from edgeembed.common.answers import AnswerTooLargeError, read_body, read_start
from edgeembed.common.log_content import describe_error
from edgeembed.common.retry_after import parse_retry_after
from edgeembed.common.spans import HEADER
from edgeembed.common.tls import verifying
from edgeembed.upstream.wire import (
    MOST_LIST_BYTES,
    RowEncoding,
    UnreadableAnswerError,
    UpstreamAnswer,
    error_message,
    model_names,
    most_bytes,
    read_answer,
    write_body,
)

CONNECT_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 4.0
"""Idle connections are closed before uvicorn (vLLM, SGLang) and llama-server close them, after 5 s: a request sent in that
moment would fail."""
_SMALL_BYTES = 2**18
"""Answers up to this size are decoded on the event loop, in about a millisecond; larger ones beside it."""
_ERROR_BYTES = 65_536
"""The part of an error's body that is read."""
MODELS_SECONDS = 5.0
"""Timeout of GET /models."""

_DISCONNECTED = (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, ConnectionResetError)
BUSY = 429
REFUSALS = frozenset({400, 413, 422, 500})
"""Statuses that one of the texts may have caused: the others are sent again without it."""


class UpstreamError(Exception):
    """Upstream returned no rows; the message says why. It is logged and shown in /health, so it does not quote the response,
    which may contain texts of the request or the key.
    """


class RefusedError(UpstreamError):
    """Upstream refused the request, probably because of one of its texts."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"it refuses the request ({status} {_phrase(status)})")
        self.status = status
        self.said = said
        """Upstream's message: only for the client whose text is the only one in the request."""


class BusyError(UpstreamError):
    """Upstream is overloaded. retry_after: seconds that it asks to wait, None where it does not say."""

    def __init__(self, message: str, retry_after: float | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(UpstreamError):
    """Upstream cannot be reached, or its response cannot be used. retry_after: seconds that it asks to wait."""

    def __init__(
        self,
        message: str,
        retry_after: float | None = None,
        *,
        timed_out: bool = False,
        disconnected: bool = False,
        no_connection: bool = False,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.timed_out = timed_out
        """It accepted the request and did not answer in time; another attempt would take as long."""
        self.disconnected = disconnected
        """It closed the connection during this request, which may have caused that."""
        self.no_connection = no_connection
        """No connection could be opened."""


@dataclass(frozen=True, kw_only=True)
class UpstreamOptions:
    """Settings of the upstream server. Times are in seconds."""

    url: str
    """Base URL, such as http://gpu-box:30000/v1, without a trailing slash."""
    key: str | None = field(default=None, repr=False)
    timeout: float = 60.0
    wait: float = 10.0
    most_texts: int = 32
    most_characters: int = 65_536
    most_requests: int = 8
    check_every: float = 60.0
    min_cosine: float = 0.99
    recheck_every: int = 16
    """One of so many answered texts is asked again; 0 for none."""


class UpstreamClient:
    """A pool of connections to one server; an async context manager."""

    def __init__(self, options: UpstreamOptions) -> None:
        self._options = options
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> UpstreamClient:
        headers = {hdrs.CONTENT_TYPE: "application/json", hdrs.ACCEPT: "application/json"}
        if self._options.key:
            headers[hdrs.AUTHORIZATION] = f"Bearer {self._options.key}"
        # Two more than requests in flight: a probe, or texts asked again, must not wait behind requests that hang.
        connector = aiohttp.TCPConnector(
            limit=self._options.most_requests + 2, keepalive_timeout=KEEP_ALIVE_SECONDS, ssl=verifying(self._options.url)
        )
        self._session = aiohttp.ClientSession(connector=connector, headers=headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def embed(
        self,
        model: str,
        texts: Sequence[str],
        encoding: RowEncoding = "base64",
        *,
        seconds: float | None = None,
        dimensions: int | None = None,
        traceparent: str | None = None,
    ) -> UpstreamAnswer:
        """Return the rows of texts. seconds: timeout, by default that of the options. Raises a subclass of UpstreamError.

        dimensions: of the rows, if known; a much longer answer is not read. traceparent: a header, see `common.spans`.
        """
        request = write_body(model, texts, encoding)
        expected = most_bytes(len(texts), dimensions)
        seconds = seconds or self._options.timeout
        body = await self._request("POST", "/embeddings", seconds, request, expected, traceparent)
        try:
            if len(body) <= _SMALL_BYTES:
                return read_answer(body, len(texts))
            return await asyncio.to_thread(read_answer, body, len(texts))
        except UnreadableAnswerError as error:
            raise UnavailableError(f"its response cannot be used: {error}") from error

    async def models(self) -> list[dict[str, Any]]:
        """Return the objects of GET /models. Raises a subclass of UpstreamError."""
        try:
            return model_names(await self._request("GET", "/models", MODELS_SECONDS, None, MOST_LIST_BYTES))
        except UnreadableAnswerError as error:
            raise UnavailableError(str(error)) from error

    async def _request(
        self, method: str, path: str, seconds: float, body: bytes | None, most_bytes: int, traceparent: str | None = None
    ) -> bytes:
        assert self._session is not None
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=min(CONNECT_SECONDS, seconds))
        try:
            async with self._session.request(
                method,
                self._options.url + path,
                data=body,
                headers={HEADER: traceparent} if traceparent else None,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                status, headers = response.status, response.headers
                raw = await (read_body(response, most_bytes) if status == 200 else read_start(response, _ERROR_BYTES))
        except AnswerTooLargeError as error:
            raise UnavailableError(f"{error}, the most that was expected") from error
        except aiohttp.ConnectionTimeoutError as error:
            raise UnavailableError(f"it cannot be reached within {CONNECT_SECONDS:g} s", no_connection=True) from error
        except TimeoutError as error:
            raise UnavailableError(f"no answer within {seconds:g} s", timed_out=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnavailableError(
                _connection_problem(error),
                disconnected=isinstance(error, _DISCONNECTED),
                no_connection=isinstance(error, aiohttp.ClientConnectorError),
            ) from error
        if status == 200:
            return raw
        retry_after = parse_retry_after(headers.get(hdrs.RETRY_AFTER))
        if status == BUSY:
            raise BusyError("it is overloaded (429)", retry_after)
        if status in REFUSALS:
            raise RefusedError(status, error_message(raw, status))
        if status in (401, 403):
            raise UnavailableError(f"it refuses the API key ({status}); check the setting upstream_key")
        raise UnavailableError(f"it answers {status} {_phrase(status)}", retry_after)


def _connection_problem(error: BaseException) -> str:
    """Return in a few words why a connection failed."""
    match error:
        case aiohttp.ClientConnectorError(os_error=cause) if cause.strerror:
            return f"it cannot be reached: {cause.strerror}"
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection without an answer"
        case aiohttp.ClientPayloadError():
            return "the connection broke during its answer"
    return f"it cannot be reached: {describe_error(error)}"


def _phrase(status: int) -> str:
    return http.client.responses.get(status, "")
