"""Forwards the routes of /v1 that this server does not have, such as chat, to another server, chunk by chunk.

So a tool with a single base URL gets chat and embeddings. Access is checked as for all other routes; the client's key and
cookies are not forwarded. Reference: RFC 9110, 7.6.1, on headers that belong to one connection.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any
from urllib.parse import unquote

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from edgeembed.common.answers import read_body
from edgeembed.common.log_content import describe_error
from edgeembed.common.logs import request_id
from edgeembed.common.spans import HEADER as TRACEPARENT
from edgeembed.common.spans import traceparent
from edgeembed.common.tls import verifying
from edgeembed.config.settings import Settings
from edgeembed.errors import ForwardError, ForwardTimeoutError
from edgeembed.server.middleware import REQUEST_ID, request_id_of
from edgeembed.server.paths import SPELLINGS
from edgeembed.server.reading import read_request
from edgeembed.upstream.wire import MOST_LIST_BYTES, UnreadableAnswerError, model_names

log = logging.getLogger(__name__)

PREFIX = "/v1"
CONNECT_SECONDS = 5.0
LONGEST_SECONDS = 6 * 3600.0
"""Timeout of a whole response: some streams take hours, but a byte now and then must not hold a connection for ever."""
LIST_SECONDS = 2.0
LIST_FRESH_SECONDS = 5.0
"""How long the other server's list of models, or that it cannot be reached, is cached."""

_HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *("proxy-authenticate", "proxy-authorization", "proxy-authentication-info"),
    }
)
_PRIVATE = frozenset(
    {"authorization", "api-key", "x-api-key", "cookie", "host", "content-length", "content-encoding", "expect"}
)
"""Request headers with secrets for this server, and those about the body, which the client session sets again."""
_BROWSER = frozenset({"origin", "referer"})
"""The access of web pages was checked here; the other server would refuse them."""
_REFUSED_METHODS = frozenset({hdrs.METH_TRACE, hdrs.METH_CONNECT})
"""A TRACE shows the client the headers that the other server received, with our key."""
_MOST_DECODINGS = 5
_END_OF_PART = re.compile(r"[;?#\x00-\x1f\x7f]")
_REPLACED = frozenset({"set-cookie", "server", "date", "x-request-id", "vary"})
"""Response headers that are dropped, or set by this server."""


class Forward:
    """The server that requests are forwarded to."""

    def __init__(self, settings: Settings) -> None:
        """Read the settings, of which `forward` must be set."""
        assert settings.forward is not None
        self.url = settings.forward
        self._base = URL(self.url)
        self._key = settings.forward_key
        self._timeout = aiohttp.ClientTimeout(
            total=LONGEST_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=settings.forward_timeout
        )
        self._read_seconds = settings.forward_timeout
        self._via = f"1.1 edgeembed-{secrets.token_hex(4)}"
        """Marks requests that this server forwarded, so that it refuses them if they come back (RFC 9110, 7.6.3)."""
        self._session: aiohttp.ClientSession | None = None
        self._models: list[dict[str, Any]] = []
        self._models_at = float("-inf")

    async def lifespan(self, _app: web.Application) -> AsyncIterator[None]:
        """Keep the client session open while the application runs; a `cleanup_ctx` of aiohttp."""
        # Bodies are passed on as they are, compressed or not, and chats do not wait for each other.
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=verifying(self.url)),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as self._session:
            yield

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Forward a request, and return its response.

        Raises ForwardError when there is no response, HTTPNotFound for a path that could lead out of the base URL.
        """
        if meant_path(request.rel_url.raw_path) is None:
            raise web.HTTPNotFound
        if self._via in ", ".join(request.headers.getall(hdrs.VIA, ())):
            raise ForwardError(f"{self.url} is this server itself, or forwards requests back to it")
        path = request.rel_url.raw_path.removeprefix(PREFIX)
        query = request.rel_url.raw_query_string
        target = URL(f"{self.url}{path}{'?' if query else ''}{query}", encoded=True)
        body = await read_request(request)
        answer: web.StreamResponse | None = None
        assert self._session is not None
        try:
            async with self._session.request(
                request.method,
                target,
                data=body or None,
                headers=self._request_headers(request),
                skip_auto_headers=(hdrs.CONTENT_TYPE, hdrs.USER_AGENT, hdrs.ACCEPT_ENCODING),
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                answer = await self._answer(request, response)
                async for chunk in response.content.iter_any():
                    await answer.write(chunk)
                await answer.write_eof()
                return answer
        except (aiohttp.ClientError, TimeoutError) as error:
            if answer is not None and isinstance(error, aiohttp.ClientConnectionResetError):
                return answer  # our client closed its connection
            if answer is not None:
                # The head is sent already: aborting the connection tells the client that the rest is missing.
                log.warning("forward %s: the response ended early: %s", self.url, describe_error(error))
                if request.transport is not None:
                    request.transport.abort()
                return answer
            raise self._failure(error) from error

    async def models(self, ours: Iterable[str]) -> list[dict[str, Any]]:
        """Return the other server's models without those whose names are used here; none if it cannot be reached."""
        now = time.monotonic()
        if now - self._models_at > LIST_FRESH_SECONDS:
            self._models, self._models_at = await self._list(), now
        taken = {name.lower() for name in ours}
        return [model for model in self._models if model["id"].lower() not in taken]

    async def _list(self) -> list[dict[str, Any]]:
        assert self._session is not None
        try:
            async with self._session.get(
                self._base / "models",
                headers=self._own_headers(),
                timeout=aiohttp.ClientTimeout(total=LIST_SECONDS),
                allow_redirects=False,
            ) as response:
                response.raise_for_status()
                return model_names(await read_body(response, MOST_LIST_BYTES))
        except (aiohttp.ClientError, TimeoutError, UnreadableAnswerError) as error:
            log.info("forward %s: cannot list its models: %s", self.url, describe_error(error))
            return []

    def _own_headers(self) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}
        return headers | ({"Authorization": f"Bearer {self._key}"} if self._key else {})

    def _request_headers(self, request: web.Request) -> CIMultiDict[str]:
        headers = _without(request.headers, _HOP_BY_HOP | _PRIVATE | _BROWSER)
        for name in [name for name in headers if name.lower().startswith("sec-")]:
            del headers[name]
        if self._key:
            headers[hdrs.AUTHORIZATION] = f"Bearer {self._key}"
        headers.add(hdrs.VIA, self._via)
        headers[REQUEST_ID] = request_id() or request_id_of(request)
        if (ours := traceparent()) is not None:
            headers[TRACEPARENT] = ours
        return headers

    async def _answer(self, request: web.Request, response: aiohttp.ClientResponse) -> web.StreamResponse:
        """Send the head of the response."""
        headers = _without(response.headers, _HOP_BY_HOP | _REPLACED | _cors(response.headers))
        answer = web.StreamResponse(status=response.status, reason=response.reason, headers=headers)
        await answer.prepare(request)
        return answer

    def _failure(self, error: Exception) -> ForwardError:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return ForwardTimeoutError(f"{self.url} did not accept a connection within {CONNECT_SECONDS:g} s")
        if isinstance(error, TimeoutError):
            return ForwardTimeoutError(f"{self.url} sent nothing for {self._read_seconds:g} s")
        return ForwardError(f"{self.url} cannot be reached: {describe_error(error)}")


FORWARD = web.AppKey("forward", Forward)


def add_to(app: web.Application, settings: Settings) -> None:
    """Add the forwarding route to an application if the settings name a server; call this after all other routes."""
    if settings.forward is None:
        return
    forward = Forward(settings)
    app[FORWARD] = forward
    app.cleanup_ctx.append(forward.lifespan)
    ours = list(app.router.resources())

    async def forward_request(request: web.Request) -> web.StreamResponse:
        """Forward what is none of our routes, however its path is written: their texts stay here."""
        if request.method in _REFUSED_METHODS:
            raise web.HTTPMethodNotAllowed(request.method, hdrs.METH_ALL - _REFUSED_METHODS)
        path = meant_path(request.rel_url.raw_path)
        if path is None:
            raise web.HTTPNotFound
        meant = request.clone(rel_url=URL.build(path=path))
        for resource in ours:
            _, allowed = await resource.resolve(request)
            if allowed:  # one of our paths with another method
                raise web.HTTPMethodNotAllowed(request.method, allowed)
            _, allowed = await resource.resolve(meant)
            if allowed:
                raise web.HTTPNotFound
        if app[SPELLINGS].is_ours(path):
            raise web.HTTPNotFound
        return await forward.handle(request)

    app.router.add_route("*", f"{PREFIX}/{{tail:.*}}", forward_request)


def meant_path(raw: str) -> str | None:
    """Return a path as the most lenient server may read it: all escapes decoded, in lower case, without empty parts,
    parameters (`;v=1`), spaces and control characters. None for a path that cannot mean a route: one that leads upwards, or
    is escaped again and again.
    """
    path = raw
    for _ in range(_MOST_DECODINGS):
        path, before = unquote(path, errors="replace"), path
        if path == before:
            break
    else:
        return None
    parts = [_END_OF_PART.split(part, 1)[0].strip() for part in path.replace("\\", "/").lower().split("/")]
    if any(part in (".", "..") for part in parts):
        return None
    return "/" + "/".join(part for part in parts if part)


def _without(headers: Mapping[str, str], names: Iterable[str]) -> CIMultiDict[str]:
    """Return headers without those named, and without those that `Connection` names."""
    kept: CIMultiDict[str] = CIMultiDict(headers.items())
    named = [name.strip().lower() for name in headers.get(hdrs.CONNECTION, "").split(",")]
    for name in {*names, *named} - {""}:
        kept.popall(name, None)
    return kept


def _cors(headers: Mapping[str, str]) -> frozenset[str]:
    """Return the names of the headers with which the other server lets web pages in, which this server decides."""
    return frozenset(name.lower() for name in headers if name.lower().startswith("access-control-"))
