"""How commands on this machine reach the running daemon: its address, its status, and requests to it."""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec
import orjson

from edgeembed import errors
from edgeembed.common.answers import read_body
from edgeembed.common.status import DaemonStatus, Health
from edgeembed.config.secrets import read_key_file
from edgeembed.config.settings import Settings
from edgeembed.errors import (
    ConfigError,
    DaemonGoneError,
    EdgeEmbedError,
    EngineError,
    EngineTimeoutError,
    EngineUnavailableError,
    InputTooLongError,
    OverloadedError,
    RequestError,
    RequestTooLargeError,
)

StructT = TypeVar("StructT", bound=msgspec.Struct)

_ANYWHERE = {"": "127.0.0.1", "localhost": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""Names and addresses to listen on that stand for several, or that not every system can connect to, and what to connect to
instead."""
MOST_BYTES = 16 * 2**20
"""Of an answer to a GET request; another program may be listening there."""
MOST_ROWS_BYTES = 512 * 2**20
"""Of an answer with vectors."""
REQUEST_SECONDS = 900.0
"""For an answer to a request of texts: longer than a daemon's own timeout."""
RETRY_SECONDS = 1.0
"""After an error of the daemon that may be temporary."""
_RUNNING_SECONDS = 5.0
_GONE = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)
"""Nothing answers, or what did ended in the middle of its answer."""
_NO_ADDRESS = (aiohttp.InvalidURL, UnicodeError, NotImplementedError)
"""It is invalid, or not supported on this system."""
_SERVER = "edgeembed/"
"""How the `Server` header of edgeembed's responses begins."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A response from an address where something listens."""

    url: str
    status: int
    server: str
    """The `Server` header; empty if there is none."""
    body: dict[str, Any]
    """Empty if it was not a JSON object."""
    digest: str = ""
    """SHA-256 of the model file that computed what is in it; empty if there is none."""

    @property
    def ours(self) -> bool:
        """Whether an edgeembed, of any version, answered."""
        return self.server.startswith(_SERVER)

    @property
    def reason(self) -> str:
        """The message of an error response."""
        match self.body.get("error"):
            case {"message": str(message)} if message:
                return message
        return "no reason given"


def daemon_url(settings: Settings) -> str:
    """Return the base URL at which this machine reaches a daemon with these settings, without a trailing slash."""
    scheme = "https" if settings.certfile else "http"
    if settings.uds:
        return f"{scheme}+unix://{settings.uds}"
    host = settings.host.strip("[]")
    host = _ANYWHERE.get(host, host)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"


async def ask(settings: Settings, path: str, seconds: float = 5.0, body: dict[str, Any] | None = None) -> Reply | None:
    """Send a GET request to the daemon, or a POST with a body; return None if nothing answers in time.

    Proxies from the environment are not used. The API key of the settings is sent only to an edgeembed that requires one,
    not to another program that listens there.
    """
    async with connected(settings) as connection:
        return await connection.ask(path, seconds, body)


class Connection:
    """Connections to a daemon that stay open between requests; see `connected`."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession) -> None:
        self._settings = settings
        self._session = session
        self._base = daemon_url(settings)
        self._options: dict[str, Any] = {"ssl": pin} if (pin := _pin(settings)) else {}
        self._authorization: dict[str, str] = {}

    async def ask(self, path: str, seconds: float = 5.0, body: dict[str, Any] | None = None) -> Reply | None:
        """Send a request; see the function `ask`."""
        url = self._base + path
        stranger = Reply(url=url, status=0, server="", body={})
        options = self._options | ({"method": "GET"} if body is None else {"method": "POST", "json": body})
        options |= {"headers": self._authorization, "timeout": aiohttp.ClientTimeout(total=seconds)}
        try:
            to = f"{url.partition('+')[0]}://localhost{path}" if self._settings.uds else url
            reply = await _send(self._session, to, url, options)
            if reply.status == 401 and reply.ours and not options["headers"] and (key := key_for(self._settings)):
                self._authorization = {"Authorization": f"Bearer {key}"}
                reply = await _send(self._session, to, url, options | {"headers": self._authorization})
            return reply
        except aiohttp.ServerFingerprintMismatch:
            return stranger
        except (*_GONE, *_NO_ADDRESS):
            self._authorization = {}  # another program may be listening there next
            return None
        except aiohttp.ClientError:  # it does not speak HTTP
            return stranger

    @property
    def url(self) -> str:
        """The daemon's base URL."""
        return self._base

    async def is_running(self) -> bool:
        """Return whether an edgeembed answers."""
        reply = await self.ask("/livez", _RUNNING_SECONDS)
        return reply is not None and reply.ours

    async def post(self, path: str, body: dict[str, Any]) -> Reply:
        """Send a POST request and return the answer. Raises EdgeEmbedError; DaemonGoneError if there is none."""
        reply = await self.ask(path, REQUEST_SECONDS, body)
        if reply is None:
            raise DaemonGoneError("the daemon no longer answers", retry_after=RETRY_SECONDS)
        return checked(reply)


def checked(reply: Reply) -> Reply:
    """Return a reply. Raises the EdgeEmbedError that it reports."""
    if reply.status == 200:
        return reply
    found = reply.body.get("error")
    error: dict[str, Any] = found if isinstance(found, dict) else {}
    message, param = str(error.get("message") or f"the daemon answered with status {reply.status}"), error.get("param")
    raise error_of(reply.status, message, param if isinstance(param, str) else None, str(error.get("code")))


def error_of(status: int, message: str, param: str | None, code: str | None = None) -> EdgeEmbedError:
    """Return the error that another process reported with this HTTP status and code."""
    if code == InputTooLongError.code:
        return InputTooLongError(message, tokens=0, limit=0, param=param)
    kind = _BY_CODE.get(code) if code else None
    if kind is None:
        kind = _kind_of(status)
    return kind(message, param=param, retry_after=RETRY_SECONDS)


def _kind_of(status: int) -> type[EdgeEmbedError]:
    match status:
        case 413:
            return RequestTooLargeError
        case 429:
            return OverloadedError
        case 502 | 503:
            return EngineUnavailableError
        case 504:
            return EngineTimeoutError
        case _:
            return RequestError if 400 <= status < 500 else EngineError


_BY_CODE: dict[str, type[EdgeEmbedError]] = {
    kind.code: kind for name in errors.__all__ if (kind := getattr(errors, name)).code is not None
}


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Connection]:
    """Keep connections to the daemon open, for many requests, also at the same time."""
    connector = aiohttp.UnixConnector(path=settings.uds) if settings.uds else aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Connection(settings, session)


async def _send(session: aiohttp.ClientSession, to: str, url: str, options: dict[str, Any]) -> Reply:
    async with session.request(url=to, allow_redirects=False, **options) as response:
        raw = await read_body(response, MOST_BYTES if options["method"] == "GET" else MOST_ROWS_BYTES)
        try:
            body = orjson.loads(raw)
        except ValueError:
            body = None
        return Reply(
            url=url,
            status=response.status,
            server=response.headers.get("Server", ""),
            body=body if isinstance(body, dict) else {},
            digest=response.headers.get("X-Edgeembed-Digest", ""),
        )


def key_for(settings: Settings) -> str | None:
    """Return an API key for the daemon: the setting, or the first key in the file."""
    if settings.api_key or not settings.api_key_file:
        return settings.api_key
    try:
        return read_key_file(settings.api_key_file)[0][1]
    except ConfigError:
        return None  # the daemon may run as another user; its 401 tells the reason


def _pin(settings: Settings) -> aiohttp.Fingerprint | None:
    """Return the fingerprint of the daemon's own certificate, which need not be valid for the name used here."""
    if not settings.certfile:
        return None
    try:
        text = Path(settings.certfile).read_text(encoding="ascii", errors="replace")
        if found := re.search(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", text, re.DOTALL):
            return aiohttp.Fingerprint(hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[0])).digest())
    except (OSError, ValueError):
        pass  # the daemon may run as another user; the certificate is then checked like any other
    return None


def ask_status(settings: Settings, seconds: float = 5.0) -> Reply | None:
    """Return the daemon's reply to GET /v1/status; None if nothing answers.

    Raises EdgeEmbedError if another program answers, or the daemon answers with an error.
    """
    reply = asyncio.run(ask(settings, "/v1/status", seconds))
    if reply is None:
        return None
    if not reply.ours:
        raise EdgeEmbedError(f"a program other than edgeembed answers at {reply.url}; set the daemon's port with --port")
    if reply.status != 200:
        raise EdgeEmbedError(f"the daemon at {reply.url} answers with status {reply.status}: {reply.reason}")
    return reply


def read_status(reply: Reply) -> DaemonStatus:
    """Decode a reply to GET /v1/status. Raises EdgeEmbedError if the daemon's version has a different format."""
    return _read(reply, DaemonStatus, "status")


def read_health(reply: Reply) -> Health:
    """Decode a reply to GET /health. Raises EdgeEmbedError if the daemon's version has a different format."""
    return _read(reply, Health, "health")


def _read(reply: Reply, kind: type[StructT], what: str) -> StructT:
    try:
        return msgspec.convert(reply.body, kind)
    except msgspec.ValidationError as error:
        raise EdgeEmbedError(
            f"the daemon at {reply.url} is {reply.server}, whose {what} this version cannot read ({error}); "
            "restart the daemon"
        ) from error
