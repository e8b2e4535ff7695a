"""Connections to the upstream server: one question asked, one answer read, and what a failure means for the next one."""

from __future__ import annotations

import datetime
import email.utils
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import aiohttp
from aiohttp import hdrs

from edgeembed.upstream.wire import (
    RowEncoding,
    UnreadableAnswerError,
    UpstreamAnswer,
    error_message,
    model_names,
    read_answer,
    write_body,
)

CONNECT_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 4.0
"""Idle connections are closed before uvicorn (vLLM, SGLang) and llama-server do it, both after 5 s: a request that meets
their closing would fail."""
LOOK_SECONDS = 5.0
"""For the list of models."""

_BROKEN_OFF = (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, ConnectionResetError)
BUSY = 429
REFUSALS = frozenset({400, 413, 422, 500})
"""Answers that may be the fault of one of the texts: the others are asked for without it."""


class UpstreamError(Exception):
    """Upstream has no rows for a question; the message says why. Never shown as it is: an engine's error is made of it."""


class RefusedError(UpstreamError):
    """Upstream understood, and does not want one of these texts."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class BusyError(UpstreamError):
    """Upstream has too much to do; seconds after which it wants to be asked again, if it said so."""

    def __init__(self, message: str, seconds: float | None) -> None:
        super().__init__(message)
        self.seconds = seconds


class UnavailableError(UpstreamError):
    """Nothing that could answer is there; seconds after which it may be, if somebody said so."""

    def __init__(
        self, message: str, seconds: float | None = None, *, hangs: bool = False, broke_off: bool = False, gone: bool = False
    ) -> None:
        super().__init__(message)
        self.seconds = seconds
        self.hangs = hangs
        """It took the question and never answered: asked again it would take as long again."""
        self.broke_off = broke_off
        """It went away over this question, which may be why."""
        self.gone = gone
        """Nothing listens there."""


@dataclass(frozen=True, kw_only=True)
class UpstreamOptions:
    """What the settings say of the upstream server. Times are in seconds."""

    url: str
    """Base URL, such as http://gpu-box:30000/v1, without a slash at its end."""
    key: str | None = field(default=None, repr=False)
    timeout: float = 60.0
    wait: float = 10.0
    most_texts: int = 32
    most_characters: int = 65_536
    most_requests: int = 8
    check_every: float = 60.0
    min_cosine: float = 0.99


class UpstreamClient:
    """A pool of connections to one server; to be entered before it is used."""

    def __init__(self, options: UpstreamOptions) -> None:
        self._options = options
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> UpstreamClient:
        headers = {hdrs.CONTENT_TYPE: "application/json", hdrs.ACCEPT: "application/json"}
        if self._options.key:
            headers[hdrs.AUTHORIZATION] = f"Bearer {self._options.key}"
        # One more than flies: a probe must not wait behind questions that hang.
        connector = aiohttp.TCPConnector(limit=self._options.most_requests + 1, keepalive_timeout=KEEP_ALIVE_SECONDS)
        self._session = aiohttp.ClientSession(connector=connector, headers=headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def embed(
        self, model: str, texts: Sequence[str], encoding: RowEncoding = "base64", *, seconds: float | None = None
    ) -> UpstreamAnswer:
        """Ask for the rows of texts, within so many seconds or the options' timeout. Raises UpstreamError's kinds."""
        body = write_body(model, texts, encoding)
        answered = await self._ask("POST", "/embeddings", seconds or self._options.timeout, body)
        try:
            return read_answer(answered, len(texts))
        except UnreadableAnswerError as error:
            raise UnavailableError(f"its answer cannot be used: {error}") from error

    async def models(self) -> list[dict[str, Any]]:
        """Ask for the list of models. Raises UpstreamError's kinds."""
        try:
            return model_names(await self._ask("GET", "/models", LOOK_SECONDS, None))
        except UnreadableAnswerError as error:
            raise UnavailableError(str(error)) from error

    async def _ask(self, method: str, path: str, seconds: float, body: bytes | None) -> bytes:
        assert self._session is not None
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=min(CONNECT_SECONDS, seconds))
        try:
            async with self._session.request(
                method, self._options.url + path, data=body, timeout=timeout, allow_redirects=False
            ) as response:
                raw = await response.read()
                status, headers = response.status, response.headers
        except aiohttp.ConnectionTimeoutError as error:
            raise UnavailableError(f"it cannot be reached within {CONNECT_SECONDS:g} s", gone=True) from error
        except TimeoutError as error:
            raise UnavailableError(f"no answer within {seconds:g} s", hangs=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnavailableError(
                _plainly(error),
                broke_off=isinstance(error, _BROKEN_OFF),
                gone=isinstance(error, aiohttp.ClientConnectorError),
            ) from error
        if status == 200:
            return raw
        said = error_message(raw, status)
        if status == BUSY:
            raise BusyError(f"it has too much to do (429): {said}", _retry_after(headers.get(hdrs.RETRY_AFTER)))
        if status in REFUSALS:
            raise RefusedError(said, status)
        if status in (401, 403):
            raise UnavailableError(f"it does not take our key ({status}): {said}; the setting upstream_key holds it")
        raise UnavailableError(f"it answers {status}: {said}", _retry_after(headers.get(hdrs.RETRY_AFTER)))


def _plainly(error: BaseException) -> str:
    """Say in few words why a connection failed."""
    match error:
        case aiohttp.ClientConnectorError(os_error=cause) if cause.strerror:
            return f"it cannot be reached: {cause.strerror}"
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection without an answer"
        case aiohttp.ClientPayloadError():
            return "its answer broke off"
    return f"it cannot be reached: {error}" if str(error) else f"it cannot be reached: {type(error).__name__}"


def _retry_after(value: str | None) -> float | None:
    """Read a Retry-After header, seconds or a date (RFC 9110, 10.2.3); None where there is none, or nonsense."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        at = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=datetime.UTC)
    return max(0.0, (at - datetime.datetime.now(datetime.UTC)).total_seconds())
