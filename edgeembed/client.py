"""How commands on this machine reach the running daemon: its address, and what it says about itself."""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import orjson

from edgeembed.common.status import DaemonStatus
from edgeembed.config.settings import Settings
from edgeembed.errors import EdgeEmbedError

_ANYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses that one can listen on but not, everywhere, connect to."""
_SERVER = "edgeembed/"
"""How the `Server` header of our answers begins."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What came back from an address where something listens."""

    url: str
    status: int
    server: str
    """The `Server` header, or nothing."""
    body: dict[str, Any]
    """Empty when it was no JSON object."""

    @property
    def ours(self) -> bool:
        """Whether it is an edgeembed that answered, of any version."""
        return self.server.startswith(_SERVER)

    @property
    def reason(self) -> str:
        """The message of an error."""
        error = self.body.get("error")
        message = error.get("message") if isinstance(error, dict) else None
        return str(message) if message else "no reason given"


def daemon_url(settings: Settings) -> str:
    """Give the base URL under which this machine reaches a daemon with these settings, without a slash at the end."""
    scheme = "https" if settings.certfile else "http"
    if settings.uds:
        return f"{scheme}+unix://{settings.uds}"
    host = settings.host.strip("[]")
    host = _ANYWHERE.get(host, host)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"


async def ask(settings: Settings, path: str, seconds: float = 5.0, body: dict[str, Any] | None = None) -> Reply | None:
    """Send the daemon of these settings a GET request, or a POST with a body; None when nothing answers within the seconds.

    Proxies do not count: what is asked is the daemon of this user, and its address may be told to nobody else. A key of the
    settings is sent to a daemon that asks for one, not to whatever else may listen there.
    """
    async with connected(settings) as connection:
        return await connection.ask(path, seconds, body)


class Connection:
    """Connections to a daemon that are kept between requests; see `connected`."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession) -> None:
        self._settings = settings
        self._session = session
        self._base = daemon_url(settings)
        self._options: dict[str, Any] = {"ssl": pin} if (pin := _pin(settings)) else {}
        self._authorization: dict[str, str] = {}

    async def ask(self, path: str, seconds: float = 5.0, body: dict[str, Any] | None = None) -> Reply | None:
        """Do what the function `ask` does."""
        url = self._base + path
        nobody = Reply(url=url, status=0, server="", body={})
        options = self._options | ({"method": "GET"} if body is None else {"method": "POST", "json": body})
        options |= {"headers": self._authorization, "timeout": aiohttp.ClientTimeout(total=seconds)}
        try:
            to = f"{url.partition('+')[0]}://localhost{path}" if self._settings.uds else url
            reply = await _send(self._session, to, url, options)
            if reply.status == 401 and reply.ours and not self._authorization and (key := _key(self._settings)):
                self._authorization = {"Authorization": f"Bearer {key}"}
                reply = await _send(self._session, to, url, options | {"headers": self._authorization})
            return reply
        except aiohttp.ServerFingerprintMismatch:
            return nobody
        # The latter three are of an address that is none, or none on this system.
        except (aiohttp.ClientConnectionError, TimeoutError, aiohttp.InvalidURL, UnicodeError, NotImplementedError):
            self._authorization = {}  # another program may listen there next
            return None
        except aiohttp.ClientError:  # it speaks, but not HTTP
            return nobody


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Connection]:
    """Keep connections to the daemon of these settings, for many requests; any number of them at once."""
    connector = aiohttp.UnixConnector(path=settings.uds) if settings.uds else aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Connection(settings, session)


async def _send(session: aiohttp.ClientSession, to: str, url: str, options: dict[str, Any]) -> Reply:
    async with session.request(url=to, allow_redirects=False, **options) as response:
        try:
            body = await response.json(loads=orjson.loads)
        except (aiohttp.ContentTypeError, ValueError):
            body = None
        return Reply(
            url=url,
            status=response.status,
            server=response.headers.get("Server", ""),
            body=body if isinstance(body, dict) else {},
        )


def _key(settings: Settings) -> str | None:
    """Give a key that the daemon takes: the setting's, or the first in the file."""
    if settings.api_key or not settings.api_key_file:
        return settings.api_key
    try:
        lines = Path(settings.api_key_file).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None  # the daemon may run as another user; it then says that it wants a key
    first = next((line.strip() for line in lines if line.strip() and not line.strip().startswith("#")), "")
    return first.partition(":")[2].strip() or first


def _pin(settings: Settings) -> aiohttp.Fingerprint | None:
    """Give the certificate that the daemon shows, whatever name is in it: it need not be one for this machine's own name."""
    if not settings.certfile:
        return None
    try:
        text = Path(settings.certfile).read_text(encoding="ascii", errors="replace")
        if found := re.search(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", text, re.DOTALL):
            return aiohttp.Fingerprint(hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[0])).digest())
    except (OSError, ValueError):
        pass  # the daemon may run as another user; the certificate is then checked as any other
    return None


def ask_status(settings: Settings, seconds: float = 5.0) -> Reply | None:
    """Ask the daemon for GET /v1/status; None when nothing answers.

    Raises EdgeEmbedError when what answers is another program, or does not tell its status.
    """
    reply = asyncio.run(ask(settings, "/v1/status", seconds))
    if reply is None:
        return None
    if not reply.ours:
        raise EdgeEmbedError(f"another program than edgeembed answers at {reply.url}; --port names the daemon's port")
    if reply.status != 200:
        raise EdgeEmbedError(f"the daemon at {reply.url} answers with status {reply.status}: {reply.reason}")
    return reply


def read_status(reply: Reply) -> DaemonStatus:
    """Understand an answer of `ask_status`. Raises EdgeEmbedError for that of another version, whose form differs."""
    try:
        return msgspec.convert(reply.body, DaemonStatus)
    except msgspec.ValidationError as error:
        raise EdgeEmbedError(
            f"the daemon at {reply.url} is {reply.server}, whose status this version cannot read ({error}); restart it"
        ) from error
