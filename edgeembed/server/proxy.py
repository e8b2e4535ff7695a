"""Routes of /v1 that are not ours, such as chat: passed on to a generation server, chunk by chunk.

A tool that takes a single base URL gets chat and embeddings from one. Who may ask is settled in front, by the same checks as
for our own routes; the client's key and cookies stay here. Reference: RFC 9110, 7.6.1, on the headers that concern one
connection only.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from edgeembed.common.logs import request_id
from edgeembed.config.settings import Settings
from edgeembed.errors import ForwardError, ForwardTimeoutError
from edgeembed.server.app_keys import ACCESS
from edgeembed.server.middleware import REQUEST_ID, common_headers, request_id_of
from edgeembed.upstream.wire import UnreadableAnswerError, model_names

log = logging.getLogger(__name__)

PREFIX = "/v1"
CONNECT_SECONDS = 5.0
LIST_SECONDS = 2.0
LIST_FRESH_SECONDS = 5.0
"""The other side's models, or that it is away, are believed for so long."""

_HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *("proxy-authenticate", "proxy-authorization", "proxy-authentication-info"),
    }
)
_OURS_ALONE = frozenset(
    {"authorization", "api-key", "x-api-key", "cookie", "host", "content-length", "content-encoding", "expect"}
)
"""Of a request: secrets that were meant for us, and what is said anew of a body that was read."""
_OF_BROWSERS = frozenset({"origin", "referer"})
"""A web page was let in here; the other side knows nothing of that, and would turn it away."""
_OF_ANSWERS = frozenset({"set-cookie", "server", "date", "x-request-id", "vary"})


class Forward:
    """Another server behind this one; to be entered before it is used."""

    def __init__(self, settings: Settings) -> None:
        """Take what the settings say; `forward` must be set."""
        assert settings.forward is not None
        self.url = settings.forward
        self._base = URL(self.url)
        self._key = settings.forward_key
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=settings.forward_timeout)
        self._silent = settings.forward_timeout
        self._via = f"1.1 edgeembed-{secrets.token_hex(4)}"
        """How the other side, and ourselves behind it, know that this server passed a request on (RFC 9110, 7.6.3)."""
        self._session: aiohttp.ClientSession | None = None
        self._models: list[dict[str, Any]] = []
        self._models_at = float("-inf")

    async def life(self, _app: web.Application) -> AsyncIterator[None]:
        """Keep the connections as long as the application lives."""
        # Bodies stay as they are, compressed or not; a chat waits for none of the others.
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as self._session:
            yield

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on and its answer back. Raises ForwardError when there is none."""
        if self._via in ", ".join(request.headers.getall(hdrs.VIA, ())):
            raise ForwardError(f"{self.url} is this very server, or passes requests back to it")
        path = request.rel_url.raw_path.removeprefix(PREFIX)
        if any(part in (".", "..") for part in URL(path, encoded=True).path.split("/")):
            raise web.HTTPNotFound  # a way out of the base URL
        query = request.rel_url.raw_query_string
        target = URL(f"{self.url}{path}{'?' if query else ''}{query}", encoded=True)
        body = await request.read()
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
                return answer  # our own client has gone
            if answer is not None:
                # Its head is sent: the client sees by the broken connection that the rest is missing.
                log.warning("forward %s broke off: %s", self.url, error)
                if request.transport is not None:
                    request.transport.abort()
                return answer
            raise self._failure(error) from error

    async def models(self, ours: Iterable[str]) -> list[dict[str, Any]]:
        """Give the other side's models but for names of ours; none when it is away."""
        now = time.monotonic()
        if now - self._models_at > LIST_FRESH_SECONDS:
            self._models, self._models_at = await self._list(), now
        known = {name.lower() for name in ours}
        return [model for model in self._models if model["id"].lower() not in known]

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
                return model_names(await response.read())
        except (aiohttp.ClientError, TimeoutError, UnreadableAnswerError) as error:
            log.info("forward %s tells no models: %s", self.url, error)
            return []

    def _own_headers(self) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}
        return headers | ({"Authorization": f"Bearer {self._key}"} if self._key else {})

    def _request_headers(self, request: web.Request) -> CIMultiDict[str]:
        headers = _without(request.headers, _HOP_BY_HOP | _OURS_ALONE | _OF_BROWSERS)
        for name in [name for name in headers if name.lower().startswith("sec-")]:
            del headers[name]
        if self._key:
            headers[hdrs.AUTHORIZATION] = f"Bearer {self._key}"
        headers.add(hdrs.VIA, self._via)
        headers[REQUEST_ID] = request_id() or request_id_of(request)
        return headers

    async def _answer(self, request: web.Request, response: aiohttp.ClientResponse) -> web.StreamResponse:
        """Begin the answer: nothing that middlewares add after the handler would still be sent."""
        headers = _without(response.headers, _HOP_BY_HOP | _OF_ANSWERS | _cors(response.headers))
        answer = web.StreamResponse(status=response.status, reason=response.reason, headers=headers)
        answer.headers.update(common_headers(request_id() or request_id_of(request)))
        if origin := request.app[ACCESS].check(request):
            answer.headers["Access-Control-Allow-Origin"] = origin
            answer.headers["Vary"] = "Origin"
        await answer.prepare(request)
        return answer

    def _failure(self, error: Exception) -> ForwardError:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return ForwardTimeoutError(f"{self.url} cannot be reached within {CONNECT_SECONDS:g} s")
        if isinstance(error, TimeoutError):
            return ForwardTimeoutError(f"{self.url} has been silent for {self._silent:g} s")
        return ForwardError(f"{self.url} cannot be reached: {error}")


FORWARD = web.AppKey("forward", Forward)


def add_to(app: web.Application, settings: Settings) -> None:
    """Let an application pass on what is not its own, if the settings say where to. To be called after all other routes."""
    if settings.forward is None:
        return
    forward = Forward(settings)
    app[FORWARD] = forward
    app.cleanup_ctx.append(forward.life)
    ours = list(app.router.resources())

    async def pass_on(request: web.Request) -> web.StreamResponse:
        for resource in ours:  # a path of ours stays ours, whatever the method
            _, allowed = await resource.resolve(request)
            if allowed:
                raise web.HTTPMethodNotAllowed(request.method, allowed)
        return await forward.handle(request)

    app.router.add_route("*", f"{PREFIX}/{{tail:.*}}", pass_on)


def _without(headers: Mapping[str, str], names: Iterable[str]) -> CIMultiDict[str]:
    """Give headers but for those named, and for those that `Connection` names."""
    kept: CIMultiDict[str] = CIMultiDict(headers.items())
    named = [name.strip().lower() for name in headers.get(hdrs.CONNECTION, "").split(",")]
    for name in {*names, *named} - {""}:
        kept.popall(name, None)
    return kept


def _cors(headers: Mapping[str, str]) -> frozenset[str]:
    """Name the headers by which the other side lets web pages in: that is settled here."""
    return frozenset(name.lower() for name in headers if name.lower().startswith("access-control-"))
